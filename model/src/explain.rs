//! Why a pipeline is where it is, why not elsewhere, and what it waits for. Pure: says what
//! [`assign`](crate::assign) decides, and what each agent's holds have to do with it.

use serde::Serialize;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use crate::{
    AgentName, PipelineState, UnitName,
    assignment::Reason,
    drain::{Progress, soonest_release},
    fleet::{AgentRow, DatabaseView, Hold, HoldKind, PipelineRow, Unreached},
};

/// Everything about one pipeline's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PipelineExplanation {
    /// The pipeline, or the shard.
    pub pipeline: UnitName,
    /// Whose session holds its lock.
    pub owner: Option<AgentName>,
    /// Where it should be; none if nobody may take it.
    pub wanted: Option<AgentName>,
    /// Whether it is at rest, on its way, or needs an operator.
    pub progress: Progress,
    /// Until when it waits, on the database's clock; none where nobody knows.
    #[serde(with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
    /// Why it is where it is, and what it waits for.
    pub because: String,
    /// What to do, if anything has to be done.
    pub hint: Option<String>,
    /// Every agent: why it has it, or has it not.
    pub agents: Vec<Verdict>,
}

/// What one agent has to do with a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The agent.
    pub agent: AgentName,
    /// Why, for programs.
    pub code: Code,
    /// Why, in words.
    pub detail: String,
}

/// Why an agent has a pipeline, or has it not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// It holds the lock.
    Owner,
    /// It should have it, and will.
    Wanted,
    /// It could run it; nothing would be gained.
    Eligible,
    /// It is drained, or being drained.
    Draining,
    /// It is cordoned.
    Cordoned,
    /// It works only where nobody else can.
    Standby,
    /// It does not reach the sink.
    Unreachable,
    /// It is about to stop, or has stopped.
    Stopped,
    /// It is gone without saying so.
    Lost,
}

impl Code {
    /// The word in JSON and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "OWNER",
            Self::Wanted => "WANTED",
            Self::Eligible => "ELIGIBLE",
            Self::Draining => "DRAINING",
            Self::Cordoned => "CORDONED",
            Self::Standby => "STANDBY",
            Self::Unreachable => "UNREACHABLE",
            Self::Stopped => "STOPPED",
            Self::Lost => "LOST",
        }
    }
}

/// Everything about what one agent takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentExplanation {
    /// The agent.
    pub agent: AgentName,
    /// Whether it takes work, and why not; as for a pipeline, but without one.
    pub verdict: Verdict,
    /// Summed weight of what it owns.
    pub load: u64,
    /// Summed weight of what it should own.
    pub wanted_load: u64,
    /// What it owns and should not.
    pub leaving: Vec<UnitName>,
    /// What it should own and does not.
    pub coming: Vec<UnitName>,
}

/// Explains the place of one pipeline; of the name of a sharded one its first shard's.
pub fn explain_pipeline(view: &DatabaseView, name: &UnitName) -> Option<PipelineExplanation> {
    let row = view.pipeline_or_shard(name)?;
    let assigned = view.assignments();
    let wanted = assigned.get(&row.name);
    let to = wanted.map(|wanted| wanted.agent.clone());
    let (progress, because, hint) = waiting(view, row, to.as_ref(), wanted.map(|w| w.reason));
    let verdict = |agent: &AgentRow| {
        let unreached = view.unreached(&row.name, &agent.name).map(unreached);
        if row.owner.as_ref() == Some(&agent.name) {
            let epoch = row.epoch.map_or(0, |epoch| epoch.0);
            let mut detail = format!("holds the lock, epoch {epoch}");
            if let Some(unreached) = unreached {
                detail = format!("{detail}; {unreached}");
            }
            return judged(agent, Code::Owner, detail);
        }
        let verdict = able(view, agent);
        if let (Code::Eligible | Code::Standby, Some(unreached)) = (verdict.code, unreached) {
            return judged(agent, Code::Unreachable, unreached);
        }
        if verdict.code == Code::Eligible && to.as_ref() == Some(&agent.name) {
            return judged(agent, Code::Wanted, "is to take it".to_owned());
        }
        verdict
    };
    Some(PipelineExplanation {
        pipeline: row.name.clone(),
        owner: row.owner.clone(),
        agents: view.agents.iter().map(verdict).collect(),
        until: match progress {
            Progress::Waiting if to.is_none() => soonest_release(view).map(|(end, _)| end),
            Progress::Waiting => row.retry_at.filter(|next| *next > view.taken_at),
            Progress::Progressing | Progress::Blocked | Progress::Done => None,
        },
        wanted: to,
        progress,
        because,
        hint,
    })
}

/// Explains what an agent takes and gives.
pub fn explain_agent(view: &DatabaseView, name: &AgentName) -> Option<AgentExplanation> {
    let agent = view.agent(name)?;
    let assigned = view.assignments();
    let owns = |row: &&PipelineRow| row.owner.as_ref() == Some(name);
    let should = |row: &&PipelineRow| assigned.get(&row.name).is_some_and(|to| to.agent == *name);
    let weight = |rows: &[&PipelineRow]| rows.iter().map(|row| u64::from(row.weight)).sum();
    let owned: Vec<&PipelineRow> = view.pipelines.iter().filter(owns).collect();
    let wanted: Vec<&PipelineRow> = view.pipelines.iter().filter(should).collect();
    let names = |rows: &[&PipelineRow], but: &dyn Fn(&&PipelineRow) -> bool| {
        let rows = rows.iter().filter(|row| !but(row));
        rows.map(|row| row.name.clone()).collect()
    };
    Some(AgentExplanation {
        agent: name.clone(),
        verdict: able(view, agent),
        load: weight(&owned),
        wanted_load: weight(&wanted),
        leaving: names(&owned, &should),
        coming: names(&wanted, &owns),
    })
}

/// How a pipeline stands, why, and what to do.
fn waiting(
    view: &DatabaseView,
    row: &PipelineRow,
    to: Option<&AgentName>,
    reason: Option<Reason>,
) -> (Progress, String, Option<String>) {
    let name = &row.name;
    let blocked = |because: String, hint: String| (Progress::Blocked, because, Some(hint));
    if !row.enabled {
        let enable = format!("tidectl pipeline enable {name}");
        return match &row.owner {
            None => blocked("it is disabled".to_owned(), enable),
            Some(owner) => {
                let because = format!("it is disabled, and {owner} is finishing its batch");
                (Progress::Progressing, because, None)
            }
        };
    }
    let Some(owner) = &row.owner else {
        if let Some(pid) = row.owner_pid {
            return blocked(
                format!("backend {pid} holds its lock, and is no agent"),
                format!("see what that is: SELECT * FROM pg_stat_activity WHERE pid = {pid}"),
            );
        }
        return match to {
            None => nobody(
                view,
                "no agent may take it".to_owned(),
                "start an agent, or end a drain: tidectl undrain AGENT".to_owned(),
            ),
            Some(to) => (
                Progress::Progressing,
                format!("nobody has it, and {to} is to take it"),
                None,
            ),
        };
    };
    if row.state == Some(PipelineState::Misconfigured) {
        let why = row.state_reason.as_deref().unwrap_or("-");
        return blocked(
            format!("its configuration cannot work: {why}"),
            "correct it with: tidectl pipeline apply -f FILE".to_owned(),
        );
    }
    if let Some(to) = to.filter(|to| *to != owner) {
        let why = match reason {
            Some(Reason::Placed) => "an operator placed it there",
            Some(Reason::Pinned) => "it is pinned there",
            Some(Reason::Balanced) => "that evens out the load",
            Some(Reason::Reachable) => "its owner cannot reach the sink",
            _ => "its owner may not keep it",
        };
        return (
            Progress::Progressing,
            format!("on its way from {owner} to {to}: {why}"),
            None,
        );
    }
    if to.is_none() {
        return nobody(
            view,
            format!("{owner} gives it away, and no other agent may take it"),
            format!("start another agent, or: tidectl undrain {owner}"),
        );
    }
    if row.state == Some(PipelineState::Retrying) {
        let why = row.state_reason.as_deref().unwrap_or("-");
        let because = match kept_in_spite(view, row, reason) {
            Some(nevertheless) => format!("{nevertheless}; it is tried again: {why}"),
            None => format!("its sink fails, and is tried again: {why}"),
        };
        return (Progress::Waiting, because, None);
    }
    if let Some(hold) = view.staying(name) {
        let (kept, origin) = (hold.kind.participle(), hold.origin());
        let because = match &hold.to {
            Some(at) if at != owner => {
                format!("pinned to {at}, which takes no work, {origin}; {owner} keeps it")
            }
            _ => format!("{kept} {origin}"),
        };
        return (Progress::Done, because, None);
    }
    let because = match view.placements.get(name) {
        Some(placed) if placed == owner => "an operator placed it there".to_owned(),
        Some(placed) => {
            format!("an operator placed it on {placed}, which takes no work; {owner} keeps it")
        }
        None => format!("{owner} keeps it, as moving it would even out nothing"),
    };
    (Progress::Done, because, None)
}

/// Why it stays with an owner that does not reach its sink.
fn kept_in_spite(view: &DatabaseView, row: &PipelineRow, reason: Option<Reason>) -> Option<String> {
    let owner = row.owner.as_ref()?;
    view.unreached(&row.name, owner)?;
    Some(match reason {
        Some(Reason::Placed) => {
            format!("{owner} cannot reach the sink, and an operator placed it there")
        }
        Some(Reason::Pinned | Reason::Frozen) => {
            let hold = view.staying(&row.name)?;
            let (kept, origin) = (hold.kind.participle(), hold.origin());
            format!("{owner} cannot reach the sink, and it is {kept} {origin}")
        }
        Some(Reason::Unreachable) => "no agent that may have it can reach the sink".to_owned(),
        _ => format!("{owner} cannot reach the sink either; another one gave it away for that"),
    })
}

/// What an agent says about its way to a sink.
fn unreached(one: &Unreached) -> String {
    format!(
        "cannot reach the sink: {}, since {}, tried again at {}",
        one.reason,
        moment(one.since),
        moment(one.until)
    )
}

/// To the second, as people read it.
fn moment(at: OffsetDateTime) -> String {
    let at = at.to_offset(UtcOffset::UTC);
    let at = at.replace_nanosecond(0).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// Nobody may take it: for good, unless the holds on some agent have an end.
fn nobody(
    view: &DatabaseView,
    because: String,
    hint: String,
) -> (Progress, String, Option<String>) {
    match soonest_release(view) {
        Some((_, agent)) => (
            Progress::Waiting,
            format!("{because} until the holds on {agent} end"),
            None,
        ),
        None => (Progress::Blocked, because, Some(hint)),
    }
}

/// Whether an agent takes work at all.
pub(crate) fn able(view: &DatabaseView, agent: &AgentRow) -> Verdict {
    if !agent.alive {
        return match agent.stopped_at {
            Some(_) => judged(agent, Code::Stopped, "stopped in good order".to_owned()),
            None => judged(
                agent,
                Code::Lost,
                "is gone: nobody holds its name".to_owned(),
            ),
        };
    }
    if agent.is_stopping() {
        return judged(agent, Code::Stopped, "is about to stop".to_owned());
    }
    let hold = |kind| view.holds_on(&agent.name).find(|hold| hold.kind == kind);
    if let Some(drain) = hold(HoldKind::Drain) {
        return judged(agent, Code::Draining, held("drained", drain));
    }
    if let Some(cordon) = hold(HoldKind::Cordon) {
        return judged(agent, Code::Cordoned, held("cordoned", cordon));
    }
    if agent.weight == 0 {
        let detail = "is a standby: it works where nobody else can".to_owned();
        return judged(agent, Code::Standby, detail);
    }
    let owned = view
        .pipelines
        .iter()
        .filter(|row| row.owner.as_ref() == Some(&agent.name));
    let load: u64 = owned.map(|row| u64::from(row.weight)).sum();
    judged(
        agent,
        Code::Eligible,
        format!("takes work; its load is {load} by weight {}", agent.weight),
    )
}

fn held(how: &str, hold: &Hold) -> String {
    format!("{how} {}", hold.origin())
}

fn judged(agent: &AgentRow, code: Code, detail: String) -> Verdict {
    Verdict {
        agent: agent.name.clone(),
        code,
        detail,
    }
}
