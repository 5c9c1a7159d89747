//! What an agent says about itself to the control plane.

mod digest;
mod lanes;

use std::collections::BTreeMap;

use time::OffsetDateTime;

pub use self::{
    digest::OwnershipDigest,
    lanes::{Dialect, Lanes, Pace},
};
use crate::{AgentName, Epoch, GroupName, Incarnation, PipelineState, UnitName};

/// What an agent says of everything that it runs.
pub type PipelineReports = BTreeMap<UnitName, PipelineReport>;

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
    /// Whether it ever told everything that it runs.
    pub complete: bool,
    /// The pipelines it runs.
    pub pipelines: PipelineReports,
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

/// How far behind one pipeline is: what changes all the time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LagReport {
    /// The highest message id delivered.
    pub last_change_id: i64,
    /// Messages behind.
    pub lag_rows: i64,
    /// Age of the oldest message that waits, seconds.
    pub lag_seconds: f64,
}

impl PipelineReport {
    /// The part that changes all the time.
    pub fn lag(&self) -> LagReport {
        LagReport {
            last_change_id: self.last_change_id,
            lag_rows: self.lag_rows,
            lag_seconds: self.lag_seconds,
        }
    }

    /// Replaces the part that changes all the time.
    pub fn set_lag(&mut self, lag: LagReport) {
        self.last_change_id = lag.last_change_id;
        self.lag_rows = lag.lag_rows;
        self.lag_seconds = lag.lag_seconds;
    }
}

/// One message of an agent's stream, after its hello.
#[derive(Debug, Clone, PartialEq)]
pub enum ReportMessage {
    /// All pipelines it runs; whatever was known before is replaced.
    Snapshot(PipelineReports),
    /// Some of the pipelines it runs, on the way to a [`SnapshotEnd`](Self::SnapshotEnd).
    SnapshotChunk(PipelineReports),
    /// The chunks since the last message of another kind are all pipelines it runs.
    SnapshotEnd {
        /// How many pipelines they are.
        count: u64,
        /// Their digest.
        digest: OwnershipDigest,
    },
    /// Pipelines that changed, and pipelines that it no longer runs.
    Delta {
        /// New or changed.
        changed: PipelineReports,
        /// No longer run.
        removed: Vec<UnitName>,
    },
    /// How far pipelines that were told of before are behind now.
    Lag(BTreeMap<UnitName, LagReport>),
    /// Nothing changed; it is alive.
    Heartbeat {
        /// Of all that it has told; none from an agent that does not say.
        digest: Option<OwnershipDigest>,
    },
    /// It is stopping in good order.
    Goodbye,
}
