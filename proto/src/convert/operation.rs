//! Operations and their steps.

use tide_model::{
    drain::{Cause, Progress, Step},
    operation::{Move, Operation, OperationKind, OperationState},
};

use super::{InvalidField, non_empty, parse, parse_optional, time};
use crate::fleet::v1 as wire;

/// Enumerations that have the same variants on both sides.
macro_rules! enums {
    ($($model:ty, $wire:ty, $path:literal: $($variant:ident)+;)+) => {
        $(
            impl From<$model> for $wire {
                fn from(value: $model) -> Self {
                    match value {
                        $(<$model>::$variant => Self::$variant,)+
                    }
                }
            }

            impl TryFrom<$wire> for $model {
                type Error = InvalidField;

                fn try_from(value: $wire) -> Result<Self, InvalidField> {
                    match value {
                        <$wire>::Unspecified => Err(InvalidField::missing($path)),
                        $(<$wire>::$variant => Ok(Self::$variant),)+
                    }
                }
            }
        )+
    };
}

pub(super) use enums;

enums! {
    OperationKind, wire::OperationKind, "operation.kind": Drain Undrain Move Rebalance;
    OperationState, wire::OperationState, "operation.state": Running Succeeded Failed Cancelled;
    Progress, wire::StepProgress, "step.progress": Progressing Waiting Blocked Done;
}

impl From<Cause> for wire::StepCause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::NoAgent => Self::NoAgent,
            Cause::OwnerSilent => Self::OwnerSilent,
            Cause::Pace => Self::Pace,
            Cause::SinkFails => Self::SinkFails,
            Cause::TargetGone => Self::TargetGone,
            Cause::TargetHeld => Self::TargetHeld,
            Cause::PipelineHeld => Self::PipelineHeld,
        }
    }
}

/// A cause that a newer control plane has and this version has no word for is none.
fn cause(cause: wire::StepCause) -> Option<Cause> {
    match cause {
        wire::StepCause::Unspecified => None,
        wire::StepCause::NoAgent => Some(Cause::NoAgent),
        wire::StepCause::OwnerSilent => Some(Cause::OwnerSilent),
        wire::StepCause::Pace => Some(Cause::Pace),
        wire::StepCause::SinkFails => Some(Cause::SinkFails),
        wire::StepCause::TargetGone => Some(Cause::TargetGone),
        wire::StepCause::TargetHeld => Some(Cause::TargetHeld),
        wire::StepCause::PipelineHeld => Some(Cause::PipelineHeld),
    }
}

impl From<&Move> for wire::PlannedMove {
    fn from(planned: &Move) -> Self {
        Self {
            pipeline: planned.pipeline.to_string(),
            from: planned
                .from
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            to: planned.to.to_string(),
            reason: planned.reason.clone(),
        }
    }
}

impl TryFrom<wire::PlannedMove> for Move {
    type Error = InvalidField;

    fn try_from(planned: wire::PlannedMove) -> Result<Self, InvalidField> {
        Ok(Self {
            pipeline: parse("move.pipeline", &planned.pipeline)?,
            from: parse_optional("move.from", &planned.from)?,
            to: parse("move.to", &planned.to)?,
            reason: planned.reason,
        })
    }
}

impl From<&Operation> for wire::Operation {
    fn from(operation: &Operation) -> Self {
        Self {
            id: operation.id.to_string(),
            kind: wire::OperationKind::from(operation.kind).into(),
            target: operation.target.clone(),
            actor: operation.actor.clone(),
            reason: operation.reason.clone(),
            state: wire::OperationState::from(operation.state).into(),
            outcome: operation.outcome.clone().unwrap_or_default(),
            moves: operation.moves.iter().map(Into::into).collect(),
            created_at: Some(time::timestamp(operation.created_at)),
            deadline_at: operation.deadline_at.map(time::timestamp),
            finished_at: operation.finished_at.map(time::timestamp),
            safe_to_stop: operation.is_safe_to_stop(),
        }
    }
}

impl TryFrom<wire::Operation> for Operation {
    type Error = InvalidField;

    fn try_from(operation: wire::Operation) -> Result<Self, InvalidField> {
        let kind = operation.kind().try_into()?;
        let state = operation.state().try_into()?;
        Ok(Self {
            id: parse("operation.id", &operation.id)?,
            kind,
            target: operation.target,
            actor: operation.actor,
            reason: operation.reason,
            state,
            outcome: non_empty(operation.outcome),
            moves: operation
                .moves
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            created_at: time::moment("operation.created_at", operation.created_at)?,
            deadline_at: time::optional_moment("operation.deadline_at", operation.deadline_at)?,
            finished_at: time::optional_moment("operation.finished_at", operation.finished_at)?,
        })
    }
}

impl From<&Step> for wire::OperationStep {
    fn from(step: &Step) -> Self {
        let text = |name: &Option<tide_model::AgentName>| {
            name.as_ref().map(ToString::to_string).unwrap_or_default()
        };
        Self {
            pipeline: step.pipeline.to_string(),
            from: text(&step.from),
            to: text(&step.to),
            progress: wire::StepProgress::from(step.progress).into(),
            detail: step.detail.clone(),
            hint: step.hint.clone().unwrap_or_default(),
            until: step.until.map(time::timestamp),
            cause: step
                .cause
                .map_or(wire::StepCause::Unspecified, Into::into)
                .into(),
        }
    }
}

impl TryFrom<wire::OperationStep> for Step {
    type Error = InvalidField;

    fn try_from(step: wire::OperationStep) -> Result<Self, InvalidField> {
        Ok(Self {
            progress: step.progress().try_into()?,
            cause: cause(step.cause()),
            until: time::optional_moment("step.until", step.until)?,
            pipeline: parse("step.pipeline", &step.pipeline)?,
            from: parse_optional("step.from", &step.from)?,
            to: parse_optional("step.to", &step.to)?,
            detail: step.detail,
            hint: non_empty(step.hint),
        })
    }
}
