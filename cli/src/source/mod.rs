//! Whom commands ask about the fleet, and through whom they change it.
//!
//! The control plane and the database give the same answers and take the same intent, so a
//! command never knows which of the two it talks to. What differs is who looks after an operation:
//! a control plane settles it by itself; without one, whoever watches it does.

mod admission;
mod balance;
mod connect;
mod control_plane;
mod database;
mod holds;
mod reads;
mod rebalance;
mod refusal;
mod rpc;
mod session;
mod watch;

use std::time::Duration;

use serde::Serialize;
use tide_catalog::holds::{Breaking, HoldTerms, NewHold};
use tide_model::{
    AgentName, HoldId, OperationId, PlanId, UnitName,
    drain::Step,
    fleet::{AgentView, FleetView, Hold, HoldKind, PipelineView},
    hold::{DrainTerms, HoldTarget},
    operation::{Move, Operation},
    rebalance::{By, Pause, Proposal, RebalanceStatus},
};

pub use self::{
    connect::{ask_each, connect, reconnect},
    control_plane::ControlPlane,
    database::Database,
    rebalance::Keeping,
    session::Session,
    watch::{FleetWatch, OperationWatch},
};
use crate::error::CliError;

/// Whom to ask.
#[derive(Debug)]
pub enum Source {
    /// A control plane.
    ControlPlane(Box<ControlPlane>),
    /// PostgreSQL itself.
    Database(Box<Database>),
}

/// Who asks for a change, what for, and until when.
#[derive(Debug, Clone)]
pub struct Intent {
    /// Who.
    pub actor: String,
    /// What for; may be empty.
    pub reason: String,
    /// When it gives up; never if none.
    pub deadline: Option<Duration>,
}

/// What to do about pipelines that would have nowhere to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranding {
    /// Refuse the drain and name them.
    Refuse,
    /// Drain all the same.
    Accept,
}

/// A drain that is asked for.
#[derive(Debug, Clone)]
pub struct Drain {
    /// The agent.
    pub agent: AgentName,
    /// Others that are drained in the same breath.
    pub together_with: Vec<AgentName>,
    /// What to do about pipelines that would have nowhere to go, or are to stay.
    pub stranding: Stranding,
    /// How.
    pub terms: DrainTerms,
}

impl Drain {
    /// A plain one.
    pub fn of(agent: AgentName, stranding: Stranding) -> Self {
        Self {
            agent,
            together_with: Vec::new(),
            stranding,
            terms: DrainTerms::default(),
        }
    }

    /// All agents that are drained.
    pub(super) fn agents(&self) -> Vec<AgentName> {
        let others = self.together_with.iter().filter(|it| **it != self.agent);
        std::iter::once(&self.agent)
            .chain(others)
            .cloned()
            .collect()
    }
}

/// A drain that runs, and where its pipelines were going when it was asked for.
#[derive(Debug, Clone)]
pub struct StartedDrain {
    /// The operation.
    pub operation: Operation,
    /// Where each pipeline goes.
    pub plan: Vec<Move>,
}

/// A rebalance that runs.
#[derive(Debug, Clone)]
pub struct StartedRebalance {
    /// The operation.
    pub operation: Operation,
    /// Moves left out because they became stale since the plan.
    pub skipped: Vec<Move>,
}

/// An operation and where each of its pipelines stands; no steps once it has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperationView {
    /// The operation.
    #[serde(flatten)]
    pub operation: Operation,
    /// Where its pipelines stand.
    pub steps: Vec<Step>,
}

macro_rules! ask {
    ($source:expr, $answer:ident => $call:expr) => {
        match $source {
            Source::ControlPlane($answer) => $call.await,
            Source::Database($answer) => $call.await,
        }
    };
}

impl Source {
    /// For footers and JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ControlPlane(_) => "control-plane",
            Self::Database(_) => "database",
        }
    }

    /// Kind and address, and why it is not another one. Never credentials.
    pub fn label(&self) -> String {
        match self {
            Self::ControlPlane(control_plane) => format!("control-plane {}", control_plane.label()),
            Self::Database(database) => format!("database {}", database.label()),
        }
    }

    /// Where the newest list came from, and of which view it was.
    pub fn cited(&self) -> String {
        let revision = match self {
            Self::ControlPlane(control_plane) => control_plane.cited(),
            Self::Database(_) => String::new(),
        };
        self.label() + &revision
    }

    /// The whole fleet.
    pub async fn fleet(&mut self) -> Result<FleetView, CliError> {
        ask!(self, it => it.fleet())
    }

    /// The whole fleet now, and again whenever it changes.
    pub async fn fleet_watch(&mut self) -> Result<FleetWatch<'_>, CliError> {
        match self {
            Self::ControlPlane(control_plane) => control_plane.fleet_watch().await,
            Self::Database(database) => Ok(FleetWatch::poll(database)),
        }
    }

    /// Every agent, by name.
    pub async fn agents(&mut self) -> Result<Vec<AgentView>, CliError> {
        ask!(self, it => it.agents())
    }

    /// One agent and the pipelines that it owns.
    pub async fn agent(
        &mut self,
        name: &AgentName,
    ) -> Result<(AgentView, Vec<PipelineView>), CliError> {
        ask!(self, it => it.agent(name))
    }

    /// Pipelines by name: all, or those of one owner.
    pub async fn pipelines(
        &mut self,
        owner: Option<&AgentName>,
    ) -> Result<Vec<PipelineView>, CliError> {
        ask!(self, it => it.pipelines(owner))
    }

    /// One pipeline.
    pub async fn pipeline(&mut self, name: &UnitName) -> Result<PipelineView, CliError> {
        ask!(self, it => it.pipeline(name))
    }

    /// Where a drain would send each pipeline; refused as the drain would be. Changes nothing.
    pub async fn drain_plan(
        &mut self,
        drain: &Drain,
        intent: &Intent,
    ) -> Result<Vec<Move>, CliError> {
        match self {
            Self::ControlPlane(it) => it.drain_plan(drain, intent).await,
            Self::Database(it) => it.drain_plan(drain).await,
        }
    }

    /// Empties an agent. A drain that runs already is joined.
    pub async fn drain(
        &mut self,
        drain: &Drain,
        intent: &Intent,
    ) -> Result<StartedDrain, CliError> {
        ask!(self, it => it.drain(drain, intent))
    }

    /// Lets an agent work again.
    pub async fn undrain(
        &mut self,
        agent: &AgentName,
        breaking: Breaking,
        intent: &Intent,
    ) -> Result<Operation, CliError> {
        ask!(self, it => it.undrain(agent, breaking, intent))
    }

    /// Every hold that is in force, oldest first.
    pub async fn holds(&mut self) -> Result<Vec<Hold>, CliError> {
        ask!(self, it => it.holds())
    }

    /// Sets a hold, or renews the one of its kind, target and name.
    pub async fn hold_set(
        &mut self,
        hold: &NewHold,
        terms: &HoldTerms,
        intent: &Intent,
    ) -> Result<Hold, CliError> {
        ask!(self, it => it.hold_set(hold, terms, intent))
    }

    /// Ends the actor's holds of a kind on a target, or everybody's; says how many there were.
    pub async fn hold_lift(
        &mut self,
        kind: HoldKind,
        target: &HoldTarget,
        breaking: Breaking,
        intent: &Intent,
    ) -> Result<u32, CliError> {
        ask!(self, it => it.hold_lift(kind, target, breaking, intent))
    }

    /// Takes one hold away.
    pub async fn hold_remove(
        &mut self,
        id: HoldId,
        breaking: Breaking,
        intent: &Intent,
    ) -> Result<Hold, CliError> {
        ask!(self, it => it.hold_remove(id, breaking, intent))
    }

    /// Brings one pipeline to an agent.
    pub async fn move_pipeline(
        &mut self,
        pipeline: &UnitName,
        to: &AgentName,
        intent: &Intent,
    ) -> Result<Operation, CliError> {
        ask!(self, it => it.move_pipeline(pipeline, to, intent))
    }

    /// What would even out the load, kept for a day if that is asked for. Moves nothing.
    pub async fn rebalance_plan(
        &mut self,
        by: By,
        keeping: Keeping,
        asker: &str,
    ) -> Result<Proposal, CliError> {
        ask!(self, it => it.rebalance_plan(by, keeping, asker))
    }

    /// A plan that is kept.
    pub async fn rebalance_plan_get(&mut self, id: PlanId) -> Result<Proposal, CliError> {
        ask!(self, it => it.rebalance_plan_get(id))
    }

    /// Carries a plan out, but for the moves that became stale. One that was applied before is what
    /// it became.
    pub async fn rebalance(
        &mut self,
        id: PlanId,
        intent: &Intent,
    ) -> Result<StartedRebalance, CliError> {
        ask!(self, it => it.rebalance(id, intent))
    }

    /// Whether the load is evened out with nobody asking, and why not now.
    pub async fn rebalance_status(&mut self) -> Result<RebalanceStatus, CliError> {
        ask!(self, it => it.rebalance_status())
    }

    /// Keeps control planes from evening out the load by themselves.
    pub async fn rebalance_pause(
        &mut self,
        intent: &Intent,
        lasting: Option<Duration>,
    ) -> Result<Pause, CliError> {
        ask!(self, it => it.rebalance_pause(intent, lasting))
    }

    /// Ends the actor's pause, or everybody's; says how many there were.
    pub async fn rebalance_resume(
        &mut self,
        asker: &str,
        breaking: Breaking,
    ) -> Result<u32, CliError> {
        ask!(self, it => it.rebalance_resume(asker, breaking))
    }

    /// One operation, looked at now.
    pub async fn operation(&mut self, id: OperationId) -> Result<OperationView, CliError> {
        ask!(self, it => it.operation(id))
    }

    /// One operation now, and again whenever it changes, until it has ended.
    pub async fn operation_watch(
        &mut self,
        id: OperationId,
    ) -> Result<OperationWatch<'_>, CliError> {
        match self {
            Self::ControlPlane(control_plane) => control_plane.operation_watch(id).await,
            Self::Database(database) => Ok(OperationWatch::poll(database, id)),
        }
    }

    /// The newest operations, newest first.
    pub async fn operations(&mut self, limit: u32) -> Result<Vec<Operation>, CliError> {
        ask!(self, it => it.operations(limit))
    }

    /// Gives an operation up; one that has ended stays as it is.
    pub async fn operation_cancel(
        &mut self,
        id: OperationId,
        actor: &str,
    ) -> Result<Operation, CliError> {
        ask!(self, it => it.operation_cancel(id, actor))
    }
}
