//! What operators ask of the fleet, and what became of it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{AgentName, OperationId, UnitName};

/// One operation, as recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What kind.
    pub kind: OperationKind,
    /// The agent of a drain, the pipeline of a move, `fleet` for a rebalance.
    pub target: String,
    /// Who asked.
    pub actor: String,
    /// What for.
    pub reason: String,
    /// Where it stands.
    pub state: OperationState,
    /// How it ended, in words.
    pub outcome: Option<String>,
    /// The moves that a move or rebalance wants.
    pub moves: Vec<Move>,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it gives up.
    #[serde(with = "time::serde::rfc3339::option")]
    pub deadline_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
}

impl Operation {
    /// Whether it is a drain that was observed complete.
    pub fn is_safe_to_stop(&self) -> bool {
        self.kind == OperationKind::Drain && self.state == OperationState::Succeeded
    }
}

/// One wanted move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The pipeline.
    pub pipeline: UnitName,
    /// Its owner when the move was planned.
    pub from: Option<AgentName>,
    /// Where it should go.
    pub to: AgentName,
    /// Why, for the reader of a plan.
    #[serde(default)]
    pub reason: String,
}

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $type {
            /// The word in the catalog, in JSON and on the screen.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord(word.to_owned())),
                }
            }
        }
    };
}

/// A word that names no kind or state of an operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown operation kind or state {0:?}")]
pub struct UnknownWord(String);

words! {
    /// What kind of operation.
    OperationKind {
        /// Empty an agent and keep it empty.
        Drain = "drain",
        /// Let a drained agent work again.
        Undrain = "undrain",
        /// Bring one pipeline to an agent.
        Move = "move",
        /// Carry a plan of moves out.
        Rebalance = "rebalance",
    }
}

words! {
    /// Where an operation stands.
    OperationState {
        /// Not done yet.
        Running = "running",
        /// Observed done.
        Succeeded = "succeeded",
        /// Not done by its deadline.
        Failed = "failed",
        /// Given up on request.
        Cancelled = "cancelled",
    }
}
