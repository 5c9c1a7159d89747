//! The fleet as a whole: what the database knows, what agents report, and the one view made of both.
//!
//! [`DatabaseView`] is read from PostgreSQL; ownership in it comes from `pg_locks`, so it cannot be
//! wrong about who may write. [`FleetView`] adds what agents reported, says where the two differ,
//! and is what every screen, JSON document and API answer shows.

mod build;
mod database;
mod ownership;
mod reach;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use self::{
    build::{lag_summary, warnings},
    database::{AgentRow, DatabaseView, PipelineRow},
    ownership::{Ownership, REPORT_STALE_AFTER},
    reach::Unreached,
};
pub use crate::hold::{Hold, HoldKind};
use crate::{
    AgentName, Epoch, GroupName, Incarnation, UnitName, last_drain::LastDrain, report::AgentReport,
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
    /// The backend that holds its locks; none if it does not run, or nobody says.
    #[serde(default)]
    pub backend_pid: Option<i32>,
    /// What became of its newest drain, if that is on record.
    pub last_drain: Option<LastDrain>,
}

impl AgentView {
    /// The run that holds its name now; none if it does not run.
    pub fn running(&self) -> Option<Incarnation> {
        let up = !matches!(self.state, AgentState::Stopped | AgentState::Lost);
        up.then_some(self.incarnation)
    }

    /// Whether its newest drain makes it safe to stop.
    pub fn is_safe_to_stop(&self) -> bool {
        let drain = self.last_drain.as_ref();
        drain.is_some_and(|drain| drain.is_safe_to_stop(self.running()))
    }
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
    /// When its sink is tried again, if it is retrying and that is known.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub retry_at: Option<OffsetDateTime>,
    /// The backend that holds its lock, whosesoever it is.
    #[serde(default)]
    pub backend_pid: Option<i32>,
    /// Where it should be by everybody's calculation, if that is not where it is.
    pub moving_to: Option<AgentName>,
    /// Where an operator placed it.
    pub placement: Option<AgentName>,
    /// What holds it, if anything does: `pin to relay-2 by ana: licence dongle`.
    pub holds: Vec<String>,
    /// Whether the locks and what agents say of it agree.
    #[serde(default)]
    pub ownership: Ownership,
    /// Agents that say they run it although another session, or none, holds its lock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claimed_by: Vec<AgentName>,
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
    /// How much of it agents have told; none where nobody hears them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
    /// Grows with every change that the control plane shows; equal numbers of one control plane are
    /// equal views. None where nobody counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// How much of a fleet has told a control plane what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Agents that are alive.
    pub agents: u32,
    /// Those of them that have told everything.
    pub told: u32,
    /// The control plane has just started and waits for more of them: what it shows of the others is
    /// what the database knows, and it makes no plans yet.
    pub warming: bool,
}

impl Coverage {
    /// Part of the live agents that have told everything, from 0 to 1.
    pub fn share(self) -> f64 {
        if self.agents == 0 {
            return 1.0;
        }
        f64::from(self.told) / f64::from(self.agents)
    }
}

impl FleetView {
    /// Joins both sources. `reports` is empty when there is no control plane; `now` is on the
    /// same clock as the reports' arrival times.
    pub fn build(
        database: &DatabaseView,
        reports: &BTreeMap<AgentName, AgentReport>,
        now: OffsetDateTime,
    ) -> Self {
        let moves = database.moves();
        let pipelines: Vec<PipelineView> = database
            .pipelines
            .iter()
            .zip(moves)
            .map(|(row, moving_to)| {
                let placement = database.placements.get(&row.name).cloned();
                let report = row.owner.as_ref().and_then(|owner| reports.get(owner));
                let report = report.and_then(|report| report.pipelines.get(&row.name));
                let holds = database.holds_of(&row.name).map(Hold::summary).collect();
                PipelineView::build(row, placement, moving_to, holds, report)
            })
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
                let report = reports.get(&row.name);
                let holds = database.holds_on(&row.name).map(Hold::summary).collect();
                let holds = (database.admits(&row.name), holds);
                let last_drain = database.last_drains.get(&row.name).cloned();
                AgentView::build(row, holds, last_drain, report, owned, now)
            })
            .collect();
        let troubled = pipelines.iter().filter(|pipeline| pipeline.is_troubled());
        let warnings = warnings(agents.iter(), troubled);
        Self {
            group: database.group.clone(),
            agents,
            pipelines,
            database_at: database.taken_at,
            warnings,
            coverage: None,
            revision: None,
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
