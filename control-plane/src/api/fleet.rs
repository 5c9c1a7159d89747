//! `FleetService`: reads the fleet.

use futures_util::StreamExt as _;
use tide_model::{AgentName, UnitName};
use tide_proto::{
    convert,
    fleet::v1::{
        Fleet, GetAgentRequest, GetAgentResponse, GetFleetRequest, GetFleetResponse,
        GetPipelineRequest, GetPipelineResponse, ListAgentsRequest, ListAgentsResponse,
        ListPipelinesRequest, ListPipelinesResponse, WatchFleetRequest, WatchFleetResponse,
        fleet_service_server::FleetService,
    },
};
use tonic::{Request, Response, Status};

use super::{
    page,
    request::parse,
    status,
    stream::{Answers, Ends, Watches, until_end},
    watch::Follower,
};
use crate::{
    fleet::{FleetHandle, view::View},
    operations::Unknown,
};

/// Adapter over the fleet's newest view.
pub(super) struct FleetApi {
    fleet: FleetHandle,
    watches: Watches,
    ends: Ends,
}

impl FleetApi {
    pub(super) fn new(fleet: FleetHandle, watches: Watches, ends: Ends) -> Self {
        Self {
            fleet,
            watches,
            ends,
        }
    }
}

#[tonic::async_trait]
impl FleetService for FleetApi {
    type WatchFleetStream = Answers<WatchFleetResponse>;

    async fn get_fleet(
        &self,
        _request: Request<GetFleetRequest>,
    ) -> Result<Response<GetFleetResponse>, Status> {
        let view = self.fleet.view();
        Ok(Response::new(GetFleetResponse {
            fleet: Some(fleet(&view)),
        }))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let view = self.fleet.view();
        let (agents, next_page_token) = page::by_name(
            view.agents.iter(),
            |agent| agent.name.as_str(),
            request.page_size,
            &request.page_token,
        )?;
        let agents = agents.into_iter().map(Into::into).collect();
        Ok(Response::new(ListAgentsResponse {
            agents,
            next_page_token,
            revision: view.revision,
        }))
    }

    async fn get_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<GetAgentResponse>, Status> {
        let name: AgentName = parse("name", &request.get_ref().name)?;
        let view = self.fleet.view();
        let agent = view.agents.iter().find(|agent| agent.name == name);
        let agent = agent.ok_or_else(|| unknown_agent(&view, &name))?;
        let owned = view
            .pipelines
            .iter()
            .filter(|p| p.owner.as_ref() == Some(&name));
        Ok(Response::new(GetAgentResponse {
            agent: Some(agent.into()),
            pipelines: owned.map(Into::into).collect(),
            revision: view.revision,
        }))
    }

    async fn list_pipelines(
        &self,
        request: Request<ListPipelinesRequest>,
    ) -> Result<Response<ListPipelinesResponse>, Status> {
        let request = request.into_inner();
        let view = self.fleet.view();
        let owner = known_owner(&view, &request.owner)?;
        let (pipelines, next_page_token) = page::by_name(
            view.pipelines
                .iter()
                .filter(|pipeline| owner.is_none() || pipeline.owner == owner),
            |pipeline| pipeline.name.as_str(),
            request.page_size,
            &request.page_token,
        )?;
        let pipelines = pipelines.into_iter().map(Into::into).collect();
        Ok(Response::new(ListPipelinesResponse {
            pipelines,
            next_page_token,
            revision: view.revision,
        }))
    }

    async fn get_pipeline(
        &self,
        request: Request<GetPipelineRequest>,
    ) -> Result<Response<GetPipelineResponse>, Status> {
        let name: UnitName = parse("name", &request.get_ref().name)?;
        let view = self.fleet.view();
        let pipeline = view.pipelines.iter().find(|pipeline| pipeline.name == name);
        let pipeline = pipeline.ok_or_else(|| {
            let known = view
                .pipelines
                .iter()
                .map(|pipeline| pipeline.name.to_string());
            status::unknown_pipeline(&Unknown {
                name: name.to_string(),
                known: known.collect(),
            })
        })?;
        Ok(Response::new(GetPipelineResponse {
            pipeline: Some(pipeline.into()),
            revision: view.revision,
        }))
    }

    async fn watch_fleet(
        &self,
        request: Request<WatchFleetRequest>,
    ) -> Result<Response<Self::WatchFleetStream>, Status> {
        let watch = self.watches.open()?;
        let follower = Follower::new(self.fleet.views(), &request.get_ref().resume_token);
        // The watch is open as long as it is followed.
        let changes = follower.follow().map(move |event| {
            let _open = &watch;
            Ok(event)
        });
        let ends = self.ends.clone();
        let end = async move { ends.reached().await };
        Ok(Response::new(until_end(changes, end)))
    }
}

/// All of a view in one message.
fn fleet(view: &View) -> Fleet {
    Fleet {
        group: view.group.to_string(),
        agents: view.agents.iter().map(Into::into).collect(),
        pipelines: view.pipelines.iter().map(Into::into).collect(),
        database_at: Some(convert::timestamp(view.database_at)),
        warnings: view.warnings.to_vec(),
        coverage: Some(view.coverage.into()),
        revision: view.revision,
    }
}

fn known_owner(view: &View, owner: &str) -> Result<Option<AgentName>, Status> {
    if owner.is_empty() {
        return Ok(None);
    }
    let owner: AgentName = parse("owner", owner)?;
    if view.agents.iter().any(|agent| agent.name == owner) {
        Ok(Some(owner))
    } else {
        Err(unknown_agent(view, &owner))
    }
}

fn unknown_agent(view: &View, name: &AgentName) -> Status {
    let known = view.agents.iter().map(|agent| agent.name.to_string());
    status::unknown_agent(&Unknown {
        name: name.to_string(),
        known: known.collect(),
    })
}
