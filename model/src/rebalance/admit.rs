//! What is left of a plan when it is applied: everything, what has not become stale, or nothing,
//! because it would not be the plan that somebody agreed to.

use std::collections::{BTreeMap, BTreeSet};

use super::{Costs, Proposal, RebalancePlan, digest};
use crate::{
    AgentName, UnitName,
    assignment::{Admits, Candidate},
    fleet::DatabaseView,
    operation::Move,
};

/// Why a plan cannot be applied any more: each change, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the plan is stale: {}", listed(.0))]
pub struct Outdated(pub Vec<String>);

impl Outdated {
    /// What to do about it.
    pub const HINT: &'static str = "make a new plan with: tidectl rebalance plan";

    /// None of these makes sense any more.
    pub fn moves(moves: &[Move]) -> Self {
        Self(moves.iter().map(passed).collect())
    }
}

/// A sentence has room for so many changes.
const LISTED: usize = 20;

/// What may be applied of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The moves that still make sense.
    pub moves: Vec<Move>,
    /// Those whose pipeline went elsewhere, or cannot go where it should.
    pub skipped: Vec<Move>,
}

impl Proposal {
    /// Judges a plan that is kept, as [`admit`] does, and by its time.
    pub fn admit(&self, view: &DatabaseView, costs: &Costs) -> Result<Admitted, Outdated> {
        let record = self.record.as_ref();
        if record.is_some_and(|record| record.expires_at <= view.taken_at) {
            return Err(Outdated(vec!["its time is over".to_owned()]));
        }
        admit(&self.plan, view, costs)
    }
}

/// Judges a plan by what is there now. `costs` say which weights are configured.
///
/// A plan was agreed to for agents and weights as they were: if these are others, it is refused. A
/// pipeline that changed hands concerns its own move only.
pub fn admit(
    plan: &RebalancePlan,
    view: &DatabaseView,
    costs: &Costs,
) -> Result<Admitted, Outdated> {
    let mut wanted: BTreeMap<UnitName, u32> = BTreeMap::new();
    for weight in &plan.weights {
        wanted.insert(weight.pipeline.clone(), weight.after);
    }
    let mut changes = agents_changed(plan, view);
    changes.extend(weights_changed(plan, view, costs));
    if !changes.is_empty() {
        return Err(Outdated(changes));
    }
    if digest::digest(view, plan.by, &wanted) == plan.hash {
        return Ok(Admitted {
            moves: plan.moves.clone(),
            skipped: Vec::new(),
        });
    }
    let (moves, skipped): (Vec<Move>, Vec<Move>) = plan
        .moves
        .iter()
        .cloned()
        .partition(|planned| still_holds(view, planned));
    if moves.is_empty() && !skipped.is_empty() {
        return Err(Outdated::moves(&skipped));
    }
    Ok(Admitted { moves, skipped })
}

/// Whether a pipeline is where it was when its move was planned, and may still go where it should.
pub fn still_holds(view: &DatabaseView, planned: &Move) -> bool {
    let unmoved = view
        .pipeline(&planned.pipeline)
        .is_some_and(|row| row.enabled && row.owner == planned.from);
    let alive = view.agent(&planned.to).is_some_and(|agent| agent.alive);
    let unreached = view.unreached(&planned.pipeline, &planned.to).is_some();
    unmoved
        && !unreached
        && planned.from.as_ref() != Some(&planned.to)
        && alive
        && view.admits(&planned.to) == Admits::All
        && view
            .staying(&planned.pipeline)
            .is_none_or(|hold| hold.to.as_ref() == Some(&planned.to))
}

fn agents_changed(plan: &RebalancePlan, view: &DatabaseView) -> Vec<String> {
    let now: BTreeMap<AgentName, Candidate> = view
        .candidates(None)
        .into_iter()
        .map(|agent| (agent.name.clone(), agent))
        .collect();
    let mut changes = Vec::new();
    for then in &plan.agents {
        let name = &then.agent;
        match now.get(name) {
            None => changes.push(format!("agent {name} is gone")),
            Some(agent) if agent.admits != then.admits => {
                changes.push(format!("agent {name} {} now", takes(agent.admits)));
            }
            Some(agent) if agent.weight != then.weight => changes.push(format!(
                "agent {name} has weight {} and had {}",
                agent.weight, then.weight
            )),
            Some(_) => {}
        }
    }
    let then: BTreeSet<&AgentName> = plan.agents.iter().map(|load| &load.agent).collect();
    let joined = now.keys().filter(|name| !then.contains(name));
    changes.extend(joined.map(|name| format!("agent {name} has joined")));
    changes
}

fn takes(admits: Admits) -> &'static str {
    match admits {
        Admits::All => "takes work",
        Admits::OnlyItsOwn => "takes nothing more",
        Admits::Nothing => "gives everything away",
    }
}

/// Of pipelines that were there when it was planned and still are: others have their own moves.
fn weights_changed(plan: &RebalancePlan, view: &DatabaseView, costs: &Costs) -> Vec<String> {
    let weights: BTreeMap<&UnitName, (u32, bool)> = plan
        .weights
        .iter()
        .map(|weight| (&weight.pipeline, (weight.before, weight.is_changed())))
        .collect();
    let moves = plan.moves.iter().map(|planned| &planned.pipeline);
    let stays = plan.stays.iter().map(|stay| &stay.pipeline);
    let planned: BTreeSet<&UnitName> = moves.chain(stays).collect();
    let mut changes = Vec::new();
    let rows = view.pipelines.iter().filter(|row| row.enabled);
    for row in rows.filter(|row| planned.contains(&row.name)) {
        let (before, reweighed) = weights.get(&row.name).copied().unwrap_or((1, false));
        let configured = costs.get(&row.name).is_some_and(|cost| cost.configured);
        if row.weight != before {
            changes.push(format!(
                "pipeline {} weighs {} and weighed {before}",
                row.name, row.weight
            ));
        } else if reweighed && configured {
            changes.push(format!(
                "pipeline {} has a weight in its configuration now",
                row.name
            ));
        }
    }
    changes
}

fn passed(planned: &Move) -> String {
    let from = planned.from.as_ref().map_or("nobody", AgentName::as_str);
    format!(
        "{} cannot move from {from} to {} any more",
        planned.pipeline, planned.to
    )
}

fn listed(changes: &[String]) -> String {
    let shown = changes[..changes.len().min(LISTED)].join(", ");
    match changes.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
