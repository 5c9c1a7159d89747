//! Holds: named reasons for an agent or a pipeline to do less than it could. They stack; what is
//! in force is the strictest, and whoever takes one away takes away no other's.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{AgentName, HoldId, OperationId, PipelineName};

/// One hold that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its id.
    pub id: HoldId,
    /// Tells holds of one kind on one target apart: the owner's name, unless said otherwise.
    pub name: String,
    /// On whom.
    #[serde(flatten)]
    pub target: HoldTarget,
    /// What it forbids.
    pub kind: HoldKind,
    /// Its owner: who may take it away without breaking it.
    #[serde(rename = "owner")]
    pub actor: String,
    /// What for.
    pub reason: String,
    /// Of a pin: the agent.
    pub to: Option<AgentName>,
    /// Of a drain: how.
    pub drain: Option<DrainTerms>,
    /// The operation that it belongs to.
    pub operation: Option<OperationId>,
    /// Whether that operation has not ended.
    pub is_running: bool,
    /// Of a drain: when it gives up, or forces the end.
    #[serde(with = "time::serde::rfc3339::option")]
    pub deadline_at: Option<OffsetDateTime>,
    /// When it was set.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Until when; without end if none.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
}

/// On whom a hold is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldTarget {
    /// An agent: cordon and drain.
    Agent(AgentName),
    /// A pipeline with all its shards: pin, freeze and pause.
    Pipeline(PipelineName),
}

impl HoldTarget {
    /// The name of whatever it is.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Agent(name) => name.as_str(),
            Self::Pipeline(name) => name.as_str(),
        }
    }
}

/// What a hold forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldKind {
    /// An agent takes nothing, and gives everything away.
    Drain,
    /// An agent takes nothing more.
    Cordon,
    /// A pipeline leaves one agent only when that one cannot run it.
    Pin,
    /// A pipeline leaves its owner only when that one cannot run it.
    Freeze,
    /// A pipeline delivers nothing.
    Pause,
}

impl HoldKind {
    /// The word in the catalog and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Cordon => "cordon",
            Self::Pin => "pin",
            Self::Freeze => "freeze",
            Self::Pause => "pause",
        }
    }

    /// What it makes of its target, in words.
    pub fn participle(self) -> &'static str {
        match self {
            Self::Drain => "drained",
            Self::Cordon => "cordoned",
            Self::Pin => "pinned",
            Self::Freeze => "frozen",
            Self::Pause => "paused",
        }
    }
}

impl fmt::Display for HoldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is none of those that it could be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown word {0:?}")]
pub struct UnknownWord(String);

impl FromStr for HoldKind {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let kinds = [
            Self::Drain,
            Self::Cordon,
            Self::Pin,
            Self::Freeze,
            Self::Pause,
        ];
        let found = kinds.into_iter().find(|kind| kind.as_str() == word);
        found.ok_or_else(|| UnknownWord(word.to_owned()))
    }
}

/// How an agent is drained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainTerms {
    /// What comes afterwards.
    pub mode: DrainMode,
    /// What becomes of what is left at the deadline.
    pub on_deadline: OnDeadline,
    /// At most so many pipelines are handed over at a time; as many as there are if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pace: Option<u32>,
}

/// What comes after a drain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainMode {
    /// The agent comes back: the hold ends with its restart, and its share returns.
    Restart,
    /// It stays empty until it is undrained.
    #[default]
    Evacuate,
    /// It ends by itself once it is empty, and is forgotten.
    Remove,
}

impl DrainMode {
    /// The word in the catalog and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Evacuate => "evacuate",
            Self::Remove => "remove",
        }
    }
}

/// What becomes of what is left at the deadline of a drain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDeadline {
    /// The drain has failed, and the agent goes on giving away.
    #[default]
    Keep,
    /// What is on the wire is given up, and may come twice.
    Force,
}

impl Hold {
    /// The agent that is held, if it is one.
    pub fn agent(&self) -> Option<&AgentName> {
        match &self.target {
            HoldTarget::Agent(name) => Some(name),
            HoldTarget::Pipeline(_) => None,
        }
    }

    /// The pipeline that is held, if it is one.
    pub fn pipeline(&self) -> Option<&PipelineName> {
        match &self.target {
            HoldTarget::Agent(_) => None,
            HoldTarget::Pipeline(name) => Some(name),
        }
    }

    /// Who set it, until when and what for: `by ana until 2026-11-21T18:00:00Z: kernel`.
    pub fn origin(&self) -> String {
        let until = self.expires_at.map_or_else(String::new, |until| {
            let until = until.replace_nanosecond(0).unwrap_or(until);
            match until.format(&time::format_description::well_known::Rfc3339) {
                Ok(until) => format!(" until {until}"),
                Err(_) => String::new(),
            }
        });
        let reason = match self.reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        format!("by {}{until}{reason}", self.actor)
    }

    /// For lists of holds: `pin to relay-2 by ana: licence dongle`.
    pub fn summary(&self) -> String {
        let to = self
            .to
            .as_ref()
            .map_or_else(String::new, |to| format!(" to {to}"));
        let mode = match self.drain.map(|drain| drain.mode) {
            Some(mode @ (DrainMode::Restart | DrainMode::Remove)) => {
                format!(" ({})", mode.as_str())
            }
            Some(DrainMode::Evacuate) | None => String::new(),
        };
        format!("{}{mode}{to} {}", self.kind, self.origin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_says_who_until_when_and_what_for() {
        let mut hold = Hold {
            id: HoldId(uuid::Uuid::nil()),
            name: "ana".to_owned(),
            target: HoldTarget::Agent("relay-2".parse().unwrap()),
            kind: HoldKind::Cordon,
            actor: "ana".to_owned(),
            reason: "kernel".to_owned(),
            to: None,
            drain: None,
            operation: None,
            is_running: false,
            deadline_at: None,
            created_at: OffsetDateTime::UNIX_EPOCH,
            expires_at: Some(OffsetDateTime::UNIX_EPOCH),
        };
        assert_eq!(
            hold.summary(),
            "cordon by ana until 1970-01-01T00:00:00Z: kernel"
        );
        hold.expires_at = None;
        hold.kind = HoldKind::Pin;
        hold.to = Some("relay-1".parse().unwrap());
        assert_eq!(hold.summary(), "pin to relay-1 by ana: kernel");
        hold.kind = HoldKind::Drain;
        hold.to = None;
        hold.drain = Some(DrainTerms {
            mode: DrainMode::Restart,
            ..DrainTerms::default()
        });
        assert_eq!(hold.summary(), "drain (restart) by ana: kernel");
    }

    #[test]
    fn terms_that_say_nothing_are_those_of_a_plain_drain() {
        let terms: DrainTerms = serde_json::from_str("{}").unwrap();
        assert_eq!(terms, DrainTerms::default());
        let terms: DrainTerms =
            serde_json::from_str(r#"{"mode": "remove", "on_deadline": "force", "pace": 2}"#)
                .unwrap();
        assert_eq!(
            (terms.mode, terms.on_deadline, terms.pace),
            (DrainMode::Remove, OnDeadline::Force, Some(2))
        );
    }
}
