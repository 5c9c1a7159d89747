//! `OperationService`: changes the fleet.

use std::time::Duration;

use futures_util::{Stream, stream};
use tide_model::{
    AgentName, OperationId, UnitName,
    drain::Step,
    hold::OnDeadline,
    operation::{Move, Operation, OperationState},
};
use tide_proto::fleet::v1::{
    ApplyRebalanceRequest, ApplyRebalanceResponse, CancelOperationRequest, CancelOperationResponse,
    DrainRequest, DrainResponse, GetOperationRequest, GetOperationResponse,
    GetRebalancePlanRequest, GetRebalancePlanResponse, GetRebalanceStatusRequest,
    GetRebalanceStatusResponse, ListOperationsRequest, ListOperationsResponse, MoveRequest,
    MoveResponse, PauseRebalanceRequest, PauseRebalanceResponse, PlanRebalanceRequest,
    PlanRebalanceResponse, PlannedMove, ResumeRebalanceRequest, ResumeRebalanceResponse,
    UndrainRequest, UndrainResponse, WatchOperationRequest, WatchOperationResponse,
    operation_service_server::OperationService,
};
use tokio::time::sleep;
use tonic::{Request, Response, Status};

use super::{
    page,
    request::{actor, asking, deadline, parse},
    status::{invalid, refused, stopping, too_cold},
    stream::{Answers, Ends, Watch, Watches, until_end},
};
use crate::{
    audit::{Audit, Command},
    fleet::{FleetHandle, Stopping},
    operations::commands::{Commands, Drain, OnObstacles},
};

/// A watch looks at most this often.
const LOOK_GAP: Duration = Duration::from_millis(100);

/// Adapter over the commands.
pub(super) struct OperationApi {
    pub(super) commands: Commands,
    fleet: FleetHandle,
    watches: Watches,
    ends: Ends,
    pub(super) audit: Audit,
}

impl OperationApi {
    pub(super) fn new(
        commands: Commands,
        fleet: FleetHandle,
        watches: Watches,
        ends: Ends,
        audit: Audit,
    ) -> Self {
        Self {
            commands,
            fleet,
            watches,
            ends,
            audit,
        }
    }

    /// Refuses what would be planned by half a picture.
    pub(super) fn warm(&self) -> Result<(), Status> {
        self.fleet.warm().map_err(|cold| too_cold(&cold))
    }
}

#[tonic::async_trait]
impl OperationService for OperationApi {
    type WatchOperationStream = Answers<WatchOperationResponse>;

    async fn drain(
        &self,
        request: Request<DrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        let asking = asking(&request);
        let request = request.into_inner();
        let wanted = || wanted_drain(&request);
        if request.validate_only {
            let drain = wanted()?;
            actor(&asking.caller, &request.actor, request.reason)?;
            deadline(request.deadline)?;
            if !request.force {
                self.warm()?;
            }
            let planned = self.commands.drain_plan(&drain).await;
            let plan = planned.map_err(refused)?;
            return Ok(Response::new(DrainResponse {
                operation: None,
                plan: wire_moves(&plan),
            }));
        }
        let command = Command {
            method: "Drain",
            subject: request.agent.clone(),
            reason: request.reason.clone(),
            claimed: request.actor.clone(),
            asking: asking.clone(),
        };
        let done = async {
            let drain = wanted()?;
            let actor = actor(&asking.caller, &request.actor, request.reason.clone())?;
            let deadline = deadline(request.deadline)?;
            if deadline.is_none() && drain.terms.on_deadline == OnDeadline::Force {
                return Err(invalid(
                    "deadline",
                    "is missing, and it is to be forced then",
                ));
            }
            if !request.force {
                self.warm()?;
            }
            let begun = self.commands.drain(&drain, &actor, deadline);
            let (operation, plan) = begun.await.map_err(refused)?;
            let response = DrainResponse {
                operation: Some((&operation).into()),
                plan: wire_moves(&plan),
            };
            Ok((response, Some(operation.id)))
        };
        self.audit.recorded(&command, done).await
    }

    async fn undrain(
        &self,
        request: Request<UndrainRequest>,
    ) -> Result<Response<UndrainResponse>, Status> {
        let asking = asking(&request);
        let request = request.into_inner();
        let command = Command {
            method: "Undrain",
            subject: request.agent.clone(),
            reason: request.reason.clone(),
            claimed: request.actor.clone(),
            asking: asking.clone(),
        };
        let done = async {
            let agent: AgentName = parse("agent", &request.agent)?;
            let actor = actor(&asking.caller, &request.actor, request.reason)?;
            let breaking = request.breaking.into();
            let ended = self.commands.undrain(&agent, &actor, breaking).await;
            let operation = ended.map_err(refused)?;
            let response = UndrainResponse {
                operation: Some((&operation).into()),
            };
            Ok((response, Some(operation.id)))
        };
        self.audit.recorded(&command, done).await
    }

    async fn r#move(
        &self,
        request: Request<MoveRequest>,
    ) -> Result<Response<MoveResponse>, Status> {
        let asking = asking(&request);
        let request = request.into_inner();
        let command = Command {
            method: "Move",
            subject: request.pipeline.clone(),
            reason: request.reason.clone(),
            claimed: request.actor.clone(),
            asking: asking.clone(),
        };
        let done = async {
            let pipeline: UnitName = parse("pipeline", &request.pipeline)?;
            let to: AgentName = parse("to", &request.to)?;
            let actor = actor(&asking.caller, &request.actor, request.reason)?;
            let deadline = deadline(request.deadline)?;
            let moved = self
                .commands
                .move_pipeline(&pipeline, &to, &actor, deadline);
            let operation = moved.await.map_err(refused)?;
            let response = MoveResponse {
                operation: Some((&operation).into()),
            };
            Ok((response, Some(operation.id)))
        };
        self.audit.recorded(&command, done).await
    }

    async fn plan_rebalance(
        &self,
        request: Request<PlanRebalanceRequest>,
    ) -> Result<Response<PlanRebalanceResponse>, Status> {
        self.rebalance_planned(request).await
    }

    async fn get_rebalance_plan(
        &self,
        request: Request<GetRebalancePlanRequest>,
    ) -> Result<Response<GetRebalancePlanResponse>, Status> {
        self.rebalance_kept(request).await
    }

    async fn apply_rebalance(
        &self,
        request: Request<ApplyRebalanceRequest>,
    ) -> Result<Response<ApplyRebalanceResponse>, Status> {
        self.rebalance_applied(request).await
    }

    async fn pause_rebalance(
        &self,
        request: Request<PauseRebalanceRequest>,
    ) -> Result<Response<PauseRebalanceResponse>, Status> {
        self.rebalance_paused(request).await
    }

    async fn resume_rebalance(
        &self,
        request: Request<ResumeRebalanceRequest>,
    ) -> Result<Response<ResumeRebalanceResponse>, Status> {
        self.rebalance_resumed(request).await
    }

    async fn get_rebalance_status(
        &self,
        _request: Request<GetRebalanceStatusRequest>,
    ) -> Result<Response<GetRebalanceStatusResponse>, Status> {
        self.rebalance_stands().await
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<GetOperationResponse>, Status> {
        let id = parse("id", &request.get_ref().id)?;
        let (operation, steps) = self.commands.operation(id).await.map_err(refused)?;
        Ok(Response::new(GetOperationResponse {
            operation: Some((&operation).into()),
            steps: steps.iter().map(Into::into).collect(),
        }))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let request = request.into_inner();
        let size = page::size(request.page_size);
        let before = page::operation_after(&request.page_token)?;
        // One more than fits tells whether there is another page.
        let listed = self.commands.operations(size + 1, before).await;
        let mut operations = listed.map_err(refused)?;
        let more = operations.len() > size as usize;
        operations.truncate(size as usize);
        let next = operations
            .last()
            .filter(|_| more)
            .map(page::operation_token);
        Ok(Response::new(ListOperationsResponse {
            operations: operations.iter().map(Into::into).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn watch_operation(
        &self,
        request: Request<WatchOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        let id = parse("id", &request.get_ref().id)?;
        let watch = self.watches.open()?;
        let first = self.commands.operation(id).await.map_err(refused)?;
        let answers = progress(self.commands.clone(), &self.fleet, id, first, watch);
        let ends = self.ends.clone();
        let end = async move { ends.reached().await };
        Ok(Response::new(until_end(answers, end)))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<CancelOperationResponse>, Status> {
        let asking = asking(&request);
        let request = request.into_inner();
        let command = Command {
            method: "CancelOperation",
            subject: request.id.clone(),
            reason: String::new(),
            claimed: request.actor.clone(),
            asking: asking.clone(),
        };
        let done = async {
            let id = parse("id", &request.id)?;
            let actor = actor(&asking.caller, &request.actor, String::new())?;
            let cancelled = self.commands.cancel(id, &actor.name).await;
            let operation = cancelled.map_err(refused)?;
            let response = CancelOperationResponse {
                operation: Some((&operation).into()),
            };
            Ok((response, Some(id)))
        };
        self.audit.recorded(&command, done).await
    }
}

fn wanted_drain(request: &DrainRequest) -> Result<Drain, Status> {
    let together_with = request
        .together_with
        .iter()
        .map(|name| parse("together_with", name))
        .collect::<Result<_, _>>()?;
    Ok(Drain {
        agent: parse("agent", &request.agent)?,
        together_with,
        obstacles: if request.force {
            OnObstacles::Accept
        } else {
            OnObstacles::Refuse
        },
        terms: request.terms.map(Into::into).unwrap_or_default(),
    })
}

type Seen = (Operation, Vec<Step>);

/// What was seen first, then whatever is different whenever the database was read, until the
/// operation has ended.
fn progress(
    commands: Commands,
    fleet: &FleetHandle,
    id: OperationId,
    first: Seen,
    watch: Watch,
) -> impl Stream<Item = Result<WatchOperationResponse, Status>> + Send + use<> {
    let reads = fleet.databases();
    let begin = (None::<Seen>, Some(first), reads, commands, watch);
    stream::unfold(
        begin,
        move |(told, fresh, mut reads, commands, watch)| async move {
            if let Some(seen) = fresh {
                let answer = response(&seen);
                return Some((Ok(answer), (Some(seen), None, reads, commands, watch)));
            }
            let told = told.filter(|(operation, _)| operation.state == OperationState::Running)?;
            loop {
                sleep(LOOK_GAP).await;
                if reads.changed().await.is_err() {
                    return Some((
                        Err(stopping(Stopping)),
                        (None, None, reads, commands, watch),
                    ));
                }
                let view = std::sync::Arc::clone(&reads.borrow_and_update());
                match commands.operation_in(&view, id).await {
                    Ok(seen) if seen == told => {}
                    Ok(seen) => {
                        let answer = response(&seen);
                        return Some((Ok(answer), (Some(seen), None, reads, commands, watch)));
                    }
                    Err(error) => {
                        return Some((Err(refused(error)), (None, None, reads, commands, watch)));
                    }
                }
            }
        },
    )
}

fn response((operation, steps): &Seen) -> WatchOperationResponse {
    WatchOperationResponse {
        operation: Some(operation.into()),
        steps: steps.iter().map(Into::into).collect(),
    }
}

pub(super) fn wire_moves(moves: &[Move]) -> Vec<PlannedMove> {
    moves.iter().map(Into::into).collect()
}
