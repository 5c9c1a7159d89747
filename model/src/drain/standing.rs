//! What one pipeline of an operation waits for, if it does, and until when. Only what the database
//! knows is said: where nobody knows the end of a wait there is none.

use time::{Duration, OffsetDateTime};

use super::{Cause, Progress, Step};
use crate::{
    AgentName, PipelineState, UnitName,
    fleet::{AgentRow, DatabaseView, Hold, HoldKind, PipelineRow},
};

/// An agent writes that it is there every five seconds.
const SILENT_AFTER: Duration = Duration::seconds(15);

/// How a pipeline stands; a [`Step`] without its names.
#[derive(Debug)]
pub(super) struct Standing {
    progress: Progress,
    until: Option<OffsetDateTime>,
    cause: Option<Cause>,
    detail: String,
    hint: Option<String>,
}

impl Standing {
    pub(super) fn going(detail: impl Into<String>) -> Self {
        Self {
            progress: Progress::Progressing,
            until: None,
            cause: None,
            detail: detail.into(),
            hint: None,
        }
    }

    pub(super) fn done(detail: impl Into<String>) -> Self {
        Self {
            progress: Progress::Done,
            ..Self::going(detail)
        }
    }

    pub(super) fn blocked(
        cause: Cause,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            progress: Progress::Blocked,
            cause: Some(cause),
            hint: Some(hint.into()),
            ..Self::going(detail)
        }
    }

    fn waiting(cause: Cause, detail: impl Into<String>, until: Option<OffsetDateTime>) -> Self {
        Self {
            progress: Progress::Waiting,
            cause: Some(cause),
            until,
            ..Self::going(detail)
        }
    }

    /// No live agent may take what `agent` has; one may later, if all that holds it has an end.
    pub(super) fn nobody(view: &DatabaseView, agent: &str) -> Self {
        const WHY: &str = "no live agent may take it";
        match soonest_release(view) {
            Some((until, other)) => Self::waiting(
                Cause::NoAgent,
                format!("{WHY} until the holds on {other} end"),
                Some(until),
            ),
            None => Self::blocked(
                Cause::NoAgent,
                WHY,
                format!("start another agent, or: tidectl undrain {agent}"),
            ),
        }
    }

    /// The target of a move takes no work because of its holds.
    pub(super) fn held_target(view: &DatabaseView, to: &AgentName) -> Self {
        let holds: Vec<&Hold> = view.holds_on(to).collect();
        let detail = match holds.first() {
            Some(hold) => format!("{to} is {} {}", hold.kind.participle(), hold.origin()),
            None => format!("{to} takes no work"),
        };
        let until = view.agent(to).and_then(|agent| released_at(view, agent));
        if until.is_some() {
            return Self::waiting(Cause::TargetHeld, detail, until);
        }
        let endless = holds.into_iter().find(|hold| hold.expires_at.is_none());
        let hint = match endless.map(|hold| hold.kind) {
            Some(HoldKind::Cordon) => format!("tidectl uncordon {to}"),
            _ => format!("tidectl undrain {to}"),
        };
        Self::blocked(Cause::TargetHeld, detail, hint)
    }

    /// A pin or a freeze keeps it where the operation does not want it.
    pub(super) fn held_pipeline(view: &DatabaseView, hold: &Hold) -> Self {
        let to = hold
            .to
            .as_ref()
            .map_or_else(String::new, |to| format!(" to {to}"));
        let detail = format!("it is {}{to} {}", hold.kind.participle(), hold.origin());
        match hold.expires_at.filter(|end| *end > view.taken_at) {
            Some(end) => Self::waiting(Cause::PipelineHeld, detail, Some(end)),
            None => Self::blocked(
                Cause::PipelineHeld,
                detail,
                format!("ask {} to: tidectl hold remove {}", hold.actor, hold.id),
            ),
        }
    }

    /// The step of a pipeline that stands like this.
    pub(super) fn step(
        self,
        pipeline: &UnitName,
        row: Option<&PipelineRow>,
        to: Option<AgentName>,
    ) -> Step {
        Step {
            pipeline: pipeline.clone(),
            from: row.and_then(|row| row.owner.clone()),
            to,
            progress: self.progress,
            until: self.until,
            cause: self.cause,
            detail: self.detail,
            hint: self.hint,
        }
    }
}

/// A pipeline that its owner, if it has one, is to give to `to`; `beyond` is the pace, where its turn
/// has not come.
pub(super) fn leaving(
    view: &DatabaseView,
    row: &PipelineRow,
    to: &AgentName,
    beyond: Option<u32>,
) -> Standing {
    let Some(owner) = row.owner.as_ref() else {
        return Standing::going(format!("nobody has it, and {to} is to take it"));
    };
    let agent = view.agent(owner);
    let silence = agent.map(|agent| view.taken_at - agent.last_seen_at);
    if let Some(silence) = silence.filter(|silence| *silence > SILENT_AFTER) {
        let detail = format!(
            "{owner} was last heard of {}s ago; when its lease ends, others take over",
            silence.whole_seconds()
        );
        let ends = agent.and_then(|agent| agent.lease_ends_at);
        let ends = ends.filter(|end| *end > view.taken_at);
        return Standing::waiting(Cause::OwnerSilent, detail, ends);
    }
    if let Some(pace) = beyond {
        let detail = format!("waits for its turn: {pace} at a time");
        return Standing::waiting(Cause::Pace, detail, None);
    }
    if row.state == Some(PipelineState::Retrying) {
        let why = row.state_reason.as_deref().unwrap_or("-");
        if row.retry_at.is_some_and(|next| next > view.taken_at) {
            // An owner that is between two tries has nothing to finish.
            return Standing::going(format!(
                "its sink fails; it leaves before the next try, then {to} takes over: {why}"
            ));
        }
        // How long a try may last is the sink's to know.
        let detail = format!("its sink fails; it leaves after this try: {why}");
        return Standing::waiting(Cause::SinkFails, detail, None);
    }
    Standing::going(format!("finishing its batch, then {to} takes over"))
}

/// The live agent that is free of holds first, if the holds on any of them have an end, and when.
pub(crate) fn soonest_release(view: &DatabaseView) -> Option<(OffsetDateTime, &AgentName)> {
    let live = view.agents.iter();
    live.filter(|agent| agent.alive && !agent.is_stopping())
        .filter_map(|agent| Some((released_at(view, agent)?, &agent.name)))
        .min()
}

/// When the last of an agent's holds ends; none if one has no end, or there is none.
fn released_at(view: &DatabaseView, agent: &AgentRow) -> Option<OffsetDateTime> {
    let ends: Option<Vec<OffsetDateTime>> = view
        .holds_on(&agent.name)
        .map(|hold| hold.expires_at)
        .collect();
    ends?.into_iter().max().filter(|end| *end > view.taken_at)
}
