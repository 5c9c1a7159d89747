//! Whether the load is evened out with nobody asking.

use tide_model::rebalance::{Activity, LastMove, Mode, Pause, RebalanceStatus, Suggested, Terms};

use super::{InvalidField, non_empty, operation::enums, parse, parse_optional, time};
use crate::fleet::v1 as wire;

enums! {
    Mode, wire::RebalanceMode, "status.mode": Off Suggest Auto;
}

impl From<&RebalanceStatus> for wire::GetRebalanceStatusResponse {
    fn from(status: &RebalanceStatus) -> Self {
        let (imbalance, imbalance_after) = status.imbalance;
        let activity = &status.activity;
        let unasked = Self {
            decision: status.decision.clone().unwrap_or_default(),
            imbalance,
            imbalance_after,
            pauses: activity.pauses.iter().map(Into::into).collect(),
            running: activity
                .running
                .map(|id| id.to_string())
                .unwrap_or_default(),
            last: activity.last.as_ref().map(Into::into),
            suggested: activity.suggested.map(Into::into),
            ..Self::default()
        };
        let Some(terms) = &status.terms else {
            return unasked;
        };
        Self {
            mode: wire::RebalanceMode::from(terms.mode).into(),
            threshold: terms.threshold,
            cooldown: Some(time::duration_seconds(terms.cooldown.as_seconds_f64())),
            max_lag: Some(time::duration_seconds(terms.max_lag.as_seconds_f64())),
            ..unasked
        }
    }
}

impl TryFrom<wire::GetRebalanceStatusResponse> for RebalanceStatus {
    type Error = InvalidField;

    fn try_from(status: wire::GetRebalanceStatusResponse) -> Result<Self, InvalidField> {
        let seconds = |duration| ::time::Duration::seconds_f64(time::seconds(duration));
        let terms = Terms {
            mode: status.mode().try_into()?,
            threshold: status.threshold,
            cooldown: seconds(status.cooldown),
            max_lag: seconds(status.max_lag),
        };
        let pauses = status.pauses.into_iter().map(TryInto::try_into);
        Ok(Self {
            terms: Some(terms),
            decision: non_empty(status.decision),
            imbalance: (status.imbalance, status.imbalance_after),
            activity: Activity {
                pauses: pauses.collect::<Result<_, _>>()?,
                running: parse_optional("status.running", &status.running)?,
                last: status.last.map(TryInto::try_into).transpose()?,
                suggested: status.suggested.map(TryInto::try_into).transpose()?,
            },
        })
    }
}

impl From<&Pause> for wire::RebalancePause {
    fn from(pause: &Pause) -> Self {
        Self {
            actor: pause.actor.clone(),
            reason: pause.reason.clone(),
            since: Some(time::timestamp(pause.since)),
            until: pause.until.map(time::timestamp),
        }
    }
}

impl TryFrom<wire::RebalancePause> for Pause {
    type Error = InvalidField;

    fn try_from(pause: wire::RebalancePause) -> Result<Self, InvalidField> {
        Ok(Self {
            actor: pause.actor,
            reason: pause.reason,
            since: time::moment("pause.since", pause.since)?,
            until: time::optional_moment("pause.until", pause.until)?,
        })
    }
}

impl From<&LastMove> for wire::LastMove {
    fn from(last: &LastMove) -> Self {
        Self {
            operation_id: last.operation.to_string(),
            kind: wire::OperationKind::from(last.kind).into(),
            actor: last.actor.clone(),
            at: Some(time::timestamp(last.at)),
        }
    }
}

impl TryFrom<wire::LastMove> for LastMove {
    type Error = InvalidField;

    fn try_from(last: wire::LastMove) -> Result<Self, InvalidField> {
        Ok(Self {
            kind: last.kind().try_into()?,
            operation: parse("last.operation_id", &last.operation_id)?,
            actor: last.actor,
            at: time::moment("last.at", last.at)?,
        })
    }
}

impl From<Suggested> for wire::SuggestedPlan {
    fn from(suggested: Suggested) -> Self {
        Self {
            plan_id: suggested.plan.to_string(),
            at: Some(time::timestamp(suggested.at)),
        }
    }
}

impl TryFrom<wire::SuggestedPlan> for Suggested {
    type Error = InvalidField;

    fn try_from(suggested: wire::SuggestedPlan) -> Result<Self, InvalidField> {
        Ok(Self {
            plan: parse("suggested.plan_id", &suggested.plan_id)?,
            at: time::moment("suggested.at", suggested.at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use ::time::{Duration, OffsetDateTime};
    use tide_model::{OperationId, PlanId, operation::OperationKind};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_status_survives_the_wire() {
        let at = OffsetDateTime::UNIX_EPOCH + Duration::seconds(7);
        let pause = Pause {
            actor: "ana".to_owned(),
            reason: "sale".to_owned(),
            since: at,
            until: Some(at + Duration::HOUR),
        };
        let status = RebalanceStatus {
            terms: Some(Terms {
                mode: Mode::Suggest,
                threshold: 1.5,
                cooldown: Duration::minutes(30),
                max_lag: Duration::milliseconds(1_500),
            }),
            decision: Some("paused by ana: sale".to_owned()),
            imbalance: (1.8, 1.0),
            activity: Activity {
                pauses: vec![
                    pause.clone(),
                    Pause {
                        until: None,
                        ..pause
                    },
                ],
                running: Some(OperationId(Uuid::from_u128(1))),
                last: Some(LastMove {
                    operation: OperationId(Uuid::from_u128(2)),
                    kind: OperationKind::Rebalance,
                    actor: "tide-control-plane".to_owned(),
                    at,
                }),
                suggested: Some(Suggested {
                    plan: PlanId(Uuid::from_u128(3)),
                    at,
                }),
            },
        };
        let wire = wire::GetRebalanceStatusResponse::from(&status);
        assert_eq!(RebalanceStatus::try_from(wire).unwrap(), status);
    }
}
