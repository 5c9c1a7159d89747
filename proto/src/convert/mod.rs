//! Between the wire and the model. Out is total (`From`); in is checked and names the field.

mod balance;
mod fleet;
mod hold;
mod operation;
mod rebalance;
mod report;
mod time;

pub use self::{
    hold::hold_target,
    report::identity,
    time::{duration_seconds, from_duration, timestamp, to_duration},
};

/// A field of a received message that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {path} {why}")]
pub struct InvalidField {
    /// Which field.
    pub path: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl InvalidField {
    fn missing(path: &'static str) -> Self {
        Self {
            path,
            why: "is missing".to_owned(),
        }
    }

    fn invalid(path: &'static str, why: impl std::fmt::Display) -> Self {
        Self {
            path,
            why: format!("is invalid: {why}"),
        }
    }
}

/// Parses a text field.
fn parse<T>(path: &'static str, text: &str) -> Result<T, InvalidField>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse()
        .map_err(|error| InvalidField::invalid(path, error))
}

/// Parses a text field that is empty when there is nothing to say.
fn parse_optional<T>(path: &'static str, text: &str) -> Result<Option<T>, InvalidField>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    if text.is_empty() {
        Ok(None)
    } else {
        parse(path, text).map(Some)
    }
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
