//! What a drain or a rebalance would do, is doing, and is waiting for. Pure: reads a
//! [`DatabaseView`], proposes and explains, never acts.

mod standing;
mod steps;

pub(crate) use self::standing::soonest_release;
pub use self::steps::{Cause, Progress, Step, steps};
use crate::{AgentName, assign, fleet::DatabaseView, operation::Move};

/// Where draining these agents together would send each of their pipelines now.
pub fn drain_plan(view: &DatabaseView, agents: &[AgentName]) -> Vec<Move> {
    let assigned = assign(&view.bundles(), &view.candidates(agents));
    view.pipelines
        .iter()
        .filter(|row| row.owner.as_ref().is_some_and(|it| agents.contains(it)))
        .filter_map(|row| {
            let to = assigned.get(&row.name)?.agent.clone();
            Some(Move {
                pipeline: row.name.clone(),
                from: row.owner.clone(),
                to,
                reason: "drain".to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
