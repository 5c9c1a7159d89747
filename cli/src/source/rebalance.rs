//! Plans that even out the load, through a control plane and straight through PostgreSQL.

use tide_catalog::{
    PgConnection,
    fleet::{Lag, read_view},
    operations, rebalance,
};
use tide_model::{
    PlanId,
    rebalance::{By, Outdated, Proposal, RebalancePlan},
};
use tide_proto::{convert::from_duration, fleet::v1 as wire};

use super::{
    ControlPlane, Database, Intent, StartedRebalance,
    database::actor,
    rpc::{answer, converted, present},
};
use crate::error::CliError;

/// Whether a plan is kept, so that it can be applied by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// It is to be applied.
    Must,
    /// If the user may.
    IfAllowed,
    /// It is only looked at.
    Nothing,
}

impl Database {
    pub(super) async fn rebalance_plan(
        &mut self,
        by: By,
        keeping: Keeping,
        asker: &str,
    ) -> Result<Proposal, CliError> {
        let group = self.group.clone();
        let plan = async |connection: &mut PgConnection| {
            let view = read_view(connection, &group, Lag::Skip).await?;
            let costs = rebalance::unit_costs(connection, &group).await?;
            let plan = RebalancePlan::of(&view, by, &costs);
            if keeping == Keeping::Nothing || plan.is_empty() {
                return Ok(Proposal { plan, record: None });
            }
            let record = match rebalance::plan_store(connection, &group, &plan, asker).await {
                Ok(record) => Some(record),
                Err(error) if keeping == Keeping::IfAllowed && error.is_permission_denied() => None,
                Err(error) => return Err(error.into()),
            };
            Ok(Proposal { plan, record })
        };
        self.session.run(plan).await
    }

    pub(super) async fn rebalance_plan_get(&mut self, id: PlanId) -> Result<Proposal, CliError> {
        let group = self.group.clone();
        let get = async |connection: &mut PgConnection| {
            Ok(rebalance::plan_get(connection, &group, id).await?)
        };
        self.session.run(get).await
    }

    pub(super) async fn rebalance(
        &mut self,
        id: PlanId,
        intent: &Intent,
    ) -> Result<StartedRebalance, CliError> {
        let group = self.group.clone();
        let start = async |connection: &mut PgConnection| {
            let applying = rebalance::applying(connection, &group, id).await?;
            let record = applying.proposal.record.as_ref();
            let before = record.and_then(|record| record.operation);
            let (begun, skipped) = if let Some(begun) = before {
                drop(applying);
                (begun, Vec::new())
            } else {
                let admitted = applying
                    .proposal
                    .admit(&applying.view, &applying.costs)
                    .map_err(|outdated| stale(&outdated))?;
                let (actor, deadline) = (actor(intent), intent.deadline);
                let begun = applying.begin(&admitted.moves, &actor, deadline, None);
                (begun.await?, admitted.skipped)
            };
            let operation = operations::operation_settle(connection, begun).await?;
            Ok(StartedRebalance { operation, skipped })
        };
        self.session.run(start).await
    }
}

fn stale(outdated: &Outdated) -> CliError {
    CliError::Conflict {
        message: outdated.to_string(),
        hint: Outdated::HINT.to_owned(),
    }
}

impl ControlPlane {
    pub(super) async fn rebalance_plan(
        &mut self,
        by: By,
        keeping: Keeping,
        asker: &str,
    ) -> Result<Proposal, CliError> {
        let call = self.operations.plan_rebalance(wire::PlanRebalanceRequest {
            by: wire::RebalanceBy::from(by).into(),
            actor: asker.to_owned(),
            validate_only: keeping == Keeping::Nothing,
        });
        let answered = answer(&self.label, self.deadline, call).await?;
        Ok(present("plan", answered.plan)?.try_into()?)
    }

    pub(super) async fn rebalance_plan_get(&mut self, id: PlanId) -> Result<Proposal, CliError> {
        let request = wire::GetRebalancePlanRequest { id: id.to_string() };
        let call = self.operations.get_rebalance_plan(request);
        let answered = answer(&self.label, self.deadline, call).await?;
        Ok(present("plan", answered.plan)?.try_into()?)
    }

    pub(super) async fn rebalance(
        &mut self,
        id: PlanId,
        intent: &Intent,
    ) -> Result<StartedRebalance, CliError> {
        let call = self
            .operations
            .apply_rebalance(wire::ApplyRebalanceRequest {
                plan_id: id.to_string(),
                moves: Vec::new(),
                actor: intent.actor.clone(),
                reason: intent.reason.clone(),
                deadline: intent.deadline.map(from_duration),
            });
        let answered = answer(&self.label, self.deadline, call).await?;
        Ok(StartedRebalance {
            operation: present("operation", answered.operation)?.try_into()?,
            skipped: converted(answered.skipped)?,
        })
    }
}
