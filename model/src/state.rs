//! What a pipeline is doing, as its owner last said.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// State of an owned pipeline. The catalog stores these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// Claimed; its sink is being opened. Set by the claim itself.
    Starting,
    /// Delivering, or idle with nothing to deliver.
    Running,
    /// The sink fails for now; the owner tries again and loses nothing.
    Retrying,
    /// The owner cannot prove that it still holds its locks and waits.
    Paused,
    /// The configuration cannot work; waits for an operator to change it.
    Misconfigured,
    /// Released in good order.
    Stopped,
}

impl PipelineState {
    /// The word in the catalog, in JSON and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Paused => "paused",
            Self::Misconfigured => "misconfigured",
            Self::Stopped => "stopped",
        }
    }

    /// Whether messages flow, or would if there were any.
    pub fn is_healthy(self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }
}

impl fmt::Display for PipelineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown pipeline state {0:?}")]
pub struct UnknownState(String);

impl FromStr for PipelineState {
    type Err = UnknownState;

    fn from_str(word: &str) -> Result<Self, UnknownState> {
        [
            Self::Starting,
            Self::Running,
            Self::Retrying,
            Self::Paused,
            Self::Misconfigured,
            Self::Stopped,
        ]
        .into_iter()
        .find(|state| state.as_str() == word)
        .ok_or_else(|| UnknownState(word.to_owned()))
    }
}
