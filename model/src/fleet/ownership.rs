//! Who owns a pipeline, by two sources: `pg_locks`, which decides, and what agents say.
//!
//! | lock is held by | and says it runs it | verdict |
//! | --- | --- | --- |
//! | an agent | this agent alone | `AGREED` |
//! | an agent | another agent (too) | `SPLIT` |
//! | an agent | nobody | `ORPHAN` |
//! | a session that is no agent's | nobody, or whoever | `ORPHAN` |
//! | nobody | an agent | `GHOST` |
//! | an agent whose reports have stopped | (it cannot be known) | `STALE` |
//! | nobody | nobody | `AGREED` |
//!
//! A verdict delivers nothing twice and moves nothing: only the newest epoch may write. It says where
//! to look.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::{PipelineRow, PipelineView};
use crate::{AgentName, report::AgentReport};

/// An agent whose report is older than this is stale, if it still holds its locks.
pub const REPORT_STALE_AFTER: Duration = Duration::seconds(15);

/// What the comparison of both sources says of one pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Ownership {
    /// They agree, or there is only one.
    #[default]
    Agreed,
    /// One agent holds the lock, and another says that it runs the pipeline.
    Split,
    /// The lock is held, and whoever holds it does not run the pipeline.
    Orphan,
    /// An agent says that it runs the pipeline, and nobody holds the lock.
    Ghost,
    /// The lock is held by an agent whose reports have stopped.
    Stale,
}

impl Ownership {
    /// The word in JSON and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agreed => "AGREED",
            Self::Split => "SPLIT",
            Self::Orphan => "ORPHAN",
            Self::Ghost => "GHOST",
            Self::Stale => "STALE",
        }
    }

    /// Compares a row with what its owner reports and with who else claims to run it. `told` is
    /// whether the owner has told everything that it runs.
    pub fn compare(
        row: &PipelineRow,
        report: Option<&AgentReport>,
        told: bool,
        others: &BTreeSet<AgentName>,
        now: OffsetDateTime,
    ) -> Self {
        let Some(_owner) = &row.owner else {
            return match (row.owner_pid, others.is_empty()) {
                (Some(_), _) => Self::Orphan,
                (None, false) => Self::Ghost,
                (None, true) => Self::Agreed,
            };
        };
        if !others.is_empty() {
            return Self::Split;
        }
        match report {
            Some(report) if now - report.received_at > REPORT_STALE_AFTER => Self::Stale,
            Some(report) if told && row.enabled && !report.pipelines.contains_key(&row.name) => {
                Self::Orphan
            }
            Some(_) | None => Self::Agreed,
        }
    }

    /// What an operator should know, and where to look; none while all agree, and for what a warning
    /// about the agent says once for all of its pipelines.
    pub(super) fn warning(self, pipeline: &PipelineView) -> Option<String> {
        let name = &pipeline.name;
        let owner = pipeline.owner.as_ref().map_or("-", AgentName::as_str);
        let claimants: Vec<&str> = pipeline.claimed_by.iter().map(AgentName::as_str).collect();
        let claimants = claimants.join(", ");
        match self {
            Self::Agreed | Self::Stale => None,
            Self::Split => Some(format!(
                "{name} is SPLIT: {owner} holds its lock, and {claimants} says to run it; only the \
                 newest epoch may write. Look at the log of {claimants}"
            )),
            Self::Ghost => Some(format!(
                "{name} is a GHOST: {claimants} says to run it, and nobody holds its lock. Look at \
                 the log of {claimants}"
            )),
            Self::Orphan if pipeline.owner.is_some() => Some(format!(
                "{name} is an ORPHAN: {owner} holds its lock and does not run it. Look at the log of \
                 {owner}"
            )),
            Self::Orphan => {
                let reason = pipeline.reason.as_deref().unwrap_or("its lock is held");
                Some(format!(
                    "{name} is an ORPHAN: {reason}; no agent can take over. See: tidectl locks orphans"
                ))
            }
        }
    }
}
