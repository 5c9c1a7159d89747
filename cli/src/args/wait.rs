//! `wait`: for what, and how long.

use std::{str::FromStr, time::Duration};

use clap::Args;
use tide_model::{AgentName, UnitName};

use super::duration;

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub struct WaitForArgs {
    /// agent/NAME or pipeline/NAME
    #[arg(value_name = "KIND/NAME")]
    pub subject: WaitSubject,
    /// Of an agent: active, cordoned, drained (safe to stop), empty or gone; of a pipeline: running,
    /// paused, owned, owner=AGENT or lag<DURATION
    #[arg(long = "for", value_name = "CONDITION")]
    pub condition: String,
    /// Stop waiting after this long and exit with 5
    #[arg(long = "wait", value_name = "LIMIT", value_parser = duration::parse_positive)]
    pub limit: Option<Duration>,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitSubject {
    /// An agent.
    Agent(AgentName),
    /// A pipeline, or one of its shards.
    Pipeline(UnitName),
}

/// Text that names neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubject {
    /// No kind, or an unknown one.
    #[error("write agent/NAME or pipeline/NAME")]
    Kind,
    /// A name that nobody can have.
    #[error("{0}")]
    Name(String),
}

impl FromStr for WaitSubject {
    type Err = InvalidSubject;

    fn from_str(text: &str) -> Result<Self, InvalidSubject> {
        let (kind, name) = text.split_once('/').ok_or(InvalidSubject::Kind)?;
        match kind {
            "agent" => name
                .parse()
                .map(Self::Agent)
                .map_err(|error| InvalidSubject::Name(format!("{error}"))),
            "pipeline" => name
                .parse()
                .map(Self::Pipeline)
                .map_err(|error| InvalidSubject::Name(format!("{error}"))),
            _ => Err(InvalidSubject::Kind),
        }
    }
}
