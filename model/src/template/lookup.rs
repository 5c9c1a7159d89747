//! Finds one value in JSON text, without a tree: what is not on the way is skipped unread.

use std::{borrow::Cow, fmt};

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Step;

/// What was found is an object or an array.
#[derive(Debug)]
pub(super) struct NoScalar;

/// The text of a value; none if there is none, or null. Numbers are as they are written.
pub(super) fn scalar<'t>(json: &'t str, steps: &[Step]) -> Result<Option<Cow<'t, str>>, NoScalar> {
    let Some(json) = value(json, steps) else {
        return Ok(None);
    };
    match json.as_bytes().first() {
        Some(b'{' | b'[') => Err(NoScalar),
        Some(b'"') => Ok(serde_json::from_str(json).ok().map(Cow::Owned)),
        Some(b'n') | None => Ok(None),
        Some(_) => Ok(Some(Cow::Borrowed(json))),
    }
}

/// The text of a value, as it is written; none if there is none.
pub(crate) fn value<'t>(json: &'t str, steps: &[Step]) -> Option<&'t str> {
    steps.iter().try_fold(json.trim_ascii(), |json, step| {
        Some(inner(json, step)?.get().trim_ascii())
    })
}

fn inner<'t>(json: &'t str, step: &Step) -> Option<&'t RawValue> {
    let mut reader = serde_json::Deserializer::from_str(json);
    match (step, json.as_bytes().first()) {
        (Step::Name(name), Some(b'{')) => reader.deserialize_map(Member(name)).ok()?,
        (Step::Index(index), Some(b'[')) => reader.deserialize_seq(Element(*index)).ok()?,
        _ => None,
    }
}

struct Member<'n>(&'n str);

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

struct Element(usize);

impl<'de> Visitor<'de> for Element {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        for _ in 0..self.0 {
            if elements.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = elements.next_element()?;
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}
