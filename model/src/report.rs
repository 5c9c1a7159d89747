//! What an agent says about itself to the control plane.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use crate::{AgentName, Epoch, GroupName, Incarnation, PipelineState, UnitName};

/// Identity of an agent's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// Its group.
    pub group: GroupName,
    /// Its name.
    pub name: AgentName,
    /// Its run. A newer one displaces the stream of an older one.
    pub incarnation: Incarnation,
    /// What it runs.
    pub version: String,
}

/// Everything that an agent last reported.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentReport {
    /// The run that reported.
    pub incarnation: Incarnation,
    /// Number of the newest message; grows by one with each.
    pub sequence: u64,
    /// When the newest message arrived, on the receiver's clock.
    pub received_at: OffsetDateTime,
    /// The pipelines it runs.
    pub pipelines: BTreeMap<UnitName, PipelineReport>,
}

/// What an agent says about one pipeline that it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineReport {
    /// The epoch it runs under.
    pub epoch: Epoch,
    /// What it is doing.
    pub state: PipelineState,
    /// Why, if there is something to say.
    pub reason: Option<String>,
    /// The highest message id delivered.
    pub last_change_id: i64,
    /// Messages behind.
    pub lag_rows: i64,
    /// Age of the oldest message that waits, seconds.
    pub lag_seconds: f64,
}

/// One message of an agent's stream, after its hello.
#[derive(Debug, Clone, PartialEq)]
pub enum ReportMessage {
    /// All pipelines it runs; whatever was known before is replaced.
    Snapshot(BTreeMap<UnitName, PipelineReport>),
    /// Pipelines that changed, and pipelines that it no longer runs.
    Delta {
        /// New or changed.
        changed: BTreeMap<UnitName, PipelineReport>,
        /// No longer run.
        removed: Vec<UnitName>,
    },
    /// Nothing changed; it is alive.
    Heartbeat,
    /// It is stopping in good order.
    Goodbye,
}
