//! Holds, and how agents are drained.

use tide_model::{
    fleet::{Hold, HoldKind},
    hold::{DrainMode, DrainTerms, HoldTarget, OnDeadline},
    last_drain::LastDrain,
};

use super::{InvalidField, non_empty, parse, parse_optional, time};
use crate::fleet::v1 as wire;

impl From<HoldKind> for wire::HoldKind {
    fn from(kind: HoldKind) -> Self {
        match kind {
            HoldKind::Drain => Self::Drain,
            HoldKind::Cordon => Self::Cordon,
            HoldKind::Pin => Self::Pin,
            HoldKind::Freeze => Self::Freeze,
            HoldKind::Pause => Self::Pause,
        }
    }
}

impl TryFrom<wire::HoldKind> for HoldKind {
    type Error = InvalidField;

    fn try_from(kind: wire::HoldKind) -> Result<Self, InvalidField> {
        Ok(match kind {
            wire::HoldKind::Unspecified => return Err(InvalidField::missing("hold.kind")),
            wire::HoldKind::Drain => Self::Drain,
            wire::HoldKind::Cordon => Self::Cordon,
            wire::HoldKind::Pin => Self::Pin,
            wire::HoldKind::Freeze => Self::Freeze,
            wire::HoldKind::Pause => Self::Pause,
        })
    }
}

/// The target that a hold of this kind has.
pub fn hold_target(kind: HoldKind, name: &str) -> Result<HoldTarget, InvalidField> {
    Ok(match kind {
        HoldKind::Drain | HoldKind::Cordon => HoldTarget::Agent(parse("hold.target", name)?),
        HoldKind::Pin | HoldKind::Freeze | HoldKind::Pause => {
            HoldTarget::Pipeline(parse("hold.target", name)?)
        }
    })
}

impl From<DrainTerms> for wire::DrainTerms {
    fn from(terms: DrainTerms) -> Self {
        let mode = match terms.mode {
            DrainMode::Restart => wire::DrainMode::Restart,
            DrainMode::Evacuate => wire::DrainMode::Evacuate,
            DrainMode::Remove => wire::DrainMode::Remove,
        };
        let on_deadline = match terms.on_deadline {
            OnDeadline::Keep => wire::OnDeadline::Keep,
            OnDeadline::Force => wire::OnDeadline::Force,
        };
        Self {
            mode: mode.into(),
            on_deadline: on_deadline.into(),
            pace: terms.pace.unwrap_or(0),
        }
    }
}

impl From<wire::DrainTerms> for DrainTerms {
    fn from(terms: wire::DrainTerms) -> Self {
        Self {
            mode: match terms.mode() {
                wire::DrainMode::Restart => DrainMode::Restart,
                wire::DrainMode::Unspecified | wire::DrainMode::Evacuate => DrainMode::Evacuate,
                wire::DrainMode::Remove => DrainMode::Remove,
            },
            on_deadline: match terms.on_deadline() {
                wire::OnDeadline::Unspecified | wire::OnDeadline::Keep => OnDeadline::Keep,
                wire::OnDeadline::Force => OnDeadline::Force,
            },
            pace: (terms.pace > 0).then_some(terms.pace),
        }
    }
}

impl From<&Hold> for wire::Hold {
    fn from(hold: &Hold) -> Self {
        Self {
            id: hold.id.to_string(),
            name: hold.name.clone(),
            kind: wire::HoldKind::from(hold.kind).into(),
            target: hold.target.as_str().to_owned(),
            owner: hold.actor.clone(),
            reason: hold.reason.clone(),
            to: hold
                .to
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            drain: hold.drain.map(Into::into),
            operation_id: hold
                .operation
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            operation_running: hold.is_running,
            deadline_at: hold.deadline_at.map(time::timestamp),
            created_at: Some(time::timestamp(hold.created_at)),
            expires_at: hold.expires_at.map(time::timestamp),
        }
    }
}

impl TryFrom<wire::Hold> for Hold {
    type Error = InvalidField;

    fn try_from(hold: wire::Hold) -> Result<Self, InvalidField> {
        let kind = hold.kind().try_into()?;
        Ok(Self {
            id: parse("hold.id", &hold.id)?,
            name: hold.name,
            target: hold_target(kind, &hold.target)?,
            kind,
            actor: hold.owner,
            reason: hold.reason,
            to: parse_optional("hold.to", &hold.to)?,
            drain: hold.drain.map(Into::into),
            operation: parse_optional("hold.operation_id", &hold.operation_id)?,
            is_running: hold.operation_running,
            deadline_at: time::optional_moment("hold.deadline_at", hold.deadline_at)?,
            created_at: time::moment("hold.created_at", hold.created_at)?,
            expires_at: time::optional_moment("hold.expires_at", hold.expires_at)?,
        })
    }
}

impl From<&LastDrain> for wire::LastDrain {
    fn from(drain: &LastDrain) -> Self {
        Self {
            operation_id: drain.operation.to_string(),
            state: drain.state.to_string(),
            owner: drain.actor.clone(),
            reason: drain.reason.clone(),
            outcome: drain.outcome.clone().unwrap_or_default(),
            finished_at: drain.finished_at.map(time::timestamp),
            verified_incarnation: drain
                .verified
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            voided_because: drain.voided.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::LastDrain> for LastDrain {
    type Error = InvalidField;

    fn try_from(drain: wire::LastDrain) -> Result<Self, InvalidField> {
        Ok(Self {
            operation: parse("last_drain.operation_id", &drain.operation_id)?,
            state: parse("last_drain.state", &drain.state)?,
            actor: drain.owner,
            reason: drain.reason,
            outcome: non_empty(drain.outcome),
            finished_at: time::optional_moment("last_drain.finished_at", drain.finished_at)?,
            verified: parse_optional(
                "last_drain.verified_incarnation",
                &drain.verified_incarnation,
            )?,
            voided: non_empty(drain.voided_because),
        })
    }
}
