//! One row of each kind of view, made of what both sources say of it.

use time::OffsetDateTime;

use super::{
    AgentRow, AgentState, AgentView, Ownership, PipelineRow, PipelineView, REPORT_STALE_AFTER,
};
use crate::{
    AgentName, PipelineState,
    assignment::Admits,
    last_drain::LastDrain,
    report::{AgentReport, PipelineReport},
};

/// More of one kind say nothing that their number does not.
const MOST_WARNINGS: usize = 100;

impl PipelineView {
    /// The view of one pipeline. `moving_to` is where it should be, if that is not where it is;
    /// `holds` says what holds it; `reported` is what its owner says of it.
    pub fn build(
        row: &PipelineRow,
        placement: Option<AgentName>,
        moving_to: Option<AgentName>,
        holds: Vec<String>,
        reported: Option<&PipelineReport>,
    ) -> Self {
        // A report counts for a pipeline only under the epoch that the database knows: an older one
        // is from a former owner, whatever its arrival time.
        let reported = reported.filter(|report| Some(report.epoch) == row.epoch);
        let (state, reason) = match (row.enabled, &row.owner, row.owner_pid) {
            (false, None, None) => ("disabled".to_owned(), None),
            (true, None, None) => {
                let reason = if moving_to.is_some() {
                    "waiting to be taken over"
                } else {
                    "no live agent may take it"
                };
                ("unowned".to_owned(), Some(reason.to_owned()))
            }
            (_, None, Some(pid)) => (
                "orphan".to_owned(),
                Some(format!(
                    "its lock is held by backend {pid}, which is no agent of this group"
                )),
            ),
            (_, Some(_), _) => match reported {
                Some(report) => (report.state.to_string(), report.reason.clone()),
                None => (
                    row.state.unwrap_or(PipelineState::Starting).to_string(),
                    row.state_reason.clone(),
                ),
            },
        };
        let ownership = if row.owner.is_none() && row.owner_pid.is_some() {
            Ownership::Orphan
        } else {
            Ownership::Agreed
        };
        let retrying = state == PipelineState::Retrying.as_str();
        // An owner that delivers knows its lag to the moment. One that cannot does not look.
        let measuring = reported.filter(|report| report.state.is_healthy());
        Self {
            name: row.name.clone(),
            outbox: row.outbox.clone(),
            sink: row.sink.clone(),
            enabled: row.enabled,
            owner: row.owner.clone(),
            epoch: row.epoch,
            last_change_id: reported.map_or(row.last_change_id, |r| {
                r.last_change_id.max(row.last_change_id)
            }),
            lag_rows: measuring.map_or(row.lag_rows, |report| report.lag_rows),
            lag_seconds: measuring.map_or(row.lag.as_seconds_f64(), |report| report.lag_seconds),
            state,
            reason,
            since: row.state_since,
            retry_at: row.retry_at.filter(|_| retrying),
            backend_pid: row.owner_pid,
            moving_to,
            placement,
            holds,
            ownership,
            claimed_by: Vec::new(),
        }
    }

    /// Whether it asks for attention.
    pub fn is_troubled(&self) -> bool {
        self.ownership != Ownership::Agreed
            || matches!(
                self.state.as_str(),
                "unowned" | "orphan" | "misconfigured" | "retrying" | "paused"
            )
    }
}

impl AgentView {
    /// The view of one agent and of what it owns; `admits` is what its holds do, and `holds` says
    /// which there are, and `last_drain` what became of its last drain.
    pub fn build(
        row: &AgentRow,
        (admits, holds): (Admits, Vec<String>),
        last_drain: Option<LastDrain>,
        report: Option<&AgentReport>,
        owned: &[&PipelineView],
        now: OffsetDateTime,
    ) -> Self {
        let report = report.filter(|report| report.incarnation == row.incarnation);
        let silent = report.is_some_and(|report| now - report.received_at > REPORT_STALE_AFTER);
        let state = match (row.alive, admits) {
            (false, _) if row.stopped_at.is_some() => AgentState::Stopped,
            (false, _) => AgentState::Lost,
            (true, _) if silent => AgentState::Stale,
            (true, Admits::Nothing) if owned.is_empty() => AgentState::Drained,
            (true, Admits::Nothing) => AgentState::Draining,
            (true, Admits::OnlyItsOwn) => AgentState::Cordoned,
            (true, Admits::All) => AgentState::Active,
        };
        let (lag_p95_seconds, lag_worst_seconds) =
            lag_summary(owned.iter().map(|pipeline| pipeline.lag_seconds));
        let ill = |pipeline: &&&PipelineView| {
            let state = pipeline.state.parse::<PipelineState>();
            state.is_ok_and(|state| !state.is_healthy())
        };
        Self {
            name: row.name.clone(),
            state,
            incarnation: row.incarnation,
            version: row.version.clone(),
            hostname: row.hostname.clone(),
            weight: row.weight,
            metrics_addr: row.metrics_addr.clone(),
            pipelines: owned.len() as u32,
            unhealthy: owned.iter().filter(ill).count() as u32,
            lag_p95_seconds,
            lag_worst_seconds,
            holds,
            started_at: row.started_at,
            last_seen_at: report.map_or(row.last_seen_at, |report| {
                report.received_at.max(row.last_seen_at)
            }),
            reporting: report.is_some(),
            backend_pid: row.backend_pid,
            last_drain,
        }
    }
}

/// What needs attention, of all agents and of those pipelines that are troubled; the worst first, and
/// of each kind no more than tells something.
pub fn warnings<'a>(
    agents: impl Iterator<Item = &'a AgentView> + Clone,
    troubled: impl Iterator<Item = &'a PipelineView>,
) -> Vec<String> {
    let mut of_pipelines = Kind::default();
    for pipeline in troubled {
        of_pipelines.add(|| warning(pipeline));
    }
    let mut of_agents = Kind::default();
    for agent in agents.clone() {
        match agent.state {
            AgentState::Stale => of_agents.add(|| {
                format!(
                    "{} holds {} locks but has stopped reporting",
                    agent.name, agent.pipelines
                )
            }),
            AgentState::Lost => of_agents.add(|| {
                format!(
                    "{} is gone without a goodbye; pg_locks shows that it holds nothing",
                    agent.name
                )
            }),
            AgentState::Active
            | AgentState::Cordoned
            | AgentState::Draining
            | AgentState::Drained
            | AgentState::Stopped => {}
        }
    }
    let mut warnings = of_pipelines.ended("pipelines");
    warnings.extend(of_agents.ended("agents"));
    let gone = |state| matches!(state, AgentState::Lost | AgentState::Stopped);
    if agents.map(|agent| agent.state).all(gone) {
        warnings.push("no agent is alive".to_owned());
    }
    warnings
}

/// Warnings about things of one kind.
#[derive(Default)]
struct Kind {
    first: Vec<String>,
    more: usize,
}

impl Kind {
    fn add(&mut self, text: impl FnOnce() -> String) {
        if self.first.len() < MOST_WARNINGS {
            self.first.push(text());
        } else {
            self.more += 1;
        }
    }

    fn ended(mut self, things: &str) -> Vec<String> {
        if self.more > 0 {
            self.first
                .push(format!("{} more {things} need attention", self.more));
        }
        self.first
    }
}

fn warning(pipeline: &PipelineView) -> String {
    let name = &pipeline.name;
    let owner = pipeline.owner.as_ref().map_or("-", AgentName::as_str);
    if let Some(warning) = pipeline.ownership.warning(pipeline) {
        return warning;
    }
    let reason = pipeline.reason.as_deref().unwrap_or("no reason given");
    match pipeline.state.as_str() {
        "unowned" => format!("{name} is unowned: {reason}"),
        "orphan" => format!("{name} is blocked: {reason}"),
        state => format!("{name} ({owner}) is {state}: {reason}"),
    }
}

/// 95th percentile (nearest rank) and maximum; zeros for nothing.
pub fn lag_summary(lags: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut lags: Vec<f64> = lags.collect();
    lags.sort_by(f64::total_cmp);
    let rank = (lags.len() * 95).div_ceil(100);
    let p95 = rank
        .checked_sub(1)
        .and_then(|index| lags.get(index))
        .copied()
        .unwrap_or(0.0);
    (p95, lags.last().copied().unwrap_or(0.0))
}
