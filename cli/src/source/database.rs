//! The fleet straight from PostgreSQL, and intent straight into it. Does what a control plane
//! does, with the same model, so that nothing an operator needs depends on one.

use std::collections::BTreeMap;

use tide_catalog::{
    PgConnection,
    fleet::{Lag, database_view, read_view},
    holds::Breaking,
    intent::{self, Actor, MoveKind},
    operations,
};
use tide_model::{
    AgentName, GroupName, OperationId, UnitName, drain,
    fleet::{AgentView, FleetView, PipelineView},
    operation::{Move, Operation, OperationState},
};

use super::{
    Drain, Intent, OperationView, Session, StartedDrain,
    admission::{NO_AGENT, NO_PIPELINE, drainable, movable},
};
use crate::error::CliError;

/// One group, read from the catalog.
#[derive(Debug)]
pub struct Database {
    pub(super) session: Session,
    pub(super) group: GroupName,
    instead_of: Option<String>,
}

impl Database {
    /// The group in the database of an open session.
    pub fn new(session: Session, group: GroupName) -> Self {
        Self {
            session,
            group,
            instead_of: None,
        }
    }

    /// Notes for the footer why no control plane is asked.
    #[must_use]
    pub fn instead_of(self, why: impl Into<String>) -> Self {
        Self {
            instead_of: Some(why.into()),
            ..self
        }
    }

    pub(super) fn label(&self) -> String {
        match &self.instead_of {
            None => self.session.label(),
            Some(why) => format!("{} ({why})", self.session.label()),
        }
    }

    /// The whole fleet, from what PostgreSQL knows, with lags.
    pub async fn fleet(&mut self) -> Result<FleetView, CliError> {
        let group = self.group.clone();
        let read =
            async |connection: &mut PgConnection| Ok(database_view(connection, &group).await?);
        let view = self.session.run(read).await?;
        Ok(FleetView::build(&view, &BTreeMap::new(), view.taken_at))
    }

    pub(super) async fn agents(&mut self) -> Result<Vec<AgentView>, CliError> {
        Ok(self.fleet().await?.agents)
    }

    pub(super) async fn agent(
        &mut self,
        name: &AgentName,
    ) -> Result<(AgentView, Vec<PipelineView>), CliError> {
        let fleet = self.fleet().await?;
        let known: Vec<&str> = fleet
            .agents
            .iter()
            .map(|agent| agent.name.as_str())
            .collect();
        let Some(agent) = fleet.agents.iter().find(|agent| agent.name == *name) else {
            return Err(CliError::unknown("agent", name.as_str(), &known, NO_AGENT));
        };
        let owned = fleet
            .pipelines
            .iter()
            .filter(|p| p.owner.as_ref() == Some(name));
        Ok((agent.clone(), owned.cloned().collect()))
    }

    pub(super) async fn pipelines(
        &mut self,
        owner: Option<&AgentName>,
    ) -> Result<Vec<PipelineView>, CliError> {
        let mut pipelines = self.fleet().await?.pipelines;
        pipelines.retain(|pipeline| owner.is_none() || pipeline.owner.as_ref() == owner);
        Ok(pipelines)
    }

    pub(super) async fn pipeline(&mut self, name: &UnitName) -> Result<PipelineView, CliError> {
        let pipelines = self.fleet().await?.pipelines;
        let found = pipelines.iter().find(|pipeline| pipeline.name == *name);
        found.cloned().ok_or_else(|| {
            let known: Vec<&str> = pipelines.iter().map(|p| p.name.as_str()).collect();
            CliError::unknown("pipeline", name.as_str(), &known, NO_PIPELINE)
        })
    }

    pub(super) async fn drain_plan(&mut self, drain: &Drain) -> Result<Vec<Move>, CliError> {
        let group = self.group.clone();
        let plan = async |connection: &mut PgConnection| {
            let view = read_view(connection, &group, Lag::Skip).await?;
            drainable(&view, drain)
        };
        self.session.run(plan).await
    }

    pub(super) async fn drain(
        &mut self,
        drain: &Drain,
        intent: &Intent,
    ) -> Result<StartedDrain, CliError> {
        let group = self.group.clone();
        let start = async |connection: &mut PgConnection| {
            let view = read_view(connection, &group, Lag::Skip).await?;
            let plan = drainable(&view, drain)?;
            let (agent, terms) = (&drain.agent, drain.terms);
            let (actor, deadline) = (actor(intent), intent.deadline);
            let id =
                intent::drain_begin(connection, &group, agent, &actor, deadline, terms).await?;
            let operation = operations::operation_settle(connection, id).await?;
            Ok(StartedDrain { operation, plan })
        };
        self.session.run(start).await
    }

    pub(super) async fn undrain(
        &mut self,
        agent: &AgentName,
        breaking: Breaking,
        intent: &Intent,
    ) -> Result<Operation, CliError> {
        let group = self.group.clone();
        let undrain = async |connection: &mut PgConnection| {
            let id = intent::undrain(connection, &group, agent, &actor(intent), breaking).await?;
            Ok(operations::operation_settle(connection, id).await?)
        };
        self.session.run(undrain).await
    }

    pub(super) async fn move_pipeline(
        &mut self,
        pipeline: &UnitName,
        to: &AgentName,
        intent: &Intent,
    ) -> Result<Operation, CliError> {
        let group = self.group.clone();
        let start = async |connection: &mut PgConnection| {
            let view = read_view(connection, &group, Lag::Skip).await?;
            let wanted = movable(&view, pipeline, to)?;
            begin(connection, &group, &[wanted], MoveKind::Move, intent).await
        };
        self.session.run(start).await
    }

    pub(super) async fn operation(&mut self, id: OperationId) -> Result<OperationView, CliError> {
        let group = self.group.clone();
        let look = async |connection: &mut PgConnection| {
            let operation = operations::operation_settle(connection, id).await?;
            let steps = if operation.state == OperationState::Running {
                let view = read_view(connection, &group, Lag::Skip).await?;
                drain::steps(&view, &operation)
            } else {
                Vec::new()
            };
            Ok(OperationView { operation, steps })
        };
        self.session.run(look).await
    }

    pub(super) async fn operations(&mut self, limit: u32) -> Result<Vec<Operation>, CliError> {
        let group = self.group.clone();
        let list = async |connection: &mut PgConnection| {
            // Nobody else may have looked since they ended.
            for id in operations::operation_running(connection, &group).await? {
                operations::operation_settle(connection, id).await?;
            }
            Ok(operations::operation_list(connection, &group, limit, None).await?)
        };
        self.session.run(list).await
    }

    pub(super) async fn operation_cancel(
        &mut self,
        id: OperationId,
        actor: &str,
    ) -> Result<Operation, CliError> {
        let cancel = async |connection: &mut PgConnection| {
            Ok(operations::operation_cancel(connection, id, actor).await?)
        };
        self.session.run(cancel).await
    }
}

pub(super) fn actor(intent: &Intent) -> Actor {
    Actor {
        name: intent.actor.clone(),
        reason: intent.reason.clone(),
    }
}

async fn begin(
    connection: &mut PgConnection,
    group: &GroupName,
    moves: &[Move],
    kind: MoveKind,
    intent: &Intent,
) -> Result<Operation, CliError> {
    let id = intent::move_begin(
        connection,
        group,
        moves,
        kind,
        &actor(intent),
        intent.deadline,
    )
    .await?;
    Ok(operations::operation_settle(connection, id).await?)
}
