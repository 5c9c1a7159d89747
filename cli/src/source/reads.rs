//! The fleet as a control plane shows it: whole, in lists, and one by one.

use tide_model::{
    AgentName, UnitName,
    fleet::{AgentView, FleetView, PipelineView},
};
use tide_proto::fleet::v1 as wire;

use super::{
    ControlPlane, FleetWatch,
    control_plane::PAGE,
    rpc::{answer, converted, present},
};
use crate::error::CliError;

/// Of which view the newest list was: two revisions, if the fleet changed between its pages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cited {
    first: u64,
    last: u64,
}

impl ControlPlane {
    /// Of which view the newest list was, if it was of one that is counted.
    pub(super) fn cited(&self) -> String {
        match self.cited {
            Some(Cited { first: 0, .. } | Cited { last: 0, .. }) | None => String::new(),
            Some(Cited { first, last }) if first == last => format!("  revision {first}"),
            Some(Cited { first, last }) => format!("  revisions {first} to {last}"),
        }
    }

    fn cite(&mut self, revision: u64, is_first_page: bool) {
        let first = self.cited.filter(|_| !is_first_page);
        self.cited = Some(Cited {
            first: first.map_or(revision, |cited| cited.first),
            last: revision,
        });
    }

    pub(super) async fn fleet(&mut self) -> Result<FleetView, CliError> {
        let call = self.fleet.get_fleet(wire::GetFleetRequest {});
        let answered = answer(&self.label, self.deadline, call).await?;
        Ok(present("fleet", answered.fleet)?.try_into()?)
    }

    pub(super) async fn fleet_watch(&mut self) -> Result<FleetWatch<'_>, CliError> {
        let call = self.fleet.watch_fleet(wire::WatchFleetRequest::default());
        let stream = answer(&self.label, self.deadline, call).await?;
        Ok(FleetWatch::stream(stream, &self.label))
    }

    pub(super) async fn agents(&mut self) -> Result<Vec<AgentView>, CliError> {
        let mut agents = Vec::new();
        let mut page_token = String::new();
        loop {
            let call = self.fleet.list_agents(wire::ListAgentsRequest {
                page_size: PAGE,
                page_token,
            });
            let page = answer(&self.label, self.deadline, call).await?;
            self.cite(page.revision, agents.is_empty());
            agents.extend(page.agents);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return converted(agents);
            }
        }
    }

    pub(super) async fn agent(
        &mut self,
        name: &AgentName,
    ) -> Result<(AgentView, Vec<PipelineView>), CliError> {
        let call = self.fleet.get_agent(wire::GetAgentRequest {
            name: name.to_string(),
        });
        let answered = answer(&self.label, self.deadline, call).await?;
        let agent = present("agent", answered.agent)?.try_into()?;
        Ok((agent, converted(answered.pipelines)?))
    }

    pub(super) async fn pipelines(
        &mut self,
        owner: Option<&AgentName>,
    ) -> Result<Vec<PipelineView>, CliError> {
        let owner = owner.map(ToString::to_string).unwrap_or_default();
        let mut pipelines = Vec::new();
        let mut page_token = String::new();
        loop {
            let call = self.fleet.list_pipelines(wire::ListPipelinesRequest {
                page_size: PAGE,
                page_token,
                owner: owner.clone(),
            });
            let page = answer(&self.label, self.deadline, call).await?;
            self.cite(page.revision, pipelines.is_empty());
            pipelines.extend(page.pipelines);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return converted(pipelines);
            }
        }
    }

    pub(super) async fn pipeline(&mut self, name: &UnitName) -> Result<PipelineView, CliError> {
        let call = self.fleet.get_pipeline(wire::GetPipelineRequest {
            name: name.to_string(),
        });
        let answered = answer(&self.label, self.deadline, call).await?;
        Ok(present("pipeline", answered.pipeline)?.try_into()?)
    }
}
