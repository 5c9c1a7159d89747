//! One condition of a filter.

use time::OffsetDateTime;

use super::{
    Fields, Glob,
    fields::{Field, Read, Value, known, named},
};
use crate::{args::duration, error::CliError};

/// A field, and what it has to be.
#[derive(Debug)]
pub(super) struct Condition<T: 'static> {
    field: &'static Field<T>,
    wanted: Wanted,
}

#[derive(Debug)]
enum Wanted {
    Is(String),
    IsNot(String),
    Like(Glob),
    Count(Relation, i64),
    Seconds(Relation, f64),
    Flag(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
    Like,
}

/// The longer ones first, as they begin with others.
const RELATIONS: [(&str, Relation); 7] = [
    ("!=", Relation::Unequal),
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("=", Relation::Equal),
    ("<", Relation::Less),
    (">", Relation::More),
    ("~", Relation::Like),
];

/// What is shown, and therefore typed, where there is nothing.
const NOTHING: &str = "-";

impl<T: Fields> Condition<T> {
    pub(super) fn parse(text: &str) -> Result<Self, CliError> {
        let Some((name, relation, value)) = split(text) else {
            return Err(CliError::usage(
                format!("--filter: {:?} is no condition", text.trim()),
                format!(
                    "write FIELD=VALUE, or with !=, <, <=, >, >= or ~ (a pattern), and commas between several; \
                     the fields are {}",
                    known::<T>()
                ),
            ));
        };
        let field = named::<T>(name, "--filter")?;
        let wanted = wanted(&field.read, relation, value).map_err(|hint| {
            CliError::usage(format!("--filter: {} cannot be", text.trim()), hint)
        })?;
        Ok(Self { field, wanted })
    }

    pub(super) fn holds(&self, row: &T, now: OffsetDateTime) -> bool {
        let value = self.field.value(row, now);
        match &self.wanted {
            Wanted::Is(text) => is(&value, text),
            Wanted::IsNot(text) => !is(&value, text),
            Wanted::Like(glob) => match value {
                Value::Name(have) | Value::Word(have) => glob.matches(have),
                Value::Texts(all) => all.iter().any(|have| glob.matches(have)),
                _ => glob.matches(NOTHING),
            },
            Wanted::Count(relation, wanted) => match value {
                Value::Count(have) => relation.holds(have.cmp(wanted)),
                _ => *relation == Relation::Unequal,
            },
            Wanted::Seconds(relation, wanted) => match value {
                Value::Seconds(have) => relation.holds(have.total_cmp(wanted)),
                _ => *relation == Relation::Unequal,
            },
            Wanted::Flag(wanted) => matches!(value, Value::Flag(have) if have == *wanted),
        }
    }
}

fn is(value: &Value<'_>, text: &str) -> bool {
    match value {
        Value::Name(have) => *have == text,
        Value::Word(have) => have.eq_ignore_ascii_case(text),
        Value::Texts(all) => all.iter().any(|have| have == text),
        _ => text == NOTHING,
    }
}

fn split(text: &str) -> Option<(&str, Relation, &str)> {
    let at = text.find(['!', '=', '<', '>', '~'])?;
    let (name, rest) = text.split_at(at);
    let mut relations = RELATIONS.into_iter();
    let (sign, relation) = relations.find(|(sign, _)| rest.starts_with(sign))?;
    let (name, value) = (name.trim(), rest[sign.len()..].trim());
    (!name.is_empty() && !value.is_empty()).then_some((name, relation, value))
}

/// What a field of this kind may be compared with; or what to write instead.
fn wanted<T>(read: &Read<T>, relation: Relation, value: &str) -> Result<Wanted, String> {
    match read {
        Read::Name(_) | Read::Word(_) | Read::Texts(_) => match relation {
            Relation::Equal => Ok(Wanted::Is(value.to_owned())),
            Relation::Unequal => Ok(Wanted::IsNot(value.to_owned())),
            Relation::Like => Ok(Wanted::Like(Glob::new(value))),
            _ => Err("it is a text: compare it with =, != or ~".to_owned()),
        },
        Read::Count(_) => match (relation, value.parse()) {
            (Relation::Like, _) => {
                Err("it is a number: compare it with =, !=, <, <=, > or >=".to_owned())
            }
            (relation, Ok(number)) => Ok(Wanted::Count(relation, number)),
            (_, Err(_)) => Err("it is a number: compare it with one".to_owned()),
        },
        Read::Seconds(_) | Read::Ago(_) => match (relation, duration::parse(value)) {
            (Relation::Like, _) => {
                Err("it is a duration: compare it with =, !=, <, <=, > or >=".to_owned())
            }
            (relation, Ok(span)) => Ok(Wanted::Seconds(relation, span.as_secs_f64())),
            (_, Err(error)) => Err(format!("it is a duration: {error}")),
        },
        Read::Flag(_) => {
            let yes = match value {
                "yes" | "true" => true,
                "no" | "false" => false,
                _ => return Err("it is yes or no".to_owned()),
            };
            match relation {
                Relation::Equal => Ok(Wanted::Flag(yes)),
                Relation::Unequal => Ok(Wanted::Flag(!yes)),
                _ => Err("it is yes or no: compare it with = or !=".to_owned()),
            }
        }
    }
}

impl Relation {
    fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::Unequal => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::AtMost => ordering.is_le(),
            Self::More => ordering.is_gt(),
            Self::AtLeast => ordering.is_ge(),
            // Only texts are compared with patterns.
            Self::Like => false,
        }
    }
}
