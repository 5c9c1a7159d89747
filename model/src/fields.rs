//! Reads a JSON object key by key, so that each mistake is named: which key, what was expected,
//! what stood there, and which key was probably meant.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{SpecError, closest::closest};

/// The keys of one object that nobody has read yet, and the names that were asked for.
pub(crate) struct Fields {
    rest: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    pub(crate) fn new(object: Map<String, Value>) -> Self {
        Self {
            rest: object,
            known: Vec::new(),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.rest.remove(key).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Result<Option<String>, SpecError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => {
                Err(SpecError::new(key, "must not be empty"))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(key, "a string", &other)),
        }
    }

    pub(crate) fn required_text(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Result<String, SpecError> {
        self.text(key)?.ok_or_else(|| {
            SpecError::new(key, "is missing").hint(format!("for example \"{key}\": \"{example}\""))
        })
    }

    pub(crate) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, SpecError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong_type(key, "true or false", &other)),
        }
    }

    pub(crate) fn number(
        &mut self,
        key: &'static str,
        min: u64,
        max: u64,
    ) -> Result<Option<u64>, SpecError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(number)) => match number.as_u64() {
                Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
                _ => Err(SpecError::new(
                    key,
                    format!("is {number}, not a whole number from {min} to {max}"),
                )),
            },
            Some(other) => Err(wrong_type(
                key,
                &format!("a whole number from {min} to {max}"),
                &other,
            )),
        }
    }

    pub(crate) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, SpecError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        choices
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, value)| Some(*value))
            .ok_or_else(|| {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                SpecError::new(key, format!("is {text:?}"))
                    .hint(format!("one of: {}", names.join(", ")))
            })
    }

    /// The keys of an object within.
    pub(crate) fn object(&mut self, key: &'static str) -> Result<Option<Self>, SpecError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Self::new(object))),
            Some(other) => Err(wrong_type(key, "an object", &other)),
        }
    }

    /// The first of these keys that is there. Knows them from then on.
    pub(crate) fn present(&mut self, keys: &[&'static str]) -> Option<&'static str> {
        self.known.extend(keys);
        let present = |key: &&&str| self.rest.get(**key).is_some_and(|value| !value.is_null());
        keys.iter().find(present).copied()
    }

    pub(crate) fn text_map(
        &mut self,
        key: &'static str,
    ) -> Result<BTreeMap<String, String>, SpecError> {
        let entries = match self.take(key) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(entries)) => entries,
            Some(other) => return Err(wrong_type(key, "an object of strings", &other)),
        };
        entries
            .into_iter()
            .map(|(name, value)| match value {
                Value::String(text) => Ok((name, text)),
                Value::Bool(_) | Value::Number(_) => Ok((name, value.to_string())),
                other => Err(wrong_type(&format!("{key}.{name}"), "a string", &other)),
            })
            .collect()
    }

    pub(crate) fn text_list(&mut self, key: &'static str) -> Result<Vec<String>, SpecError> {
        let expected = "an array of strings";
        let entries = match self.take(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(entries)) => entries,
            Some(other) => return Err(wrong_type(key, expected, &other)),
        };
        entries
            .into_iter()
            .enumerate()
            .map(|(index, entry)| match entry {
                Value::String(text) if text.is_empty() => Err(SpecError::new(
                    format!("{key}[{index}]"),
                    "must not be empty",
                )),
                Value::String(text) => Ok(text),
                other => Err(wrong_type(&format!("{key}[{index}]"), "a string", &other)),
            })
            .collect()
    }

    /// An array of anything.
    pub(crate) fn list(&mut self, key: &'static str) -> Result<Vec<Value>, SpecError> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(entries)) => Ok(entries),
            Some(other) => Err(wrong_type(key, "an array", &other)),
        }
    }

    /// Refuses what is left: a mistyped key that is silently ignored is the worst kind.
    pub(crate) fn finish(self) -> Result<(), SpecError> {
        let Some(unknown) = self.rest.keys().next() else {
            return Ok(());
        };
        let error = SpecError::new(unknown, "is not a known key");
        Err(match closest(unknown, &self.known) {
            Some(meant) => error.hint(format!("did you mean \"{meant}\"?")),
            None => error.hint(format!("known keys: {}", self.known.join(", "))),
        })
    }
}

fn wrong_type(key: &str, expected: &str, found: &Value) -> SpecError {
    let kind = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    SpecError::new(key, format!("is {kind}, expected {expected}"))
}
