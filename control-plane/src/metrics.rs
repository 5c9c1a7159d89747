//! Every metric of the control plane. `docs/metrics.md` explains them.

use std::collections::BTreeMap;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use tide_model::fleet::{AgentState, Ownership};

use crate::{access::Denied, fleet::view::View};

/// Agents by state. Label: `state`.
pub(crate) const AGENTS: &str = "tide_control_plane_agents";
/// Pipelines by state. Label: `state`.
pub(crate) const PIPELINES: &str = "tide_control_plane_pipelines";
/// Enabled pipelines that nobody owns.
pub(crate) const UNOWNED_PIPELINES: &str = "tide_control_plane_unowned_pipelines";
/// Operations that have not ended.
pub(crate) const RUNNING_OPERATIONS: &str = "tide_control_plane_running_operations";
/// Open watches, of the fleet and of operations.
pub(crate) const WATCHERS: &str = "tide_control_plane_watchers";
/// Seconds since the database last answered.
pub(crate) const DATABASE_AGE_SECONDS: &str = "tide_control_plane_database_age_seconds";
/// 1 while this replica is the active one and knows it for certain.
pub(crate) const ACTIVE: &str = "tide_control_plane_active";
/// How often this replica became the active one, or ceased to be. Label: `to`.
pub(crate) const LEADERSHIP_CHANGES_TOTAL: &str = "tide_control_plane_leadership_changes_total";
/// Messages of agents. Label: `kind`.
pub(crate) const REPORTS_TOTAL: &str = "tide_control_plane_reports_total";
/// Calls of Tide's services, counted when they are answered and streams when they begin. Labels:
/// `method`, `code`.
pub(crate) const REQUESTS_TOTAL: &str = "tide_control_plane_requests_total";

/// Requests that were not let through. Label: `reason`.
pub(crate) const DENIED_TOTAL: &str = "tide_control_plane_denied_total";
/// Lines of the audit that could not be written.
pub(crate) const AUDIT_LOST_TOTAL: &str = "tide_control_plane_audit_lost_total";

/// Pipelines of which the locks and what agents report disagree. Label: `ownership`.
pub(crate) const DISAGREEMENTS_GAUGE: &str = "tide_control_plane_ownership_disagreements";
/// How many times the mean the fullest agent has by measured load.
pub(crate) const LOAD_IMBALANCE: &str = "tide_control_plane_load_imbalance_ratio";
/// Part of the live agents that have told everything since this control plane started.
pub(crate) const COVERAGE: &str = "tide_control_plane_coverage_ratio";

const DISAGREEMENTS: [Ownership; 4] = [
    Ownership::Split,
    Ownership::Orphan,
    Ownership::Ghost,
    Ownership::Stale,
];

const AGENT_STATES: [AgentState; 7] = [
    AgentState::Active,
    AgentState::Cordoned,
    AgentState::Draining,
    AgentState::Drained,
    AgentState::Stale,
    AgentState::Stopped,
    AgentState::Lost,
];

const PIPELINE_STATES: [&str; 9] = [
    "starting",
    "running",
    "retrying",
    "paused",
    "misconfigured",
    "stopped",
    "unowned",
    "disabled",
    "orphan",
];

/// What kind of message an agent sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportKind {
    /// Who it is.
    Hello,
    /// All of its pipelines, at once or by the last chunk.
    Snapshot,
    /// Some of its pipelines, on the way to all.
    SnapshotChunk,
    /// What changed.
    Delta,
    /// How far pipelines are behind.
    Lag,
    /// Nothing changed.
    Heartbeat,
    /// It stops.
    Goodbye,
}

impl ReportKind {
    const ALL: [Self; 7] = [
        Self::Hello,
        Self::Snapshot,
        Self::SnapshotChunk,
        Self::Delta,
        Self::Lag,
        Self::Heartbeat,
        Self::Goodbye,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Snapshot => "snapshot",
            Self::SnapshotChunk => "snapshot_chunk",
            Self::Delta => "delta",
            Self::Lag => "lag",
            Self::Heartbeat => "heartbeat",
            Self::Goodbye => "goodbye",
        }
    }
}

/// Describes everything and makes every series with closed labels exist at zero, so that a rate
/// over the first event is not lost. `methods` are the methods of Tide's services.
pub(crate) fn describe(methods: &[&'static str]) {
    describe_gauge!(AGENTS, "Agents by state.");
    describe_gauge!(PIPELINES, "Pipelines by state.");
    describe_gauge!(UNOWNED_PIPELINES, "Enabled pipelines that nobody owns.");
    describe_gauge!(
        DISAGREEMENTS_GAUGE,
        "Pipelines of which the locks and what agents report disagree."
    );
    describe_gauge!(
        COVERAGE,
        "Part of the live agents that have told everything."
    );
    describe_gauge!(
        LOAD_IMBALANCE,
        "How many times the mean the fullest agent has by measured load."
    );
    describe_gauge!(RUNNING_OPERATIONS, "Operations that have not ended.");
    describe_gauge!(WATCHERS, "Open watches, of the fleet and of operations.");
    describe_gauge!(
        DATABASE_AGE_SECONDS,
        "Seconds since the database last answered."
    );
    describe_gauge!(ACTIVE, "1 while this replica is certainly the active one.");
    describe_counter!(
        LEADERSHIP_CHANGES_TOTAL,
        "How often this replica became the active one, or ceased to be."
    );
    for to in [true, false] {
        counter!(LEADERSHIP_CHANGES_TOTAL, "to" => standing(to)).absolute(0);
    }
    describe_counter!(REPORTS_TOTAL, "Messages of agents.");
    describe_counter!(
        REQUESTS_TOTAL,
        "Calls, counted when they are answered and streams when they begin."
    );
    describe_counter!(DENIED_TOTAL, "Requests that were not let through.");
    for reason in Denied::REASONS {
        counter!(DENIED_TOTAL, "reason" => reason).absolute(0);
    }
    describe_counter!(
        AUDIT_LOST_TOTAL,
        "Lines of the audit that could not be written."
    );
    counter!(AUDIT_LOST_TOTAL).absolute(0);
    for kind in ReportKind::ALL {
        counter!(REPORTS_TOTAL, "kind" => kind.as_str()).absolute(0);
    }
    for method in methods {
        counter!(REQUESTS_TOTAL, "method" => *method, "code" => "Ok").absolute(0);
    }
    gauge!(LOAD_IMBALANCE).set(1.0);
    gauge!(RUNNING_OPERATIONS).set(0.0);
    gauge!(WATCHERS).set(0.0);
}

/// Counts a message of an agent.
pub(crate) fn count_report(kind: ReportKind) {
    counter!(REPORTS_TOTAL, "kind" => kind.as_str()).increment(1);
}

/// Counts a change of who leads, as this replica sees itself.
pub(crate) fn count_leadership_change(leads: bool) {
    counter!(LEADERSHIP_CHANGES_TOTAL, "to" => standing(leads)).increment(1);
}

fn standing(leads: bool) -> &'static str {
    if leads { "active" } else { "standby" }
}

/// Shows a fleet.
pub(crate) fn record_fleet(view: &View) {
    gauge!(COVERAGE).set(view.coverage.share());
    for state in AGENT_STATES {
        let agents = view
            .agents
            .iter()
            .filter(|agent| agent.state == state)
            .count();
        gauge!(AGENTS, "state" => state.as_str()).set(agents as f64);
    }
    let mut pipelines = BTreeMap::from(PIPELINE_STATES.map(|state| (state, 0_u32)));
    let mut disagreements = BTreeMap::from(DISAGREEMENTS.map(|ownership| (ownership.as_str(), 0)));
    for pipeline in view.pipelines.iter() {
        if let Some(count) = disagreements.get_mut(pipeline.ownership.as_str()) {
            *count += 1;
        }
        if let Some(count) = pipelines.get_mut(pipeline.state.as_str()) {
            *count += 1;
        }
    }
    for (state, count) in pipelines {
        gauge!(PIPELINES, "state" => state).set(count);
    }
    for (ownership, count) in disagreements {
        gauge!(DISAGREEMENTS_GAUGE, "ownership" => ownership).set(count);
    }
    gauge!(UNOWNED_PIPELINES).set(view.unowned() as f64);
}
