//! Names and identities. Parsed once at the edge, trusted inside.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A name that the rules below do not admit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} name {name:?}: {rule}")]
pub struct InvalidName {
    what: &'static str,
    name: String,
    rule: String,
}

impl InvalidName {
    pub(crate) fn shard(name: String) -> Self {
        let rule = "after # comes which shard of how many, such as orders#2/4".to_owned();
        Self {
            what: "pipeline",
            name,
            rule,
        }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:literal, not $excluded:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::try_from(name.to_owned())
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(name: String) -> Result<Self, InvalidName> {
                let fits = !name.is_empty()
                    && name.len() <= $max
                    && !name.chars().any(|c| c.is_whitespace() || c.is_control() || <[char]>::contains(&$excluded, &c));
                if fits { return Ok(Self(name)); }
                let rule = format!("use 1 to {} characters, no spaces or control characters", $max);
                Err(InvalidName { what: $what, name, rule })
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
    };
}

name!(
    /// One relay agent, unique within its group. Operators type it: `tidectl drain relay-2`.
    AgentName, "agent", 128, not []
);
name!(
    /// One pipeline, unique in its database.
    PipelineName, "pipeline", 128, not ['#']
);
name!(
    /// A set of agents that share pipelines out among themselves (`--relay-group-id`).
    GroupName, "group", 128, not []
);
name!(
    /// One process, as the leaders' table shows it: for people, not for deciding anything.
    NodeId, "node", 300, not []
);

/// Fencing token: grows with every claim of any pipeline, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub Uuid);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $type {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// One run of an agent process on one lock session; a new one after every restart.
    Incarnation
);
id!(
    /// One operation that somebody asked for.
    OperationId
);
id!(
    /// One hold on an agent or a pipeline.
    HoldId
);
id!(
    /// One plan that the catalog keeps.
    PlanId
);
