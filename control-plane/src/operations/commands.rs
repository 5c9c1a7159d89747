//! Drain, move and their end: look, decide, write, look again.
//!
//! Decisions are made on a view that is read for each command, never on the one that watchers see.
//! What changes between the look and the write cannot hurt: agents obey intent by their own view,
//! and an operation that can no longer be done says so.

use std::time::Duration;

use tide_catalog::{
    CatalogError,
    holds::Breaking,
    intent::{self, Actor, MoveKind},
    operations,
};
use tide_model::{
    AgentName, OperationId, UnitName,
    assignment::Admits,
    drain::{Step, drain_plan, steps},
    fleet::{DatabaseView, HoldKind},
    hold::DrainTerms,
    obstacles::drain_obstacles,
    operation::{Move, Operation, OperationState},
};
use time::OffsetDateTime;
use tracing::info;

use super::{CommandError, Unknown, balancer::Balance};
use crate::{
    database::{Database, Session, answer},
    fleet::FleetHandle,
    leadership::{Leadership, NotLeading},
};

/// Carries out what operators ask. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Commands {
    pub(super) database: Database,
    pub(super) fleet: FleetHandle,
    pub(super) leadership: Leadership,
    pub(super) balance: Balance,
}

/// What to do if a drain would leave pipelines without an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnObstacles {
    /// Refuse the drain.
    Refuse,
    /// Drain all the same.
    Accept,
}

/// A drain that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Drain {
    pub(crate) agent: AgentName,
    /// Others that are drained in the same breath.
    pub(crate) together_with: Vec<AgentName>,
    pub(crate) obstacles: OnObstacles,
    pub(crate) terms: DrainTerms,
}

impl Commands {
    /// Writes through `database` while `leadership` permits, and tells `fleet` about it; `balance` says
    /// when to even out the load with nobody asking.
    pub(crate) fn new(
        database: Database,
        fleet: FleetHandle,
        leadership: Leadership,
        balance: Balance,
    ) -> Self {
        Self {
            database,
            fleet,
            leadership,
            balance,
        }
    }

    /// Where a drain would send each pipeline; refused as the drain itself would be.
    pub(crate) async fn drain_plan(&self, drain: &Drain) -> Result<Vec<Move>, CommandError> {
        self.leadership.epoch().await?;
        let view = self.database.view().await?;
        admissible_drain(&view, drain)
    }

    /// Begins to empty an agent, or finds that somebody did.
    pub(crate) async fn drain(
        &self,
        drain: &Drain,
        actor: &Actor,
        deadline: Option<Duration>,
    ) -> Result<(Operation, Vec<Move>), CommandError> {
        let (mut session, view) = self.look().await?;
        let plan = admissible_drain(&view, drain)?;
        let (connection, group) = (session.connection(), self.database.group());
        let begun = intent::drain_begin(
            connection,
            group,
            &drain.agent,
            actor,
            deadline,
            drain.terms,
        );
        let id = answer(begun).await?;
        Ok((self.begun(session, id).await?, plan))
    }

    /// Lets an agent work again.
    pub(crate) async fn undrain(
        &self,
        agent: &AgentName,
        actor: &Actor,
        breaking: Breaking,
    ) -> Result<Operation, CommandError> {
        let (mut session, view) = self.look().await?;
        known_agent(&view, agent)?;
        let (connection, group) = (session.connection(), self.database.group());
        let id = answer(intent::undrain(connection, group, agent, actor, breaking)).await?;
        self.begun(session, id).await
    }

    /// Brings one pipeline to an agent.
    pub(crate) async fn move_pipeline(
        &self,
        pipeline: &UnitName,
        to: &AgentName,
        actor: &Actor,
        deadline: Option<Duration>,
    ) -> Result<Operation, CommandError> {
        let (session, view) = self.look().await?;
        let wanted = admissible_move(&view, pipeline, to)?;
        self.place(session, &[wanted], MoveKind::Move, actor, deadline)
            .await
    }

    /// One operation and, while it runs, where each of its pipelines stands.
    pub(crate) async fn operation(
        &self,
        id: OperationId,
    ) -> Result<(Operation, Vec<Step>), CommandError> {
        let (mut session, view) = self.look().await?;
        let operation = self.settled(&mut session, id).await?;
        session.done();
        let steps = open_steps(&view, &operation);
        Ok((operation, steps))
    }

    /// Like [`operation`](Self::operation), with steps from a view that the caller has.
    pub(crate) async fn operation_in(
        &self,
        view: &DatabaseView,
        id: OperationId,
    ) -> Result<(Operation, Vec<Step>), CommandError> {
        let mut session = self.session().await?;
        let operation = self.settled(&mut session, id).await?;
        session.done();
        let steps = open_steps(view, &operation);
        Ok((operation, steps))
    }

    /// Operations, newest first, after the one that `before` names.
    pub(crate) async fn operations(
        &self,
        limit: u32,
        before: Option<(OffsetDateTime, OperationId)>,
    ) -> Result<Vec<Operation>, CommandError> {
        let mut session = self.session().await?;
        let group = self.database.group();
        let listed = operations::operation_list(session.connection(), group, limit, before);
        let listed = answer(listed).await?;
        session.done();
        Ok(listed)
    }

    /// Gives an operation up.
    pub(crate) async fn cancel(
        &self,
        id: OperationId,
        actor: &str,
    ) -> Result<Operation, CommandError> {
        let mut session = self.session().await?;
        let cancelled = operations::operation_cancel(session.connection(), id, actor);
        let operation = answer(cancelled)
            .await
            .map_err(|error| unknown_operation(error, id))?;
        session.done();
        info!(operation.id = %id, actor, state = %operation.state, "operation cancelled");
        self.fleet.intent_changed();
        Ok(operation)
    }

    /// A session for the active control plane.
    pub(super) async fn session(&self) -> Result<Session, CommandError> {
        self.leadership.epoch().await?;
        Ok(self.database.session().await?)
    }

    pub(super) async fn look(&self) -> Result<(Session, DatabaseView), CommandError> {
        let mut session = self.session().await?;
        let view = session.view(self.database.group()).await?;
        Ok((session, view))
    }

    pub(super) async fn place(
        &self,
        mut session: Session,
        moves: &[Move],
        kind: MoveKind,
        actor: &Actor,
        deadline: Option<Duration>,
    ) -> Result<Operation, CommandError> {
        let group = self.database.group();
        let begun = intent::move_begin(session.connection(), group, moves, kind, actor, deadline);
        let id = answer(begun).await?;
        self.begun(session, id).await
    }

    /// Intent is written: say so, and see how far it is already.
    pub(super) async fn begun(
        &self,
        mut session: Session,
        id: OperationId,
    ) -> Result<Operation, CommandError> {
        self.fleet.intent_changed();
        let operation = self.settled(&mut session, id).await?;
        session.done();
        info!(operation.id = %id, kind = %operation.kind, target = operation.target,
              actor = operation.actor, state = %operation.state, "operation accepted");
        Ok(operation)
    }

    /// Looks whether an operation is done, under the epoch of now.
    pub(super) async fn settled(
        &self,
        session: &mut Session,
        id: OperationId,
    ) -> Result<Operation, CommandError> {
        let epoch = self.leadership.epoch().await?;
        let settled = operations::operation_settle_as(session.connection(), id, epoch);
        answer(settled).await.map_err(|error| {
            if error.is_fenced() {
                NotLeading::Unconfirmed.into()
            } else {
                unknown_operation(error, id)
            }
        })
    }
}

fn unknown_operation(error: CatalogError, id: OperationId) -> CommandError {
    if error.is_not_found() {
        CommandError::UnknownOperation(id)
    } else {
        error.into()
    }
}

fn open_steps(view: &DatabaseView, operation: &Operation) -> Vec<Step> {
    if operation.state == OperationState::Running {
        steps(view, operation)
    } else {
        Vec::new()
    }
}

fn known_agent(view: &DatabaseView, agent: &AgentName) -> Result<(), CommandError> {
    if view.agent(agent).is_some() {
        return Ok(());
    }
    Err(CommandError::UnknownAgent(Unknown {
        name: agent.to_string(),
        known: view.agents.iter().map(|row| row.name.to_string()).collect(),
    }))
}

/// The plan of a drain that may begin. One that has begun is never refused: asking again only
/// joins it.
fn admissible_drain(view: &DatabaseView, drain: &Drain) -> Result<Vec<Move>, CommandError> {
    let agents: Vec<AgentName> = std::iter::once(&drain.agent)
        .chain(drain.together_with.iter().filter(|it| **it != drain.agent))
        .cloned()
        .collect();
    for agent in &agents {
        known_agent(view, agent)?;
    }
    let begun = view
        .holds_on(&drain.agent)
        .any(|hold| hold.kind == HoldKind::Drain);
    let obstacles = drain_obstacles(view, &agents);
    if !obstacles.is_empty() && !begun && drain.obstacles == OnObstacles::Refuse {
        return Err(CommandError::Stranded(obstacles));
    }
    let mut plan = drain_plan(view, &agents);
    plan.retain(|planned| planned.from.as_ref() == Some(&drain.agent));
    Ok(plan)
}

fn admissible_move(
    view: &DatabaseView,
    pipeline: &UnitName,
    to: &AgentName,
) -> Result<Move, CommandError> {
    let Some(row) = view.pipeline_or_shard(pipeline) else {
        return Err(CommandError::UnknownPipeline(Unknown {
            name: pipeline.to_string(),
            known: view
                .pipelines
                .iter()
                .map(|row| row.name.to_string())
                .collect(),
        }));
    };
    known_agent(view, to)?;
    if !row.enabled {
        return Err(CommandError::Disabled(pipeline.clone()));
    }
    if let Some(hold) = view.staying(&row.name)
        && hold.to.as_ref() != Some(to)
    {
        return Err(CommandError::Stays(
            pipeline.clone(),
            Box::new(hold.clone()),
        ));
    }
    let has_it = row.owner.as_ref() == Some(to);
    if !is_alive(view, to) {
        return Err(CommandError::NotRunning(to.clone()));
    }
    match view.admits(to) {
        Admits::All => {}
        Admits::OnlyItsOwn if has_it => {}
        Admits::OnlyItsOwn | Admits::Nothing => {
            return Err(CommandError::TakesNoWork(to.clone()));
        }
    }
    Ok(Move {
        pipeline: pipeline.clone(),
        from: row.owner.clone(),
        to: to.clone(),
        reason: String::new(),
    })
}

fn is_alive(view: &DatabaseView, agent: &AgentName) -> bool {
    view.agent(agent).is_some_and(|row| row.alive)
}
