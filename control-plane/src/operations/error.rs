//! Why a command was refused.

use tide_catalog::CatalogError;
use tide_model::{
    AgentName, OperationId, UnitName, fleet::Hold, obstacles::Obstacles, rebalance::Outdated,
};

use crate::leadership::NotLeading;

/// A name that nobody has, and the names that there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// As asked for.
    pub(crate) name: String,
    /// All of its kind, in no order.
    pub(crate) known: Vec<String>,
}

/// Why a command changed nothing. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// No such agent.
    #[error("agent {:?} is not known", .0.name)]
    UnknownAgent(Unknown),
    /// No such pipeline.
    #[error("pipeline {:?} does not exist", .0.name)]
    UnknownPipeline(Unknown),
    /// No such operation.
    #[error("operation {0} does not exist")]
    UnknownOperation(OperationId),
    /// A drain would leave pipelines without an agent, or move what is to stay.
    #[error("{0}")]
    Stranded(Obstacles),
    /// The target of a move is not there.
    #[error("agent {0} is not running")]
    NotRunning(AgentName),
    /// The target of a move takes no work.
    #[error("agent {0} takes no work")]
    TakesNoWork(AgentName),
    /// A hold keeps the pipeline where it is.
    #[error("pipeline {} is {} {}", .0, .1.kind.participle(), .1.origin())]
    Stays(UnitName, Box<Hold>),
    /// The pipeline to be moved does not run anywhere.
    #[error("pipeline {0} is disabled")]
    Disabled(UnitName),
    /// A plan is not what was agreed to any more.
    #[error(transparent)]
    Outdated(#[from] Outdated),
    /// Another control plane is the active one, or nobody can say.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// The catalog refused or could not be reached.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}
