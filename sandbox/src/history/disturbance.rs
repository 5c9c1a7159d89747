//! What was done to the fleet, and what it may explain.

use std::{collections::BTreeSet, fmt};

use time::OffsetDateTime;

/// Kinds of disturbance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// An agent was killed.
    Crash,
    /// An agent, or a server, was stopped in its tracks.
    Freeze,
    /// An agent could not be heard. It had time to notice, and to be silent when its time was over.
    Partition,
    /// The server ended the session that held an agent's locks: another may own them at once.
    LostSession,
    /// PostgreSQL went down and came up.
    ServerRestart,
    /// A sink accepted without saying so, or too late: its sender had to try again.
    Retry,
}

/// Which pipelines a disturbance can have touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Every one.
    All,
    /// These.
    Only(BTreeSet<String>),
    /// Those that this agent owned at the time: only who [owned what](super::Tenures) tells which.
    Agent(String),
}

/// A disturbance and the time in which its effects may arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disturbance {
    /// Its kind.
    pub cause: Cause,
    /// What it can have touched.
    pub reach: Reach,
    /// When it began.
    pub from: OffsetDateTime,
    /// When its last effect may have arrived: not its end, but that of the recovery.
    pub until: OffsetDateTime,
}

/// Why something came twice, or late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Explanation {
    /// Because of a disturbance.
    Because(Cause),
    /// Nothing that was done explains it.
    Unexplained,
}

impl Reach {
    /// Only these pipelines.
    pub fn only(pipelines: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::Only(pipelines.into_iter().map(Into::into).collect())
    }

    fn holds(&self, pipeline: &str) -> bool {
        match self {
            // Without tenures anything may have been an agent's.
            Self::All | Self::Agent(_) => true,
            Self::Only(pipelines) => pipelines.contains(pipeline),
        }
    }
}

impl Disturbance {
    /// A disturbance that began then and whose effects may arrive until the other time.
    pub fn new(cause: Cause, reach: Reach, from: OffsetDateTime, until: OffsetDateTime) -> Self {
        Self {
            cause,
            reach,
            from,
            until,
        }
    }

    fn explains(&self, pipeline: &str, at: Option<OffsetDateTime>) -> bool {
        self.reach.holds(pipeline) && at.is_none_or(|at| self.from <= at && at <= self.until)
    }
}

/// The latest disturbance that explains something irregular on a pipeline at a time.
pub(super) fn explain(
    disturbances: &[Disturbance],
    pipeline: &str,
    at: Option<OffsetDateTime>,
) -> Explanation {
    disturbances
        .iter()
        .filter(|disturbance| disturbance.explains(pipeline, at))
        .max_by_key(|disturbance| disturbance.from)
        .map_or(Explanation::Unexplained, |disturbance| {
            Explanation::Because(disturbance.cause)
        })
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Crash => "crash",
            Self::Freeze => "freeze",
            Self::Partition => "partition",
            Self::LostSession => "lost session",
            Self::ServerRestart => "server restart",
            Self::Retry => "retry",
        })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Because(cause) => cause.fmt(formatter),
            Self::Unexplained => formatter.write_str("unexplained"),
        }
    }
}
