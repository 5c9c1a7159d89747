//! Texts that a message fills in: `orders.{{ headers.tenant }}.{{ payload.type | default('other') }}`.
//!
//! Between the braces stands a field, `key`, `event_id`, `outbox`, `headers.NAME` or
//! `payload.PATH`, with steps like `.name`, `["any name"]` and `[0]`; and after it, if need be,
//! `| default('TEXT')` for messages that do not have it, and `| levels` if its value may be more
//! than one level of the destination. A template is compiled when the pipeline is; filling it in
//! reads the payload only as far as it is asked for.

pub(crate) mod lookup;
mod parse;

use std::{borrow::Cow, fmt};

use crate::format::Event;

/// A compiled text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Field(Field),
}

/// What stands between the braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    /// As it was written.
    text: String,
    root: Root,
    steps: Vec<Step>,
    default: Option<String>,
    /// Whether its value may be several levels.
    pub(crate) levels: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Key,
    EventId,
    Outbox,
    Headers,
    Payload,
}

/// From a JSON value to one within.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Name(String),
    Index(usize),
}

/// Why a message cannot fill in a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unfilled {
    /// The field, which the message does not have.
    Missing(String),
    /// The field, which is an object or an array.
    NoScalar(String),
    /// The field, and what is wrong with its value.
    Unfit(String, String),
}

impl fmt::Display for Unfilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(field) => write!(
                f,
                "{field} is missing; {{{{ {field} | default('TEXT') }}}} would be for messages without it"
            ),
            Self::NoScalar(field) => {
                write!(f, "{field} is an object or an array, which is no name")
            }
            Self::Unfit(field, problem) => write!(f, "{field} {problem}"),
        }
    }
}

impl Template {
    /// Compiles a text; none if it has no braces to fill in. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let parts = parse::parts(text)?;
        let fills = parts.iter().any(|part| matches!(part, Part::Field(_)));
        Ok(fills.then_some(Self { parts }))
    }

    /// What stands before the first field.
    pub(crate) fn beginning(&self) -> &str {
        match self.parts.first() {
            Some(Part::Literal(text)) => text,
            _ => "",
        }
    }

    /// What the owner wrote around the fields.
    pub(crate) fn literals(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(text) => Some(text.as_str()),
            Part::Field(_) => None,
        })
    }

    /// The text with every brace filled in; `fit` makes a value fit for its place, or says what is
    /// wrong with it.
    pub(crate) fn fill(
        &self,
        event: &Event<'_>,
        outbox: &str,
        fit: impl Fn(&Field, &str, &mut String) -> Result<(), String>,
    ) -> Result<String, Unfilled> {
        let mut filled = String::with_capacity(64);
        for part in &self.parts {
            match part {
                Part::Literal(text) => filled.push_str(text),
                Part::Field(field) => {
                    let value = field.value(event, outbox)?;
                    fit(field, &value, &mut filled)
                        .map_err(|problem| Unfilled::Unfit(field.text.clone(), problem))?;
                }
            }
        }
        Ok(filled)
    }
}

impl Field {
    fn value<'e>(&'e self, event: &Event<'e>, outbox: &'e str) -> Result<Cow<'e, str>, Unfilled> {
        let found = match self.root {
            Root::Key => event.key.map(Cow::Borrowed),
            Root::EventId => Some(Cow::Owned(event.event_id.to_string())),
            Root::Outbox => Some(Cow::Borrowed(outbox)),
            Root::Headers => self.within(event.headers)?,
            Root::Payload => self.within(event.payload)?,
        };
        let default = || self.default.as_deref().map(Cow::Borrowed);
        found
            .or_else(default)
            .ok_or_else(|| Unfilled::Missing(self.text.clone()))
    }

    fn within<'e>(&self, json: &'e str) -> Result<Option<Cow<'e, str>>, Unfilled> {
        lookup::scalar(json, &self.steps)
            .map_err(|lookup::NoScalar| Unfilled::NoScalar(self.text.clone()))
    }
}

#[cfg(test)]
mod tests;
