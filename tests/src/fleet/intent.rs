//! What operators ask for, straight through the catalog, with no control plane.

use anyhow::Result;
use tide_catalog::{
    holds::Breaking,
    intent::{Actor, MoveKind, drain_begin, move_begin, undrain},
    operations::operation_settle,
};
use tide_model::{
    OperationId,
    hold::DrainTerms,
    operation::{Move, Operation, OperationState},
};
use tide_sandbox::wait::eventually;

use super::Fleet;
use crate::SOON;

impl Fleet {
    /// Asks an agent to give everything away.
    pub async fn drain(&self, agent: &str) -> Result<OperationId> {
        let mut connection = self.connection().await?;
        let agent = agent.parse()?;
        let terms = DrainTerms::default();
        Ok(drain_begin(&mut connection, &self.group, &agent, &actor(), None, terms).await?)
    }

    /// Lets an agent take work again.
    pub async fn undrain(&self, agent: &str) -> Result<OperationId> {
        let mut connection = self.connection().await?;
        let (agent, breaking) = (agent.parse()?, Breaking::Never);
        Ok(undrain(&mut connection, &self.group, &agent, &actor(), breaking).await?)
    }

    /// Asks for pipelines to be moved to agents.
    pub async fn move_to(&self, moves: &[(&str, &str)]) -> Result<OperationId> {
        let moves = moves
            .iter()
            .map(|(pipeline, to)| {
                Ok(Move {
                    pipeline: pipeline.parse()?,
                    from: None,
                    to: to.parse()?,
                    reason: String::new(),
                })
            })
            .collect::<Result<Vec<Move>>>()?;
        let mut connection = self.connection().await?;
        let kind = MoveKind::Move;
        Ok(move_begin(&mut connection, &self.group, &moves, kind, &actor(), None).await?)
    }

    /// Looks at an operation, and records its end if that has come.
    pub async fn settle(&self, operation: OperationId) -> Result<Operation> {
        Ok(operation_settle(&mut *self.connection().await?, operation).await?)
    }

    /// Waits until an operation has succeeded.
    pub async fn succeeded(&self, operation: OperationId) -> Result<Operation> {
        let done = eventually(SOON, "the operation to succeed", async || {
            let operation = self.settle(operation).await?;
            match operation.state {
                OperationState::Succeeded => Ok(Some(operation)),
                state => Err(anyhow::anyhow!("{state}: {:?}", operation.outcome)),
            }
        });
        Ok(done.await?)
    }
}

fn actor() -> Actor {
    Actor {
        name: "scenario".to_owned(),
        reason: "because it is tested".to_owned(),
    }
}
