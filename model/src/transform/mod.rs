//! What becomes of a message on its way: kept or filtered out, and what is changed in it. Pure.
//!
//! | step | does |
//! |---|---|
//! | `filter` | keeps the messages for which an expression is true |
//! | `drop` | takes fields away |
//! | `rename` | gives fields other names |
//! | `mask` | makes what fields hold unreadable |
//! | `set` | puts the values of expressions into fields |
//!
//! Steps run in their order, each on what the one before it left. All of them are compiled and
//! checked when the pipeline is; what then fails is the fault of one message. Whatever is not
//! touched keeps its exact text: a payload is rewritten, never read into numbers and printed again.

mod branch;
mod expression;
mod path;
mod rewrite;
mod spec;
mod view;

use std::{borrow::Cow, fmt};

use serde_json::Value;

use crate::format::Event;

use self::{
    branch::Branch,
    expression::{Expression, Scope},
    path::Root,
    rewrite::Change,
};

/// The compiled steps of a pipeline; at least one.
#[derive(Clone)]
pub struct Transforms {
    steps: Vec<Step>,
    /// As they were written, by which they are compared and shown.
    written: Vec<Value>,
}

/// What becomes of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<'e> {
    /// It goes on, with this payload and these headers: JSON text, borrowed if nothing in it was
    /// changed.
    Kept {
        /// The payload.
        payload: Cow<'e, str>,
        /// The headers, an object.
        headers: Cow<'e, str>,
    },
    /// It does not go to the sink. No failure, and nothing is missing.
    FilteredOut,
}

#[derive(Debug, Clone)]
enum Step {
    Filter(Expression),
    /// `drop`, `rename` and `mask`, by what is changed where.
    Change {
        name: &'static str,
        payload: Branch<Change>,
        headers: Branch<Change>,
    },
    Set(Vec<Assignment>),
}

#[derive(Debug, Clone)]
struct Assignment {
    /// As it was written.
    field: String,
    root: Root,
    names: Vec<String>,
    value: Expression,
}

impl Transforms {
    /// Runs the steps on a message. The error says which step failed, where, and why: the message
    /// can never pass, so it belongs to the dead letters.
    pub fn apply<'e>(&self, event: &Event<'e>, outbox: &str) -> Result<Outcome<'e>, String> {
        let mut payload = Cow::Borrowed(event.payload);
        let mut headers = Cow::Borrowed(event.headers);
        for (index, step) in self.steps.iter().enumerate() {
            let at = |place: String| {
                move |problem: String| format!("transforms[{index}].{place}: {problem}")
            };
            let scope = Scope {
                event: Event {
                    payload: &payload,
                    headers: &headers,
                    ..*event
                },
                outbox,
            };
            match step {
                Step::Filter(condition) => {
                    if !condition.holds(&scope).map_err(at("filter".to_owned()))? {
                        return Ok(Outcome::FilteredOut);
                    }
                }
                Step::Change {
                    name,
                    payload: in_payload,
                    headers: in_headers,
                } => {
                    let changed = |text: &str, branch: &Branch<Change>, root: Root| {
                        rewrite::rewrite(text, branch)
                            .map_err(|problem| format!("{root}{problem}"))
                            .map_err(at((*name).to_owned()))
                    };
                    let new_payload = changed(&payload, in_payload, Root::Payload)?;
                    let new_headers = changed(&headers, in_headers, Root::Headers)?;
                    replace(&mut payload, new_payload);
                    replace(&mut headers, new_headers);
                }
                Step::Set(assignments) => {
                    // All values come from the message as the step found it, whatever their order.
                    let mut in_payload = Branch::default();
                    let mut in_headers = Branch::default();
                    for assignment in assignments {
                        let field = &assignment.field;
                        let value = assignment.value.value(&scope);
                        let value = value.map_err(at(format!("set[{field:?}]")))?;
                        let branch = match assignment.root {
                            Root::Payload => &mut in_payload,
                            Root::Headers => &mut in_headers,
                        };
                        branch.put(&assignment.names, Change::Put(value));
                    }
                    let changed = |text: &str, branch: &Branch<Change>, root: Root| {
                        rewrite::rewrite(text, branch)
                            .map_err(|problem| format!("{root}{problem}"))
                            .map_err(at("set".to_owned()))
                    };
                    let new_payload = changed(&payload, &in_payload, Root::Payload)?;
                    let new_headers = changed(&headers, &in_headers, Root::Headers)?;
                    replace(&mut payload, new_payload);
                    replace(&mut headers, new_headers);
                }
            }
        }
        Ok(Outcome::Kept { payload, headers })
    }
}

fn replace(text: &mut Cow<'_, str>, changed: Option<String>) {
    if let Some(changed) = changed {
        *text = Cow::Owned(changed);
    }
}

impl PartialEq for Transforms {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl fmt::Debug for Transforms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Transforms").field(&self.written).finish()
    }
}

#[cfg(test)]
mod tests;
