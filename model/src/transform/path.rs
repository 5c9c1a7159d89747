//! The syntax of fields: `payload.customer.email`, `payload.items[*].card`, `headers["any name"]`.

use std::fmt;

use super::branch::Step;

/// Deeper is no field that anybody means.
const DEEPEST: usize = 32;

pub(super) const SYNTAX: &str =
    "a field is headers.NAME or payload.PATH with steps .name, [\"any name\"], [0] and [*]";

/// What a field is within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    Payload,
    Headers,
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Payload => "payload",
            Self::Headers => "headers",
        })
    }
}

/// Reads a field. The error says what is wrong with it.
pub(super) fn parse(text: &str) -> Result<(Root, Vec<Step>), String> {
    let (word, mut rest) = word(text.trim());
    let root = match word {
        "payload" => Root::Payload,
        "headers" => Root::Headers,
        "key" | "event_id" | "outbox" => {
            return Err(format!(
                "{word} cannot be changed: order and identity depend on it"
            ));
        }
        _ => return Err(format!("{text:?} does not begin with payload or headers")),
    };
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (step, after) =
            step(rest).ok_or_else(|| format!("{text:?} is no field from {rest:?} on"))?;
        steps.push(step);
        rest = after;
    }
    if steps.len() > DEEPEST {
        return Err(format!("{text:?} is deeper than {DEEPEST} steps"));
    }
    match (root, steps.first()) {
        (Root::Headers, None) => Err("headers as a whole cannot be changed; name one".to_owned()),
        (Root::Headers, Some(Step::Index(_) | Step::Every)) => {
            Err("headers have names, not numbers".to_owned())
        }
        (Root::Headers, Some(Step::Name(name))) if name.starts_with("tide-") => {
            Err(format!("header {name:?} is Tide's own"))
        }
        _ => Ok((root, steps)),
    }
}

fn step(text: &str) -> Option<(Step, &str)> {
    if let Some(rest) = text.strip_prefix('.') {
        let (name, rest) = word(rest);
        return (!name.is_empty()).then(|| (Step::Name(name.to_owned()), rest));
    }
    let within = text.strip_prefix('[')?;
    if let Some(rest) = within.strip_prefix("*]") {
        return Some((Step::Every, rest));
    }
    if let Some(quote @ ('"' | '\'')) = within.chars().next() {
        let (name, rest) = within[1..].split_once(quote)?;
        return Some((Step::Name(name.to_owned()), rest.strip_prefix(']')?));
    }
    let (number, rest) = within.split_once(']')?;
    Some((Step::Index(number.parse().ok()?), rest))
}

fn word(text: &str) -> (&str, &str) {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()))
}
