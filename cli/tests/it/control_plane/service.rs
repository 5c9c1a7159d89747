//! The stand-in's answers on the wire.

use std::sync::atomic::Ordering;

use tide_model::{
    fleet::FleetView,
    operation::Move,
    rebalance::{Activity, Mode, Pause, RebalanceStatus, Terms},
};
use tide_proto::fleet::v1::{
    self as wire, fleet_service_server::FleetService, operation_service_server::OperationService,
    watch_fleet_response::Event,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::WatchStream};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{Answers, name};

type Streamed<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Answers {
    fn admit(&self) -> Result<(), Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let Some((code, message, hint)) = self.refusal else {
            return Ok(());
        };
        let mut metadata = MetadataMap::new();
        metadata.insert("tide-hint", hint.replace(' ', "%20").parse().unwrap());
        if let Some(leader) = &*self.leader.borrow() {
            metadata.insert("tide-leader", leader.parse().unwrap());
        }
        Err(Status::with_metadata(code, message, metadata))
    }
}

/// One item a page, so that whoever reads only the first page is found out.
fn page<T>(mut items: Vec<T>, token: &str) -> (Vec<T>, String) {
    let at: usize = token.parse().unwrap_or(0);
    let next = if at + 1 < items.len() {
        (at + 1).to_string()
    } else {
        String::new()
    };
    (items.drain(..).skip(at).take(1).collect(), next)
}

#[tonic::async_trait]
impl FleetService for Answers {
    type WatchFleetStream = Streamed<wire::WatchFleetResponse>;

    async fn get_fleet(
        &self,
        _: Request<wire::GetFleetRequest>,
    ) -> Result<Response<wire::GetFleetResponse>, Status> {
        self.admit()?;
        let fleet = Some((&*self.fleet.borrow()).into());
        Ok(Response::new(wire::GetFleetResponse { fleet }))
    }

    async fn list_agents(
        &self,
        request: Request<wire::ListAgentsRequest>,
    ) -> Result<Response<wire::ListAgentsResponse>, Status> {
        self.admit()?;
        let agents = self.fleet.borrow().agents.iter().map(Into::into).collect();
        let (agents, next_page_token) = page(agents, &request.get_ref().page_token);
        Ok(Response::new(wire::ListAgentsResponse {
            agents,
            next_page_token,
            revision: 0,
        }))
    }

    async fn get_agent(
        &self,
        request: Request<wire::GetAgentRequest>,
    ) -> Result<Response<wire::GetAgentResponse>, Status> {
        self.admit()?;
        let fleet = self.fleet.borrow();
        let wanted = &request.get_ref().name;
        let found = fleet
            .agents
            .iter()
            .find(|agent| agent.name.as_str() == wanted);
        let agent =
            found.ok_or_else(|| Status::not_found(format!("agent {wanted} is not known")))?;
        Ok(Response::new(wire::GetAgentResponse {
            agent: Some(agent.into()),
            pipelines: fleet.pipelines.iter().map(Into::into).collect(),
            revision: 0,
        }))
    }

    async fn list_pipelines(
        &self,
        request: Request<wire::ListPipelinesRequest>,
    ) -> Result<Response<wire::ListPipelinesResponse>, Status> {
        self.admit()?;
        let owner = &request.get_ref().owner;
        let fleet = self.fleet.borrow();
        let pipelines = fleet.pipelines.iter().filter(|pipeline| {
            owner.is_empty()
                || pipeline
                    .owner
                    .as_ref()
                    .is_some_and(|name| name.as_str() == owner)
        });
        let (pipelines, next_page_token) = page(
            pipelines.map(Into::into).collect(),
            &request.get_ref().page_token,
        );
        Ok(Response::new(wire::ListPipelinesResponse {
            pipelines,
            next_page_token,
            revision: 0,
        }))
    }

    async fn get_pipeline(
        &self,
        _: Request<wire::GetPipelineRequest>,
    ) -> Result<Response<wire::GetPipelineResponse>, Status> {
        self.admit()?;
        let pipeline = Some((&self.fleet.borrow().pipelines[0]).into());
        Ok(Response::new(wire::GetPipelineResponse {
            pipeline,
            revision: 0,
        }))
    }

    async fn watch_fleet(
        &self,
        _: Request<wire::WatchFleetRequest>,
    ) -> Result<Response<Self::WatchFleetStream>, Status> {
        self.admit()?;
        let mut before: Option<FleetView> = None;
        let events = WatchStream::new(self.fleet.subscribe()).map(move |fleet| {
            let event = match &before {
                None => Event::Snapshot((&fleet).into()),
                Some(before) => Event::Delta(wire::FleetDelta::between(before, &fleet)),
            };
            before = Some(fleet);
            Ok(wire::WatchFleetResponse {
                event: Some(event),
                resume_token: String::new(),
            })
        });
        Ok(Response::new(Box::pin(events)))
    }
}

#[tonic::async_trait]
impl OperationService for Answers {
    type WatchOperationStream = Streamed<wire::WatchOperationResponse>;

    async fn drain(
        &self,
        request: Request<wire::DrainRequest>,
    ) -> Result<Response<wire::DrainResponse>, Status> {
        self.admit()?;
        let request = request.into_inner();
        assert!(!request.actor.is_empty());
        let planned = Move {
            pipeline: "orders".parse().unwrap(),
            from: Some(name(&request.agent)),
            to: name("relay-1"),
            reason: "drain".to_owned(),
        };
        let operation = (!request.validate_only).then(|| (&self.operation.borrow().0).into());
        Ok(Response::new(wire::DrainResponse {
            operation,
            plan: vec![(&planned).into()],
        }))
    }

    async fn undrain(
        &self,
        _: Request<wire::UndrainRequest>,
    ) -> Result<Response<wire::UndrainResponse>, Status> {
        self.admit()?;
        let operation = Some((&self.operation.borrow().0).into());
        Ok(Response::new(wire::UndrainResponse { operation }))
    }

    async fn r#move(
        &self,
        _: Request<wire::MoveRequest>,
    ) -> Result<Response<wire::MoveResponse>, Status> {
        self.admit()?;
        // A control plane that leaves out what the protocol promises.
        Ok(Response::new(wire::MoveResponse { operation: None }))
    }

    async fn plan_rebalance(
        &self,
        _: Request<wire::PlanRebalanceRequest>,
    ) -> Result<Response<wire::PlanRebalanceResponse>, Status> {
        self.admit()?;
        Ok(Response::new(wire::PlanRebalanceResponse {
            plan: Some(wire::RebalancePlan::default()),
            ..Default::default()
        }))
    }

    async fn get_rebalance_plan(
        &self,
        _: Request<wire::GetRebalancePlanRequest>,
    ) -> Result<Response<wire::GetRebalancePlanResponse>, Status> {
        self.admit()?;
        Err(Status::not_found("no plan is kept here"))
    }

    async fn apply_rebalance(
        &self,
        _: Request<wire::ApplyRebalanceRequest>,
    ) -> Result<Response<wire::ApplyRebalanceResponse>, Status> {
        self.admit()?;
        Err(Status::aborted("all of them are stale"))
    }

    async fn pause_rebalance(
        &self,
        request: Request<wire::PauseRebalanceRequest>,
    ) -> Result<Response<wire::PauseRebalanceResponse>, Status> {
        self.admit()?;
        let request = request.into_inner();
        let now = time::OffsetDateTime::UNIX_EPOCH;
        let pause = Pause {
            actor: request.actor,
            reason: request.reason,
            since: now,
            until: request
                .lasting
                .map(|lasting| now + time::Duration::seconds(lasting.seconds)),
        };
        Ok(Response::new(wire::PauseRebalanceResponse {
            pause: Some((&pause).into()),
        }))
    }

    async fn resume_rebalance(
        &self,
        request: Request<wire::ResumeRebalanceRequest>,
    ) -> Result<Response<wire::ResumeRebalanceResponse>, Status> {
        self.admit()?;
        let ended = if request.get_ref().breaking { 2 } else { 1 };
        Ok(Response::new(wire::ResumeRebalanceResponse { ended }))
    }

    async fn get_rebalance_status(
        &self,
        _: Request<wire::GetRebalanceStatusRequest>,
    ) -> Result<Response<wire::GetRebalanceStatusResponse>, Status> {
        self.admit()?;
        let status = RebalanceStatus {
            terms: Some(Terms {
                mode: Mode::Auto,
                threshold: 1.5,
                cooldown: time::Duration::minutes(30),
                max_lag: time::Duration::MINUTE,
            }),
            decision: Some("bearable: the fullest agent has 1.20 times the mean".to_owned()),
            imbalance: (1.2, 1.0),
            activity: Activity::default(),
        };
        Ok(Response::new((&status).into()))
    }

    async fn get_operation(
        &self,
        _: Request<wire::GetOperationRequest>,
    ) -> Result<Response<wire::GetOperationResponse>, Status> {
        self.admit()?;
        let (operation, steps) = &*self.operation.borrow();
        Ok(Response::new(wire::GetOperationResponse {
            operation: Some(operation.into()),
            steps: steps.iter().map(Into::into).collect(),
        }))
    }

    async fn list_operations(
        &self,
        request: Request<wire::ListOperationsRequest>,
    ) -> Result<Response<wire::ListOperationsResponse>, Status> {
        self.admit()?;
        let three = vec![(&self.operation.borrow().0).into(); 3];
        let (operations, next_page_token) = page(three, &request.get_ref().page_token);
        Ok(Response::new(wire::ListOperationsResponse {
            operations,
            next_page_token,
        }))
    }

    async fn watch_operation(
        &self,
        _: Request<wire::WatchOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        self.admit()?;
        let looks = WatchStream::new(self.operation.subscribe()).map(|(operation, steps)| {
            Ok(wire::WatchOperationResponse {
                operation: Some((&operation).into()),
                steps: steps.iter().map(Into::into).collect(),
            })
        });
        Ok(Response::new(Box::pin(looks)))
    }

    async fn cancel_operation(
        &self,
        _: Request<wire::CancelOperationRequest>,
    ) -> Result<Response<wire::CancelOperationResponse>, Status> {
        self.admit()?;
        let operation = Some((&self.operation.borrow().0).into());
        Ok(Response::new(wire::CancelOperationResponse { operation }))
    }
}
