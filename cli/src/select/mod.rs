//! Which rows of a list are shown, and in which order: `--filter` and `--sort`. Pure, and done here,
//! so that both sources are asked alike.
//!
//! ```text
//! filter    = condition *( "," condition )      all of them hold
//! condition = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" ) value
//! sort      = field [ ":" ( "asc" | "desc" ) ]
//! ```
//!
//! What a row does not have reads as `-`, as on the screen.

mod condition;
mod fields;
mod glob;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use time::OffsetDateTime;

use self::{
    condition::Condition,
    fields::{Field, Value},
};
pub(crate) use self::{fields::Fields, glob::Glob};
use crate::{args::SelectArgs, error::CliError};

/// What was asked for, understood.
#[derive(Debug)]
pub(crate) struct Selection<T: 'static> {
    conditions: Vec<Condition<T>>,
    order: Option<(&'static Field<T>, Direction)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ascending,
    Descending,
}

impl<T: Fields> Selection<T> {
    /// Understands it, or says what there is to choose from.
    pub(crate) fn parse(args: &SelectArgs) -> Result<Self, CliError> {
        let conditions = match &args.filter {
            Some(filter) => filter
                .split(',')
                .map(Condition::parse)
                .collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let order = args.sort.as_deref().map(order).transpose()?;
        Ok(Self { conditions, order })
    }

    /// Leaves what was asked for, in the order that was asked for. `now` is the reader's clock.
    pub(crate) fn apply(&self, rows: &mut Vec<T>, now: OffsetDateTime) {
        rows.retain(|row| self.conditions.iter().all(|one| one.holds(row, now)));
        if let Some((field, direction)) = self.order {
            rows.sort_by(|a, b| ordered(&field.value(a, now), &field.value(b, now), direction));
        }
    }
}

fn order<T: Fields>(text: &str) -> Result<(&'static Field<T>, Direction), CliError> {
    let (name, direction) = match text.split_once(':') {
        None => (text, Direction::Ascending),
        Some((name, "asc")) => (name, Direction::Ascending),
        Some((name, "desc")) => (name, Direction::Descending),
        Some((name, other)) => {
            return Err(CliError::usage(
                format!("--sort {text}: {other:?} is no direction"),
                format!("write --sort {name} or --sort {name}:desc"),
            ));
        }
    };
    Ok((fields::named(name.trim(), "--sort")?, direction))
}

/// What is not known comes last, whatever the direction.
fn ordered(a: &Value<'_>, b: &Value<'_>, direction: Direction) -> Ordering {
    match (a, b) {
        (Value::Nothing, Value::Nothing) => Ordering::Equal,
        (Value::Nothing, _) => Ordering::Greater,
        (_, Value::Nothing) => Ordering::Less,
        (a, b) => match direction {
            Direction::Ascending => a.compare(b),
            Direction::Descending => b.compare(a),
        },
    }
}
