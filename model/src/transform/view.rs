//! What an expression sees of a message: only the fields that it names, so that a large payload
//! costs no more than what is asked of it, and never more than a bound.

use std::{cell::Cell, collections::HashMap, fmt, sync::Arc};

use cel::{Value, objects::Key};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::branch::Branch;

/// Everything within is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct All;

/// How much an expression may still read of one message.
#[derive(Debug)]
pub(super) struct Budget {
    values: Cell<usize>,
    bytes: Cell<usize>,
}

impl Budget {
    pub(super) fn new(values: usize, bytes: usize) -> Self {
        Self {
            values: Cell::new(values),
            bytes: Cell::new(bytes),
        }
    }

    fn spend<E: serde::de::Error>(&self, bytes: usize) -> Result<(), E> {
        let values = self.values.get().checked_sub(1);
        let bytes = self.bytes.get().checked_sub(bytes);
        let (Some(values), Some(bytes)) = (values, bytes) else {
            return Err(E::custom("it is more than an expression may read"));
        };
        self.values.set(values);
        self.bytes.set(bytes);
        Ok(())
    }
}

/// The wanted part of a JSON text.
pub(super) fn read(text: &str, wanted: &Branch<All>, budget: &Budget) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let seed = View { wanted, budget };
    seed.deserialize(&mut reader).map_err(|error| {
        // Where in the text it is helps nobody: a message has one line.
        let error = error.to_string();
        let problem = error
            .split_once(" at line ")
            .map_or(error.as_str(), |(problem, _)| problem);
        problem.to_owned()
    })
}

#[derive(Clone, Copy)]
struct View<'a> {
    wanted: &'a Branch<All>,
    budget: &'a Budget,
}

impl View<'_> {
    /// The same with everything that is within.
    fn is_whole(self) -> bool {
        self.wanted.here.is_some()
    }
}

impl<'de> DeserializeSeed<'de> for View<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for View<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(Value::Int(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(i64::try_from(value).map_or(Value::UInt(value), Value::Int))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(Value::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.budget.spend(value.len())?;
        Ok(Value::String(Arc::new(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        self.budget.spend(0)?;
        // Elements are wanted all or none: expressions choose among them as they run.
        let mut list = Vec::new();
        let whole = Branch {
            here: Some(All),
            ..Branch::default()
        };
        let element = View {
            wanted: &whole,
            ..self
        };
        while let Some(value) = elements.next_element_seed(element)? {
            list.push(value);
        }
        Ok(Value::List(Arc::new(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        self.budget.spend(0)?;
        let mut map = HashMap::new();
        while let Some(name) = members.next_key::<String>()? {
            let wanted = if self.is_whole() {
                Some(self.wanted)
            } else {
                self.wanted.names.get(&name)
            };
            let Some(wanted) = wanted else {
                members.next_value::<IgnoredAny>()?;
                continue;
            };
            self.budget.spend(name.len())?;
            let within = View { wanted, ..self };
            let value = members
                .next_value_seed(within)
                .map_err(|error| A::Error::custom(error.to_string()))?;
            map.insert(Key::from(name), value);
        }
        Ok(Value::Map(cel::objects::Map { map: Arc::new(map) }))
    }
}
