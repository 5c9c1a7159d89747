//! What a drain or a rebalance would do, is doing, and is waiting for. Pure: reads a
//! [`DatabaseView`], proposes and explains, never acts.

use serde::{Deserialize, Serialize};

use crate::{
    AgentName, PipelineState, UnitName, assign,
    fleet::{DatabaseView, HoldKind},
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

/// Where each pipeline of an operation stands right now.
pub fn steps(view: &DatabaseView, operation: &Operation) -> Vec<Step> {
    match operation.kind {
        OperationKind::Undrain => Vec::new(),
        OperationKind::Drain => drain_steps(view, &operation.target),
        OperationKind::Move | OperationKind::Rebalance => operation
            .moves
            .iter()
            .map(|wanted| move_step(view, wanted))
            .collect(),
    }
}

/// An agent writes that it is there every five seconds.
const SILENT_AFTER: time::Duration = time::Duration::seconds(15);

fn drain_steps(view: &DatabaseView, agent: &str) -> Vec<Step> {
    let assigned = view.assignments();
    let row = view.agents.iter().find(|row| row.name.as_str() == agent);
    let silence = row.map(|row| view.taken_at - row.last_seen_at);
    let silence = silence.filter(|silence| *silence > SILENT_AFTER);
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
        let (progress, detail, hint) = match (&to, row.state, silence, pace) {
            (None, ..) if row.enabled => (
                Progress::Blocked,
                "no live agent may take it".to_owned(),
                Some(format!("start another agent, or: tidectl undrain {agent}")),
            ),
            (_, _, Some(silence), _) => (
                Progress::Waiting,
                format!(
                    "{agent} was last heard of {}s ago; when its lease ends, others take over",
                    silence.whole_seconds()
                ),
                None,
            ),
            (Some(_), _, _, Some(pace)) if turn > pace => (
                Progress::Waiting,
                format!("waits for its turn: {pace} at a time"),
                None,
            ),
            (_, Some(PipelineState::Retrying), ..) => (
                Progress::Waiting,
                format!(
                    "its sink fails; it leaves after this try: {}",
                    row.state_reason.as_deref().unwrap_or("-")
                ),
                None,
            ),
            (Some(to), ..) => (
                Progress::Progressing,
                format!("finishing its batch, then {to} takes over"),
                None,
            ),
            (None, ..) => (
                Progress::Progressing,
                "stopping, as it is disabled".to_owned(),
                None,
            ),
        };
        Step {
            pipeline: row.name.clone(),
            from: row.owner.clone(),
            to,
            progress,
            detail,
            hint,
        }
    });
    steps.collect()
}

fn move_step(view: &DatabaseView, wanted: &Move) -> Step {
    let row = view.pipeline(&wanted.pipeline);
    let target_alive = view.agent(&wanted.to).is_some_and(|agent| agent.alive);
    let (progress, detail, hint) = match row {
        None => (Progress::Done, "deleted meanwhile".to_owned(), None),
        Some(row) if !row.enabled => (Progress::Done, "disabled meanwhile".to_owned(), None),
        Some(row) if row.owner.as_ref() == Some(&wanted.to) => {
            (Progress::Done, format!("owned by {}", wanted.to), None)
        }
        Some(_) if !target_alive => (
            Progress::Blocked,
            format!("{} is not alive", wanted.to),
            Some("start it, or choose another agent".to_owned()),
        ),
        Some(_) if view.admits(&wanted.to) != crate::assignment::Admits::All => (
            Progress::Blocked,
            format!("{} takes no work", wanted.to),
            Some(format!("tidectl undrain {}", wanted.to)),
        ),
        Some(_) => (Progress::Progressing, "handing over".to_owned(), None),
    };
    Step {
        pipeline: wanted.pipeline.clone(),
        from: row.and_then(|row| row.owner.clone()),
        to: Some(wanted.to.clone()),
        progress,
        detail,
        hint,
    }
}

#[cfg(test)]
mod tests;
