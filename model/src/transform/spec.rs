//! Compiles the key `transforms` of a configuration.

use serde_json::{Map, Value};

use crate::{SpecError, fields::Fields};

use super::{
    Assignment, Branch, Change, Expression, Root, Step, Transforms,
    branch::{self, Overlap},
    path,
};

/// More steps than that are a program.
const MOST_STEPS: usize = 50;
const KINDS: [&str; 5] = ["filter", "drop", "rename", "mask", "set"];
const EXAMPLE: &str = r#"for example {"filter": "payload.amount > 100"}; steps are filter, drop, rename, mask and set"#;

impl Transforms {
    /// The steps of a pipeline; none if it has none.
    pub(crate) fn parse(fields: &mut Fields) -> Result<Option<Self>, SpecError> {
        let written = fields.list("transforms")?;
        if written.len() > MOST_STEPS {
            let problem = format!("has {} steps, more than {MOST_STEPS}", written.len());
            return Err(SpecError::new("transforms", problem));
        }
        let steps = written
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let place = format!("transforms[{index}]");
                match value {
                    Value::Object(object) => {
                        one_kind(object).map_err(|error| error.within(&place))?;
                        step(Fields::new(object.clone())).map_err(|error| error.within(&place))
                    }
                    _ => Err(SpecError::new(place, "is no object").hint(EXAMPLE)),
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok((!steps.is_empty()).then_some(Self { steps, written }))
    }
}

fn one_kind(object: &Map<String, Value>) -> Result<(), SpecError> {
    let mut kinds = KINDS.iter().filter(|kind| object.contains_key(**kind));
    match (kinds.next(), kinds.next()) {
        (Some(first), Some(second)) => {
            Err(SpecError::new(*second, format!("stands beside {first:?}"))
                .hint("a step does one thing: make two steps of it"))
        }
        _ => Ok(()),
    }
}

fn step(mut fields: Fields) -> Result<Step, SpecError> {
    let step = match fields.present(&KINDS) {
        Some("filter") => {
            let text = fields.required_text("filter", "payload.amount > 100")?;
            let condition =
                Expression::parse(&text).map_err(|problem| SpecError::new("filter", problem))?;
            Step::Filter(condition)
        }
        Some("drop") => {
            let places = fields.text_list("drop")?;
            changes(
                "drop",
                places.into_iter().map(|place| (place, Change::Drop)),
            )?
        }
        Some("rename") => rename(&mut fields)?,
        Some("mask") => {
            let places = fields.text_list("mask")?;
            let keep_last = fields.number("keep_last", 0, 100)?.unwrap_or(0) as usize;
            let masked = |place| (place, Change::Mask { keep_last });
            changes("mask", places.into_iter().map(masked))?
        }
        Some("set") => set(&mut fields)?,
        _ => {
            // A mistyped kind is named before a missing one.
            fields.finish()?;
            return Err(
                SpecError::new("filter", "or another kind of step is missing").hint(EXAMPLE),
            );
        }
    };
    fields.finish()?;
    Ok(step)
}

fn changes(
    name: &'static str,
    changes: impl Iterator<Item = (String, Change)>,
) -> Result<Step, SpecError> {
    let mut payload = Branch::default();
    let mut headers = Branch::default();
    for (place, change) in changes {
        let (root, steps) = place_of(name, &place)?;
        if steps.is_empty() {
            return Err(SpecError::new(name, format!("has {place:?} as a whole"))
                .hint("name a field within"));
        }
        let branch = if root == Root::Payload {
            &mut payload
        } else {
            &mut headers
        };
        branch
            .add(&steps, change)
            .map_err(|Overlap| overlap(name, &place))?;
    }
    if payload.is_empty() && headers.is_empty() {
        return Err(SpecError::new(name, "has no fields").hint(path::SYNTAX));
    }
    Ok(Step::Change {
        name,
        payload,
        headers,
    })
}

fn rename(fields: &mut Fields) -> Result<Step, SpecError> {
    const KEY: &str = "rename";
    let names = fields.text_map(KEY)?;
    let mut siblings: Vec<(String, String)> = Vec::new();
    for (place, new_name) in &names {
        let (root, steps) = place_of(KEY, place)?;
        let Some((branch::Step::Name(old_name), outer)) = steps.split_last() else {
            return Err(SpecError::new(
                KEY,
                format!("has {place:?}, which has no name"),
            ));
        };
        if new_name.is_empty() {
            return Err(SpecError::new(
                KEY,
                format!("has no new name for {place:?}"),
            ));
        }
        if root == Root::Headers && outer.is_empty() && new_name.starts_with("tide-") {
            return Err(SpecError::new(
                KEY,
                format!("has {new_name:?}, which is Tide's own"),
            ));
        }
        if old_name == new_name {
            return Err(SpecError::new(
                KEY,
                format!("has the name of {place:?} already"),
            ));
        }
        // Whose turn is first would decide, and the order of members is nobody's choice.
        let object = format!("{root}{outer:?}");
        for name in [old_name, new_name] {
            let sibling = (object.clone(), name.clone());
            if siblings.contains(&sibling) {
                return Err(
                    SpecError::new(KEY, format!("has {name:?} twice in one object"))
                        .hint("names that others leave or take are for a step of their own"),
                );
            }
            siblings.push(sibling);
        }
    }
    let renamed = |(place, new_name)| (place, Change::Rename(new_name));
    changes(KEY, names.into_iter().map(renamed))
}

fn set(fields: &mut Fields) -> Result<Step, SpecError> {
    const KEY: &str = "set";
    let mut apart = [Branch::default(), Branch::default()];
    let mut assignments = Vec::new();
    for (field, text) in fields.text_map(KEY)? {
        let (root, steps) = place_of(KEY, &field)?;
        apart[usize::from(root == Root::Headers)]
            .add(&steps, ())
            .map_err(|Overlap| overlap(KEY, &field))?;
        let names = steps
            .into_iter()
            .map(|step| match step {
                branch::Step::Name(name) => Ok(name),
                branch::Step::Index(_) | branch::Step::Every => Err(SpecError::new(
                    KEY,
                    format!("has {field:?}; elements of arrays cannot be set"),
                )),
            })
            .collect::<Result<_, _>>()?;
        let value = Expression::parse(&text)
            .map_err(|problem| SpecError::new(format!("{KEY}[{field:?}]"), problem))?;
        assignments.push(Assignment {
            field,
            root,
            names,
            value,
        });
    }
    if assignments.is_empty() {
        return Err(SpecError::new(KEY, "has no fields")
            .hint(r#"for example {"set": {"payload.total": "payload.price * payload.count"}}"#));
    }
    Ok(Step::Set(assignments))
}

fn place_of(key: &'static str, place: &str) -> Result<(Root, Vec<branch::Step>), SpecError> {
    path::parse(place).map_err(|problem| SpecError::new(key, problem).hint(path::SYNTAX))
}

fn overlap(key: &'static str, place: &str) -> SpecError {
    SpecError::new(
        key,
        format!("has {place:?}, and a field within or around it"),
    )
    .hint("one step changes a field once; use two steps")
}
