//! Plans that even out the load.

use tide_model::{
    assignment::Admits,
    rebalance::{AgentLoad, By, Load, PlanRecord, Proposal, RebalancePlan, Stay, UnitWeight},
};

use super::{InvalidField, operation::enums, parse, parse_optional, time};
use crate::fleet::v1 as wire;

enums! {
    Admits, wire::AgentAdmits, "agent.admits": All OnlyItsOwn Nothing;
}

impl From<By> for wire::RebalanceBy {
    fn from(by: By) -> Self {
        match by {
            By::Weight => Self::Weight,
            By::Load => Self::Load,
        }
    }
}

impl From<wire::RebalanceBy> for By {
    fn from(by: wire::RebalanceBy) -> Self {
        match by {
            wire::RebalanceBy::Unspecified | wire::RebalanceBy::Weight => Self::Weight,
            wire::RebalanceBy::Load => Self::Load,
        }
    }
}

impl From<&Proposal> for wire::RebalancePlan {
    fn from(Proposal { plan, record }: &Proposal) -> Self {
        let unkept = Self {
            hash: plan.hash.clone(),
            by: wire::RebalanceBy::from(plan.by).into(),
            moves: plan.moves.iter().map(Into::into).collect(),
            stays: plan.stays.iter().map(Into::into).collect(),
            agents: plan.agents.iter().map(Into::into).collect(),
            weights: plan.weights.iter().map(Into::into).collect(),
            ..Self::default()
        };
        let Some(record) = record else {
            return unkept;
        };
        let operation = record.operation.as_ref();
        Self {
            id: record.id.to_string(),
            actor: record.actor.clone(),
            created_at: Some(time::timestamp(record.created_at)),
            expires_at: Some(time::timestamp(record.expires_at)),
            operation_id: operation.map(ToString::to_string).unwrap_or_default(),
            ..unkept
        }
    }
}

impl TryFrom<wire::RebalancePlan> for Proposal {
    type Error = InvalidField;

    fn try_from(plan: wire::RebalancePlan) -> Result<Self, InvalidField> {
        let by = plan.by().into();
        let record = match parse_optional("plan.id", &plan.id)? {
            None => None,
            Some(id) => Some(PlanRecord {
                id,
                actor: plan.actor,
                created_at: time::moment("plan.created_at", plan.created_at)?,
                expires_at: time::moment("plan.expires_at", plan.expires_at)?,
                operation: parse_optional("plan.operation_id", &plan.operation_id)?,
            }),
        };
        Ok(Self {
            plan: RebalancePlan {
                by,
                hash: plan.hash,
                moves: converted(plan.moves)?,
                stays: converted(plan.stays)?,
                agents: converted(plan.agents)?,
                weights: converted(plan.weights)?,
            },
            record,
        })
    }
}

fn converted<W, M>(wire: Vec<W>) -> Result<Vec<M>, InvalidField>
where
    M: TryFrom<W, Error = InvalidField>,
{
    wire.into_iter().map(TryInto::try_into).collect()
}

impl From<&Stay> for wire::PlannedStay {
    fn from(stay: &Stay) -> Self {
        let agent = stay.agent.as_ref();
        Self {
            pipeline: stay.pipeline.to_string(),
            agent: agent.map(ToString::to_string).unwrap_or_default(),
            reason: stay.reason.clone(),
        }
    }
}

impl TryFrom<wire::PlannedStay> for Stay {
    type Error = InvalidField;

    fn try_from(stay: wire::PlannedStay) -> Result<Self, InvalidField> {
        Ok(Self {
            pipeline: parse("stay.pipeline", &stay.pipeline)?,
            agent: parse_optional("stay.agent", &stay.agent)?,
            reason: stay.reason,
        })
    }
}

impl From<&AgentLoad> for wire::PlannedAgent {
    fn from(agent: &AgentLoad) -> Self {
        let load = |load: Load| wire::AgentLoad {
            pipelines: load.pipelines,
            load: load.load,
        };
        Self {
            agent: agent.agent.to_string(),
            weight: agent.weight,
            admits: wire::AgentAdmits::from(agent.admits).into(),
            before: Some(load(agent.before)),
            after: Some(load(agent.after)),
        }
    }
}

impl TryFrom<wire::PlannedAgent> for AgentLoad {
    type Error = InvalidField;

    fn try_from(agent: wire::PlannedAgent) -> Result<Self, InvalidField> {
        // What is all zeros may be left out on the way.
        let load = |load: Option<wire::AgentLoad>| {
            load.map_or_else(Load::default, |load| Load {
                pipelines: load.pipelines,
                load: load.load,
            })
        };
        Ok(Self {
            agent: parse("agent.agent", &agent.agent)?,
            weight: agent.weight,
            admits: agent.admits().try_into()?,
            before: load(agent.before),
            after: load(agent.after),
        })
    }
}

impl From<&UnitWeight> for wire::PlannedWeight {
    fn from(weight: &UnitWeight) -> Self {
        Self {
            pipeline: weight.pipeline.to_string(),
            before: weight.before,
            after: weight.after,
            rate: weight.rate,
        }
    }
}

impl TryFrom<wire::PlannedWeight> for UnitWeight {
    type Error = InvalidField;

    fn try_from(weight: wire::PlannedWeight) -> Result<Self, InvalidField> {
        Ok(Self {
            pipeline: parse("weight.pipeline", &weight.pipeline)?,
            before: weight.before,
            after: weight.after,
            rate: weight.rate,
        })
    }
}
