//! Evening out the load: what would move, what stays, why, and what each agent has before and
//! after. Pure: reads a [`DatabaseView`] and proposes.
//!
//! A plan is what agents would do by themselves if nothing were placed by hand, with the weights
//! that the plan proposes. Applying one writes its weights and its moves in one transaction, so that
//! what every agent computes afterwards is the plan, and nothing else moves: measured load counts
//! from an applied plan on and never before.

mod admit;
mod auto;
mod digest;
mod weigh;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use self::{
    admit::{Admitted, Outdated, admit, still_holds},
    auto::{
        Activity, Decision, LastMove, Mode, Pause, RebalanceStatus, Situation, Suggested, Terms,
        decide,
    },
    weigh::{Costs, MAX_WEIGHT, UnitCost, UnitWeight},
};
use crate::{
    AgentName, Assignment, OperationId, PlanId, UnitName, assign,
    assignment::{Admits, Reason},
    fleet::{DatabaseView, PipelineRow},
    operation::Move,
};

/// What a pipeline counts for when the load is evened out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Its weight in force: nothing is measured.
    #[default]
    Weight,
    /// What it was measured to deliver, unless its configuration gives it a weight.
    Load,
}

impl By {
    /// The word in hashes and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Load => "load",
        }
    }
}

/// Who should have what, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RebalancePlan {
    /// What it goes by.
    pub by: By,
    /// Over everything that it follows from; two plans with one hash are one plan.
    pub hash: String,
    /// What would move, by pipeline.
    pub moves: Vec<Move>,
    /// Every other enabled pipeline, by name.
    pub stays: Vec<Stay>,
    /// Every live agent, by name.
    pub agents: Vec<AgentLoad>,
    /// Every enabled pipeline that does not simply weigh 1 before and after, by name.
    pub weights: Vec<UnitWeight>,
}

/// A pipeline that a plan leaves where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// The pipeline.
    pub pipeline: UnitName,
    /// Who has it, if anybody does.
    pub agent: Option<AgentName>,
    /// Why it stays, in words.
    pub reason: String,
}

/// What a plan makes of one live agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLoad {
    /// Its name.
    pub agent: AgentName,
    /// Its share of the load; 0 is a standby.
    pub weight: u32,
    /// What its holds permit it.
    pub admits: Admits,
    /// What it has, by the weights of the plan.
    pub before: Load,
    /// What it would have.
    pub after: Load,
}

/// Some pipelines and what they weigh together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// How many.
    pub pipelines: u32,
    /// Their weights, added up.
    pub load: u64,
}

/// What the catalog says about a plan that it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRecord {
    /// Its id.
    pub id: PlanId,
    /// Who asked for it first.
    pub actor: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Until when it can be applied.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// What it became, once it is applied.
    pub operation: Option<OperationId>,
}

/// A plan, and what the catalog says about it if that keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The plan.
    pub plan: RebalancePlan,
    /// Its record.
    pub record: Option<PlanRecord>,
}

impl RebalancePlan {
    /// What would even out the load if nothing were placed by hand. `costs` are what was measured;
    /// by weight they change nothing.
    pub fn of(view: &DatabaseView, by: By, costs: &Costs) -> Self {
        let wanted = weigh::wanted(view, by, costs);
        let planned = reweighed(view, &wanted);
        let assigned = assign(&planned.bundles(), &planned.candidates(None));
        let mut moves = Vec::new();
        let mut stays = Vec::new();
        for row in planned.pipelines.iter().filter(|row| row.enabled) {
            match assigned.get(&row.name) {
                Some(place) if row.owner.as_ref() != Some(&place.agent) => {
                    moves.push(moving(row, place));
                }
                place => stays.push(Stay {
                    pipeline: row.name.clone(),
                    agent: row.owner.clone(),
                    reason: staying(view, row, place),
                }),
            }
        }
        Self {
            by,
            hash: digest::digest(view, by, &wanted),
            moves,
            stays,
            agents: loads(&planned, &assigned),
            weights: weigh::weights(view, &wanted, costs),
        }
    }

    /// Whether applying it would change anything.
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty() && self.reweighed().next().is_none()
    }

    /// Pipelines that would count for more or less than they do.
    pub fn reweighed(&self) -> impl Iterator<Item = &UnitWeight> {
        self.weights.iter().filter(|weight| weight.is_changed())
    }

    /// How many times the mean of the agents that take work the fullest agent has, before and
    /// after; 1 is even. Counts load per weight; standbys have no share.
    pub fn imbalance(&self) -> (f64, f64) {
        (
            imbalance(&self.agents, |agent| agent.before),
            imbalance(&self.agents, |agent| agent.after),
        )
    }
}

/// The same view with other weights, and nothing placed by hand.
fn reweighed(view: &DatabaseView, wanted: &BTreeMap<UnitName, u32>) -> DatabaseView {
    let mut planned = DatabaseView {
        placements: BTreeMap::new(),
        ..view.clone()
    };
    for row in &mut planned.pipelines {
        if let Some(weight) = wanted.get(&row.name) {
            row.weight = *weight;
        }
    }
    planned
}

fn moving(row: &PipelineRow, place: &Assignment) -> Move {
    let from = row.owner.as_ref();
    Move {
        pipeline: row.name.clone(),
        from: row.owner.clone(),
        to: place.agent.clone(),
        reason: match (place.reason, from) {
            (Reason::Pinned, _) => "it is pinned there".to_owned(),
            (_, None) => "nobody owns it".to_owned(),
            (Reason::Unowned, Some(from)) => format!("{from} may not keep it"),
            (Reason::Reachable, Some(from)) => format!("{from} cannot reach its sink"),
            (_, Some(from)) => format!("evens out the load of {from}"),
        },
    }
}

fn staying(view: &DatabaseView, row: &PipelineRow, place: Option<&Assignment>) -> String {
    let Some(place) = place else {
        return "no live agent may take it".to_owned();
    };
    match (view.staying(&row.name), place.reason) {
        (Some(hold), Reason::Pinned | Reason::Frozen) => {
            format!("{} {}", hold.kind.participle(), hold.origin())
        }
        // A pin that nobody can obey right now binds nobody.
        (Some(hold), _) if hold.to.is_some() => format!(
            "kept: it is pinned {}, and {} cannot take it now",
            hold.origin(),
            hold.to.as_ref().map_or("-", AgentName::as_str)
        ),
        _ if place.reason == Reason::Unreachable => {
            "kept: no agent that may have it can reach its sink".to_owned()
        }
        _ => "kept: moving it would not even out the load".to_owned(),
    }
}

fn loads(planned: &DatabaseView, assigned: &BTreeMap<UnitName, Assignment>) -> Vec<AgentLoad> {
    let mut agents: BTreeMap<AgentName, AgentLoad> = planned
        .candidates(None)
        .into_iter()
        .map(|candidate| {
            let load = AgentLoad {
                agent: candidate.name.clone(),
                weight: candidate.weight,
                admits: candidate.admits,
                before: Load::default(),
                after: Load::default(),
            };
            (candidate.name, load)
        })
        .collect();
    for row in planned.pipelines.iter().filter(|row| row.enabled) {
        let owner = row.owner.as_ref();
        if let Some(load) = owner.and_then(|owner| agents.get_mut(owner)) {
            load.before.add(row.weight);
        }
        let place = assigned.get(&row.name);
        if let Some(load) = place.and_then(|place| agents.get_mut(&place.agent)) {
            load.after.add(row.weight);
        }
    }
    agents.into_values().collect()
}

impl Load {
    fn add(&mut self, weight: u32) {
        self.pipelines += 1;
        self.load += u64::from(weight);
    }
}

fn imbalance(agents: &[AgentLoad], load: impl Fn(&AgentLoad) -> Load) -> f64 {
    let share = || agents.iter().filter(|agent| agent.weight > 0);
    let takers = share().filter(|agent| agent.admits == Admits::All);
    let capacity: f64 = takers.map(|agent| f64::from(agent.weight)).sum();
    let total: f64 = share().map(|agent| load(agent).load as f64).sum();
    if capacity == 0.0 || total == 0.0 {
        return 1.0;
    }
    let fullest = share()
        .map(|agent| load(agent).load as f64 / f64::from(agent.weight))
        .fold(0.0, f64::max);
    fullest / (total / capacity)
}

#[cfg(test)]
mod tests;
