//! What was found, before anybody has an opinion about it.

use tide_catalog::{leader::LeaderInfo, pipelines::StoredPipeline, preflight::ServerFacts};
use tide_model::{GroupName, fleet::DatabaseView};
use time::{Duration, OffsetDateTime};

use crate::{args::Part, error::CliError};

/// An error, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl From<CliError> for Problem {
    fn from(error: CliError) -> Self {
        Self {
            message: error.to_string(),
            hint: error.hint(),
        }
    }
}

/// What was asked for, or why it could not be had.
pub(super) type Asked<T> = Result<T, Problem>;

/// Everything.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The group that was asked about.
    pub(super) group: GroupName,
    /// What the database user is for; none if that was not said.
    pub(super) part: Option<Part>,
    /// The database: its address, and what is there.
    pub(super) database: (String, Asked<Database>),
    /// Each control plane that was named.
    pub(super) control_planes: Vec<ControlPlane>,
}

/// A database that answers.
#[derive(Debug, Clone)]
pub(super) struct Database {
    /// Whether something pools transactions on the way, and what it says; nothing else is asked
    /// then, because the answers would be about somebody else's session.
    pub(super) pooler: Pooler,
    /// What else there is to know.
    pub(super) server: Option<Box<Server>>,
}

/// Whether something pools transactions on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pooler {
    /// Every session has a backend of its own.
    None,
    /// Sessions share backends.
    Found,
    /// It could not be found out.
    Unknown(Problem),
}

/// A server that is asked directly.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) clock: Clock,
    pub(super) facts: Asked<ServerFacts>,
    /// `idle_session_timeout` of a session that asked for [`LEASE`].
    pub(super) lease: Asked<i64>,
    pub(super) catalog: Asked<()>,
    /// None without a catalog to have rights on.
    pub(super) rights: Option<Asked<Rights>>,
    /// None without a catalog to read it from.
    pub(super) fleet: Option<Asked<Fleet>>,
}

/// The lease that is tried, the agents' default.
pub(super) const LEASE: std::time::Duration = std::time::Duration::from_secs(3);

/// How the server's clock compares with this machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clock {
    /// How far the server's is ahead.
    pub(super) ahead: Duration,
    /// What the way there and back leaves open, in both directions.
    pub(super) uncertainty: Duration,
}

impl Clock {
    /// From an answer that was asked for and came at these times of ours.
    pub(super) fn of(asked: OffsetDateTime, server: OffsetDateTime, came: OffsetDateTime) -> Self {
        let uncertainty = (came - asked) / 2;
        Self {
            ahead: server - (asked + uncertainty),
            uncertainty,
        }
    }
}

/// What the user lacks for each part.
#[derive(Debug, Clone, Default)]
pub(super) struct Rights {
    pub(super) agent: Vec<String>,
    pub(super) operator: Vec<String>,
    pub(super) publisher: Vec<String>,
}

/// The fleet, as the database has it.
#[derive(Debug, Clone)]
pub(super) struct Fleet {
    pub(super) view: DatabaseView,
    pub(super) pipelines: Vec<StoredPipeline>,
    pub(super) leader: Option<LeaderInfo>,
}

/// A control plane that was asked.
#[derive(Debug, Clone)]
pub(super) struct ControlPlane {
    pub(super) address: String,
    pub(super) answer: Answer,
}

/// What it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It leads this group.
    Active(GroupName),
    /// It does not lead, and says who does.
    Standby(String),
    /// It cannot be asked.
    Trouble(Problem),
}
