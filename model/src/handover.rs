//! Why a pipeline changed hands.

use std::{fmt, str::FromStr};

/// Why a pipeline left its owner. The last one is what nobody planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HandoverKind {
    /// A hold asked the owner to give everything away.
    Drain,
    /// It balances the load: an agent joined, or somebody asked for a rebalance.
    Rebalance,
    /// The owner was told to stop.
    Shutdown,
    /// An operator placed this pipeline elsewhere.
    Move,
    /// The owner crashed, froze, was cut off or lost its session.
    Crash,
}

/// A word that is no kind of hand-over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind of hand-over: {0}")]
pub struct UnknownHandover(String);

impl HandoverKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Drain,
        Self::Rebalance,
        Self::Shutdown,
        Self::Move,
        Self::Crash,
    ];

    /// The word in the catalog, in metrics and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Rebalance => "rebalance",
            Self::Shutdown => "shutdown",
            Self::Move => "move",
            Self::Crash => "crash",
        }
    }
}

impl fmt::Display for HandoverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for HandoverKind {
    type Err = UnknownHandover;

    fn from_str(text: &str) -> Result<Self, UnknownHandover> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownHandover(text.to_owned()))
    }
}
