//! `FleetService`: reads the fleet.

use std::sync::Arc;

use futures_util::{Stream, stream};
use tide_model::{AgentName, UnitName, fleet::FleetView};
use tide_proto::fleet::v1::{
    FleetDelta, GetAgentRequest, GetAgentResponse, GetFleetRequest, GetFleetResponse,
    GetPipelineRequest, GetPipelineResponse, ListAgentsRequest, ListAgentsResponse,
    ListPipelinesRequest, ListPipelinesResponse, WatchFleetRequest, WatchFleetResponse,
    fleet_service_server::FleetService, watch_fleet_response::Event,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{
    page,
    request::parse,
    status,
    stream::{Answers, Ends, Watch, Watches, until_end},
};
use crate::{fleet::FleetHandle, operations::Unknown};

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
            fleet: Some((&*view).into()),
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
        }))
    }

    async fn watch_fleet(
        &self,
        _request: Request<WatchFleetRequest>,
    ) -> Result<Response<Self::WatchFleetStream>, Status> {
        let watch = self.watches.open()?;
        let changes = changes(self.fleet.views(), watch);
        let ends = self.ends.clone();
        let end = async move { ends.reached().await };
        Ok(Response::new(until_end(changes, end)))
    }
}

/// The newest view, then what is different whenever the client has room for it. Whatever happened
/// in between is in that difference, so a slow client costs no memory.
fn changes(
    mut views: watch::Receiver<Arc<FleetView>>,
    watch: Watch,
) -> impl Stream<Item = Result<WatchFleetResponse, Status>> {
    let first = Arc::clone(&views.borrow_and_update());
    let begin = (None::<Arc<FleetView>>, first, views, watch);
    stream::unfold(begin, |(told, newest, mut views, watch)| async move {
        let Some(told) = told else {
            let event = Event::Snapshot((&*newest).into());
            let next = (Some(Arc::clone(&newest)), newest, views, watch);
            return Some((Ok(WatchFleetResponse { event: Some(event) }), next));
        };
        views.changed().await.ok()?;
        let newest = Arc::clone(&views.borrow_and_update());
        let event = Event::Delta(FleetDelta::between(&told, &newest));
        let next = (Some(Arc::clone(&newest)), newest, views, watch);
        Some((Ok(WatchFleetResponse { event: Some(event) }), next))
    })
}

fn known_owner(view: &FleetView, owner: &str) -> Result<Option<AgentName>, Status> {
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

fn unknown_agent(view: &FleetView, name: &AgentName) -> Status {
    let known = view.agents.iter().map(|agent| agent.name.to_string());
    status::unknown_agent(&Unknown {
        name: name.to_string(),
        known: known.collect(),
    })
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use time::OffsetDateTime;

    use super::*;
    use crate::api::stream::Watches;

    fn view(second: i64) -> Arc<FleetView> {
        Arc::new(FleetView {
            group: "default".parse().unwrap(),
            agents: Vec::new(),
            pipelines: Vec::new(),
            database_at: OffsetDateTime::from_unix_timestamp(second).unwrap(),
            warnings: vec![format!("second {second}")],
        })
    }

    #[tokio::test]
    async fn a_slow_watcher_skips_what_lies_between() {
        let (tx, rx) = watch::channel(view(0));
        let watch = Watches::new().open().unwrap();
        let mut changes = Box::pin(changes(rx, watch));
        let first = changes.next().await.unwrap().unwrap();
        assert!(matches!(first.event, Some(Event::Snapshot(_))));
        for second in 1..=100 {
            tx.send_replace(view(second));
        }
        let next = changes.next().await.unwrap().unwrap();
        let Some(Event::Delta(delta)) = next.event else {
            panic!("{next:?}");
        };
        assert_eq!(delta.warnings, ["second 100"]);
        drop(tx);
        assert!(changes.next().await.is_none());
    }
}
