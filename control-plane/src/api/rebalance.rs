//! Plans of `OperationService`: made, looked at, applied.

use std::collections::BTreeSet;

use tide_model::{PlanId, operation::Move};
use tide_proto::fleet::v1::{
    ApplyRebalanceRequest, ApplyRebalanceResponse, GetRebalancePlanRequest,
    GetRebalancePlanResponse, PlanRebalanceRequest, PlanRebalanceResponse, PlannedMove,
};
use tonic::{Request, Response, Status};

use super::{
    operation::{OperationApi, wire_moves},
    request::{actor, asking, deadline, parse},
    status::{invalid, invalid_field, refused},
};
use crate::{access::Caller, audit::Command, operations::rebalance::Keeping};

impl OperationApi {
    pub(super) async fn rebalance_planned(
        &self,
        request: Request<PlanRebalanceRequest>,
    ) -> Result<Response<PlanRebalanceResponse>, Status> {
        let asking = asking(&request);
        let request = request.into_inner();
        let keeping = if request.validate_only {
            Keeping::Nothing
        } else {
            Keeping::For(planner(&asking.caller, &request.actor)?)
        };
        self.warm()?;
        let planned = self.commands.rebalance_plan(request.by().into(), keeping);
        let proposal = planned.await.map_err(refused)?;
        Ok(Response::new(PlanRebalanceResponse {
            moves: wire_moves(&proposal.plan.moves),
            plan: Some((&proposal).into()),
        }))
    }

    pub(super) async fn rebalance_kept(
        &self,
        request: Request<GetRebalancePlanRequest>,
    ) -> Result<Response<GetRebalancePlanResponse>, Status> {
        let id = parse("id", &request.get_ref().id)?;
        let kept = self.commands.rebalance_plan_get(id).await;
        let proposal = kept.map_err(refused)?;
        Ok(Response::new(GetRebalancePlanResponse {
            plan: Some((&proposal).into()),
        }))
    }

    pub(super) async fn rebalance_applied(
        &self,
        request: Request<ApplyRebalanceRequest>,
    ) -> Result<Response<ApplyRebalanceResponse>, Status> {
        let asking = asking(&request);
        let request = request.into_inner();
        let command = Command {
            method: "ApplyRebalance",
            subject: "fleet".to_owned(),
            reason: request.reason.clone(),
            claimed: request.actor.clone(),
            asking: asking.clone(),
        };
        let done = async {
            let wanted = wanted_rebalance(&request.plan_id, request.moves)?;
            let actor = actor(&asking.caller, &request.actor, request.reason)?;
            let deadline = deadline(request.deadline)?;
            self.warm()?;
            let commands = &self.commands;
            let begun = match wanted {
                Rebalance::Plan(id) => commands.rebalance(id, &actor, deadline).await,
                Rebalance::Moves(it) => commands.rebalance_moves(it, &actor, deadline).await,
            };
            let (operation, skipped) = begun.map_err(refused)?;
            let response = ApplyRebalanceResponse {
                operation: Some((&operation).into()),
                skipped: wire_moves(&skipped),
            };
            Ok((response, Some(operation.id)))
        };
        self.audit.recorded(&command, done).await
    }
}

/// Who a plan is kept for; whoever does not say is nobody in particular.
fn planner(caller: &Caller, claimed: &str) -> Result<String, Status> {
    match caller {
        Caller::Anyone if claimed.trim().is_empty() => Ok(String::new()),
        _ => Ok(actor(caller, claimed, String::new())?.name),
    }
}

/// What is to be carried out.
enum Rebalance {
    /// A plan that is kept.
    Plan(PlanId),
    /// These moves.
    Moves(Vec<Move>),
}

fn wanted_rebalance(plan_id: &str, moves: Vec<PlannedMove>) -> Result<Rebalance, Status> {
    if plan_id.is_empty() {
        return plan(moves).map(Rebalance::Moves);
    }
    if !moves.is_empty() {
        return Err(invalid("plan_id", "is given, and so are moves"));
    }
    parse("plan_id", plan_id).map(Rebalance::Plan)
}

/// The moves of a plan; a pipeline can go to one place only.
fn plan(moves: Vec<PlannedMove>) -> Result<Vec<Move>, Status> {
    if moves.is_empty() {
        return Err(invalid("moves", "is empty"));
    }
    let mut seen = BTreeSet::new();
    moves
        .into_iter()
        .map(|planned| {
            let planned = Move::try_from(planned).map_err(|error| invalid_field(&error))?;
            if seen.insert(planned.pipeline.clone()) {
                Ok(planned)
            } else {
                let why = format!("names pipeline {} twice", planned.pipeline);
                Err(invalid("moves", why))
            }
        })
        .collect()
}
