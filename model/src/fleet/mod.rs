//! The fleet as a whole: what the database knows, what agents report, and the one view made of both.
//!
//! [`DatabaseView`] is read from PostgreSQL; ownership in it comes from `pg_locks`, so it cannot be
//! wrong about who may write. [`FleetView`] adds what agents reported, says where the two differ,
//! and is what every screen, JSON document and API answer shows.

mod database;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

pub use self::database::{AgentRow, DatabaseView, PipelineRow};
pub use crate::hold::{Hold, HoldKind};
use crate::{
    AgentName, Assignment, Epoch, GroupName, Incarnation, PipelineState, UnitName,
    assignment::Admits, report::AgentReport,
};

/// How an agent is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AgentState {
    /// Alive and taking work.
    Active,
    /// Alive, keeps what it has.
    Cordoned,
    /// Alive, giving its pipelines away.
    Draining,
    /// Alive and empty: its drain is observed complete.
    Drained,
    /// Holds its locks but its reports have stopped.
    Stale,
    /// Stopped in good order.
    Stopped,
    /// Gone without saying so.
    Lost,
}

impl AgentState {
    /// The word in JSON and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Cordoned => "CORDONED",
            Self::Draining => "DRAINING",
            Self::Drained => "DRAINED",
            Self::Stale => "STALE",
            Self::Stopped => "STOPPED",
            Self::Lost => "LOST",
        }
    }
}

/// One agent as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// Its name.
    pub name: AgentName,
    /// How it is doing.
    pub state: AgentState,
    /// Its newest run.
    pub incarnation: Incarnation,
    /// What it runs.
    pub version: String,
    /// Where.
    pub hostname: String,
    /// Its share; 0 is a standby.
    pub weight: u32,
    /// Where it serves metrics and probes.
    pub metrics_addr: Option<String>,
    /// Pipelines whose locks it holds, by `pg_locks`.
    pub pipelines: u32,
    /// Of these, how many are not healthy.
    pub unhealthy: u32,
    /// 95th percentile of its pipelines' lags, seconds.
    pub lag_p95_seconds: f64,
    /// The worst of its pipelines' lags, seconds.
    pub lag_worst_seconds: f64,
    /// Why it takes no work, if so: `drain by ana: kernel 6.9`.
    pub holds: Vec<String>,
    /// Start of its newest run.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When it last reported, or else last wrote to the database.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
    /// Whether it reports to the control plane that made this view.
    pub reporting: bool,
}

/// One pipeline as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipelineView {
    /// Its name.
    pub name: UnitName,
    /// The outbox it reads.
    pub outbox: String,
    /// Where its messages go.
    pub sink: String,
    /// Whether it should run.
    pub enabled: bool,
    /// Who holds its lock.
    pub owner: Option<AgentName>,
    /// The epoch of the newest claim; none before the first.
    pub epoch: Option<Epoch>,
    /// The highest message id delivered.
    pub last_change_id: i64,
    /// Messages behind.
    pub lag_rows: i64,
    /// Age of the oldest message that waits, seconds.
    pub lag_seconds: f64,
    /// `running`, `retrying`, …, `unowned` or `disabled`.
    pub state: String,
    /// Why, if there is something to say.
    pub reason: Option<String>,
    /// Since when it is in this state, if known.
    #[serde(with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
    /// Where it should be by everybody's calculation, if that is not where it is.
    pub moving_to: Option<AgentName>,
    /// Where an operator placed it.
    pub placement: Option<AgentName>,
    /// What holds it, if anything does: `pin to relay-2 by ana: licence dongle`.
    pub holds: Vec<String>,
}

/// The whole fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetView {
    /// The group.
    pub group: GroupName,
    /// Every agent, by name.
    pub agents: Vec<AgentView>,
    /// Every pipeline, by name.
    pub pipelines: Vec<PipelineView>,
    /// When the database was read, on its clock.
    #[serde(with = "time::serde::rfc3339")]
    pub database_at: OffsetDateTime,
    /// What needs an operator's attention, worst first.
    pub warnings: Vec<String>,
}

/// An agent whose report is older than this is stale, if it still holds its locks.
pub const REPORT_STALE_AFTER: Duration = Duration::seconds(15);

impl FleetView {
    /// Joins both sources. `reports` is empty when there is no control plane; `now` is on the
    /// same clock as the reports' arrival times.
    pub fn build(
        database: &DatabaseView,
        reports: &BTreeMap<AgentName, AgentReport>,
        now: OffsetDateTime,
    ) -> Self {
        let assigned = database.assignments();
        let pipelines: Vec<PipelineView> = database
            .pipelines
            .iter()
            .map(|row| pipeline_view(row, database, reports, &assigned))
            .collect();
        let mut owned: BTreeMap<&AgentName, Vec<&PipelineView>> = BTreeMap::new();
        for pipeline in &pipelines {
            if let Some(owner) = &pipeline.owner {
                owned.entry(owner).or_default().push(pipeline);
            }
        }
        let agents: Vec<AgentView> = database
            .agents
            .iter()
            .map(|row| {
                let owned = owned.get(&row.name).map_or(&[][..], Vec::as_slice);
                agent_view(row, database, reports.get(&row.name), owned, now)
            })
            .collect();
        let warnings = warnings(database, &agents, &pipelines);
        Self {
            group: database.group.clone(),
            agents,
            pipelines,
            database_at: database.taken_at,
            warnings,
        }
    }

    /// Enabled pipelines that nobody owns.
    pub fn unowned(&self) -> impl Iterator<Item = &PipelineView> {
        self.pipelines
            .iter()
            .filter(|pipeline| pipeline.enabled && pipeline.owner.is_none())
    }

    /// 95th percentile and worst lag over all enabled pipelines, seconds.
    pub fn lag(&self) -> (f64, f64) {
        lag_summary(
            self.pipelines
                .iter()
                .filter(|p| p.enabled)
                .map(|p| p.lag_seconds),
        )
    }

    /// Whether nothing asks for attention.
    pub fn is_healthy(&self) -> bool {
        self.warnings.is_empty()
    }
}

fn pipeline_view(
    row: &PipelineRow,
    database: &DatabaseView,
    reports: &BTreeMap<AgentName, AgentReport>,
    assigned: &BTreeMap<UnitName, Assignment>,
) -> PipelineView {
    // A report counts for a pipeline only under the epoch that the database knows: an older one
    // is from a former owner, whatever its arrival time.
    let reported = row
        .owner
        .as_ref()
        .and_then(|owner| reports.get(owner))
        .and_then(|report| report.pipelines.get(&row.name))
        .filter(|pipeline| Some(pipeline.epoch) == row.epoch);
    let (state, reason) = match (row.enabled, &row.owner, row.owner_pid) {
        (false, None, None) => ("disabled".to_owned(), None),
        (true, None, None) => {
            let reason = if assigned.contains_key(&row.name) {
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
    let wanted = assigned
        .get(&row.name)
        .map(|assignment| assignment.agent.clone());
    // An owner that delivers knows its lag to the moment. One that cannot does not look.
    let measuring = reported.filter(|report| report.state.is_healthy());
    PipelineView {
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
        moving_to: wanted.filter(|wanted| row.owner.as_ref() != Some(wanted)),
        placement: database.placements.get(&row.name).cloned(),
        holds: database.holds_of(&row.name).map(Hold::summary).collect(),
    }
}

fn agent_view(
    row: &AgentRow,
    database: &DatabaseView,
    report: Option<&AgentReport>,
    owned: &[&PipelineView],
    now: OffsetDateTime,
) -> AgentView {
    let report = report.filter(|report| report.incarnation == row.incarnation);
    let admits = database.admits(&row.name);
    let state = match (row.alive, admits) {
        (false, _) if row.stopped_at.is_some() => AgentState::Stopped,
        (false, _) => AgentState::Lost,
        (true, _) if report.is_some_and(|report| now - report.received_at > REPORT_STALE_AFTER) => {
            AgentState::Stale
        }
        (true, Admits::Nothing) if owned.is_empty() => AgentState::Drained,
        (true, Admits::Nothing) => AgentState::Draining,
        (true, Admits::OnlyItsOwn) => AgentState::Cordoned,
        (true, Admits::All) => AgentState::Active,
    };
    let (lag_p95_seconds, lag_worst_seconds) = lag_summary(owned.iter().map(|p| p.lag_seconds));
    let holds = database.holds_on(&row.name).map(Hold::summary).collect();
    AgentView {
        name: row.name.clone(),
        state,
        incarnation: row.incarnation,
        version: row.version.clone(),
        hostname: row.hostname.clone(),
        weight: row.weight,
        metrics_addr: row.metrics_addr.clone(),
        pipelines: owned.len() as u32,
        unhealthy: owned
            .iter()
            .filter(|p| {
                p.state
                    .parse::<PipelineState>()
                    .is_ok_and(|s| !s.is_healthy())
            })
            .count() as u32,
        lag_p95_seconds,
        lag_worst_seconds,
        holds,
        started_at: row.started_at,
        last_seen_at: report.map_or(row.last_seen_at, |report| {
            report.received_at.max(row.last_seen_at)
        }),
        reporting: report.is_some(),
    }
}

fn warnings(
    database: &DatabaseView,
    agents: &[AgentView],
    pipelines: &[PipelineView],
) -> Vec<String> {
    let mut warnings = Vec::new();
    for pipeline in pipelines {
        let reason = pipeline.reason.as_deref().unwrap_or("no reason given");
        match pipeline.state.as_str() {
            "unowned" => warnings.push(format!("{} is unowned: {reason}", pipeline.name)),
            "orphan" => warnings.push(format!("{} is blocked: {reason}", pipeline.name)),
            "misconfigured" | "retrying" | "paused" => {
                let owner = pipeline.owner.as_ref().map_or("-", AgentName::as_str);
                warnings.push(format!(
                    "{} ({owner}) is {}: {reason}",
                    pipeline.name, pipeline.state
                ));
            }
            _ => {}
        }
    }
    for agent in agents {
        match agent.state {
            AgentState::Stale => warnings.push(format!(
                "{} holds {} locks but has stopped reporting",
                agent.name, agent.pipelines
            )),
            AgentState::Lost => warnings.push(format!(
                "{} is gone without a goodbye; pg_locks shows that it holds nothing",
                agent.name
            )),
            _ => {}
        }
    }
    if !database.agents.iter().any(|agent| agent.alive) {
        warnings.push("no agent is alive".to_owned());
    }
    warnings
}

/// 95th percentile (nearest rank) and maximum; zeros for nothing.
fn lag_summary(lags: impl Iterator<Item = f64>) -> (f64, f64) {
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
