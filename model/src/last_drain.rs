//! What became of an agent's newest drain, and whether it is safe to stop because of it. Kept when
//! the hold is gone.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{Incarnation, OperationId, operation::OperationState};

/// An agent's newest drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastDrain {
    /// The operation.
    pub operation: OperationId,
    /// Where it stands.
    pub state: OperationState,
    /// Who asked.
    #[serde(rename = "owner")]
    pub actor: String,
    /// What for.
    pub reason: String,
    /// How it ended, in words.
    pub outcome: Option<String>,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// The run that was seen empty; none if none was.
    pub verified: Option<Incarnation>,
    /// Why it is no longer safe to stop, if it was.
    pub voided: Option<String>,
}

impl LastDrain {
    /// Whether the agent is safe to stop: it was seen empty twice, in the run that is running now, if
    /// any is, and has taken nothing since.
    pub fn is_safe_to_stop(&self, running: Option<Incarnation>) -> bool {
        let same = |seen: Incarnation| running.is_none_or(|now| now == seen);
        self.voided.is_none() && self.verified.is_some_and(same)
    }

    /// For the screen: `succeeded, by ana: kernel; safe to stop`.
    pub fn summary(&self, running: Option<Incarnation>) -> String {
        let reason = match self.reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        let safe = match &self.voided {
            _ if self.is_safe_to_stop(running) => "safe to stop".to_owned(),
            Some(because) => format!("not safe to stop any more, as {because}"),
            None if self.verified.is_some() => {
                "not known to be safe to stop, as it began anew".to_owned()
            }
            None => "not safe to stop".to_owned(),
        };
        format!("{}, by {}{reason}; {safe}", self.state, self.actor)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn safe_is_what_was_seen_of_this_very_run_and_has_not_ended() {
        let (this, other) = (
            Incarnation(Uuid::from_u128(1)),
            Incarnation(Uuid::from_u128(2)),
        );
        let mut drain = LastDrain {
            operation: OperationId(Uuid::nil()),
            state: OperationState::Succeeded,
            actor: "ana".to_owned(),
            reason: "kernel".to_owned(),
            outcome: None,
            finished_at: None,
            verified: Some(this),
            voided: None,
        };
        assert!(drain.is_safe_to_stop(Some(this)));
        assert!(drain.is_safe_to_stop(None), "it does not run");
        assert!(!drain.is_safe_to_stop(Some(other)));
        assert_eq!(
            drain.summary(Some(this)),
            "succeeded, by ana: kernel; safe to stop"
        );
        drain.voided = Some("it took orders".to_owned());
        assert!(!drain.is_safe_to_stop(Some(this)) && !drain.is_safe_to_stop(None));
        assert!(
            drain
                .summary(None)
                .ends_with("not safe to stop any more, as it took orders")
        );
        (drain.voided, drain.verified) = (None, None);
        assert!(!drain.is_safe_to_stop(None));
    }
}
