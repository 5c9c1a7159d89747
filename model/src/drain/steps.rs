//! Where each pipeline of a running operation stands: on its way, waiting for something that comes
//! by itself, or in need of an operator. Slow and never are different words here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::standing::{Standing, leaving};
use crate::{
    AgentName, Assignment, UnitName,
    assignment::{Admits, Reason},
    fleet::{DatabaseView, HoldKind, PipelineRow},
    operation::{Move, Operation, OperationKind},
};

/// Where one pipeline of a running operation stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The pipeline.
    pub pipeline: UnitName,
    /// Who has it.
    pub from: Option<AgentName>,
    /// Who gets it.
    pub to: Option<AgentName>,
    /// How it goes.
    pub progress: Progress,
    /// Until when it waits, on the database's clock; none where nobody knows.
    #[serde(with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
    /// What it waits for, or what blocks it, for programs; none while it is on its way.
    pub cause: Option<Cause>,
    /// Why, in words.
    pub detail: String,
    /// The command that unblocks it, if it is blocked.
    pub hint: Option<String>,
}

/// Slow, or never?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Progress {
    /// On its way.
    Progressing,
    /// Will go on by itself.
    Waiting,
    /// Needs an operator.
    Blocked,
    /// Where it should be.
    Done,
}

impl Progress {
    /// The word in JSON and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Progressing => "PROGRESSING",
            Self::Waiting => "WAITING",
            Self::Blocked => "BLOCKED",
            Self::Done => "DONE",
        }
    }
}

/// What keeps a pipeline from going on. Whether it clears by itself is said by [`Progress`]: the
/// same hold does if it ends, and does not if it has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Cause {
    /// No live agent may take it.
    NoAgent,
    /// Its owner has fallen silent and has its locks still.
    OwnerSilent,
    /// Only so many are handed over at a time.
    Pace,
    /// Its sink fails, and an attempt is on its way.
    SinkFails,
    /// The agent that is to take it is not there, or about to stop.
    TargetGone,
    /// The agent that is to take it is drained or cordoned.
    TargetHeld,
    /// A pin or a freeze keeps it elsewhere.
    PipelineHeld,
}

impl Cause {
    /// The word in JSON and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoAgent => "NO_AGENT",
            Self::OwnerSilent => "OWNER_SILENT",
            Self::Pace => "PACE",
            Self::SinkFails => "SINK_FAILS",
            Self::TargetGone => "TARGET_GONE",
            Self::TargetHeld => "TARGET_HELD",
            Self::PipelineHeld => "PIPELINE_HELD",
        }
    }
}

/// Where each pipeline of an operation stands right now.
pub fn steps(view: &DatabaseView, operation: &Operation) -> Vec<Step> {
    match operation.kind {
        OperationKind::Undrain => Vec::new(),
        OperationKind::Drain => drain_steps(view, &operation.target),
        OperationKind::Move | OperationKind::Rebalance => {
            let assigned = view.assignments();
            let moves = operation.moves.iter();
            moves
                .map(|wanted| move_step(view, &assigned, wanted))
                .collect()
        }
    }
}

fn drain_steps(view: &DatabaseView, agent: &str) -> Vec<Step> {
    let assigned = view.assignments();
    let drains = view
        .holds
        .iter()
        .filter(|hold| hold.kind == HoldKind::Drain);
    let drains = drains.filter(|hold| hold.target.as_str() == agent);
    let pace = drains.filter_map(|hold| hold.drain?.pace).min();
    let owned = view.pipelines.iter().filter(|row| {
        let owner = row.owner.as_ref();
        owner.is_some_and(|owner| owner.as_str() == agent)
    });
    // In the order in which the agent lets go of them.
    let mut owned: Vec<_> = owned.collect();
    owned.sort_by(|a, b| a.name.cmp(&b.name));
    let mut turn = 0;
    let steps = owned.into_iter().map(|row| {
        let to = assigned
            .get(&row.name)
            .map(|assignment| assignment.agent.clone());
        if to.is_some() {
            turn += 1;
        }
        let standing = match &to {
            None if row.enabled => Standing::nobody(view, agent),
            None => Standing::going("stopping, as it is disabled"),
            Some(to) => leaving(view, row, to, pace.filter(|pace| turn > *pace)),
        };
        standing.step(&row.name, Some(row), to)
    });
    steps.collect()
}

fn move_step(
    view: &DatabaseView,
    assigned: &BTreeMap<UnitName, Assignment>,
    wanted: &Move,
) -> Step {
    let row = view.pipeline(&wanted.pipeline);
    let standing = match row {
        None => Standing::done("deleted meanwhile"),
        Some(row) if !row.enabled => Standing::done("disabled meanwhile"),
        Some(row) if row.owner.as_ref() == Some(&wanted.to) => {
            Standing::done(format!("owned by {}", wanted.to))
        }
        Some(row) => moving(view, assigned, wanted, row),
    };
    standing.step(&wanted.pipeline, row, Some(wanted.to.clone()))
}

fn moving(
    view: &DatabaseView,
    assigned: &BTreeMap<UnitName, Assignment>,
    wanted: &Move,
    row: &PipelineRow,
) -> Standing {
    let to = &wanted.to;
    let Some(target) = view.agent(to).filter(|agent| agent.alive) else {
        let hint = "start it, or choose another agent";
        return Standing::blocked(Cause::TargetGone, format!("{to} is not alive"), hint);
    };
    if target.is_stopping() {
        let hint = "choose another agent";
        return Standing::blocked(Cause::TargetGone, format!("{to} is about to stop"), hint);
    }
    if view.admits(to) != Admits::All {
        return Standing::held_target(view, to);
    }
    let kept = assigned.get(&row.name).filter(|assignment| {
        let stays = matches!(assignment.reason, Reason::Pinned | Reason::Frozen);
        stays && assignment.agent != *to
    });
    match kept.and_then(|_| view.staying(&row.name)) {
        Some(hold) => Standing::held_pipeline(view, hold),
        None => leaving(view, row, to, None),
    }
}
