//! Plans that even out the load: made, kept, looked at, applied.

use std::time::Duration;

use tide_catalog::{
    CatalogError,
    intent::{Actor, MoveKind},
    rebalance,
};
use tide_model::{
    PlanId,
    operation::{Move, Operation},
    rebalance::{By, Outdated, Proposal, RebalancePlan, still_holds},
};

use super::{CommandError, commands::Commands};
use crate::{
    database::{Session, answer, patiently},
    leadership::NotLeading,
};

/// Whether a plan is kept, and in whose name.
#[derive(Debug, Clone)]
pub(crate) enum Keeping {
    /// It is only looked at.
    Nothing,
    /// It may be applied by its id.
    For(String),
}

impl Commands {
    /// What would even out the load.
    pub(crate) async fn rebalance_plan(
        &self,
        by: By,
        keeping: Keeping,
    ) -> Result<Proposal, CommandError> {
        let (mut session, view) = self.look().await?;
        let group = self.database.group();
        let costs = answer(rebalance::unit_costs(session.connection(), group)).await?;
        let plan = RebalancePlan::of(&view, by, &costs);
        let record = match keeping {
            Keeping::For(actor) if !plan.is_empty() => {
                let stored = rebalance::plan_store(session.connection(), group, &plan, &actor);
                Some(answer(stored).await?)
            }
            // In an empty plan there is nothing to apply.
            Keeping::For(_) | Keeping::Nothing => None,
        };
        session.done();
        Ok(Proposal { plan, record })
    }

    /// A plan that is kept.
    pub(crate) async fn rebalance_plan_get(&self, id: PlanId) -> Result<Proposal, CommandError> {
        let mut session = self.session().await?;
        let group = self.database.group();
        let kept = answer(rebalance::plan_get(session.connection(), group, id)).await?;
        session.done();
        Ok(kept)
    }

    /// Carries a plan that is kept out, and returns what it left out because it had become stale. One
    /// that was applied before is the operation that it became.
    pub(crate) async fn rebalance(
        &self,
        id: PlanId,
        actor: &Actor,
        deadline: Option<Duration>,
    ) -> Result<(Operation, Vec<Move>), CommandError> {
        let epoch = self.leadership.epoch().await?;
        let mut session = self.session().await?;
        let group = self.database.group();
        let applying = patiently(rebalance::applying(session.connection(), group, id)).await?;
        let record = applying.proposal.record.as_ref();
        if let Some(operation) = record.and_then(|record| record.operation) {
            drop(applying);
            let operation = self.settled(&mut session, operation).await?;
            session.done();
            return Ok((operation, Vec::new()));
        }
        let admitted = applying
            .proposal
            .admit(&applying.view, &applying.costs)
            .map_err(CommandError::Outdated)?;
        let begun = applying.begin(&admitted.moves, actor, deadline, Some(epoch));
        let operation = answer(begun).await.map_err(led_before)?;
        let operation = self.begun(session, operation).await?;
        Ok((operation, admitted.skipped))
    }

    /// Carries moves out that somebody put together, and returns those that had become stale.
    pub(crate) async fn rebalance_moves(
        &self,
        moves: Vec<Move>,
        actor: &Actor,
        deadline: Option<Duration>,
    ) -> Result<(Operation, Vec<Move>), CommandError> {
        let (session, view): (Session, _) = self.look().await?;
        let (moves, stale): (Vec<_>, Vec<_>) = moves
            .into_iter()
            .partition(|planned| still_holds(&view, planned));
        if moves.is_empty() {
            return Err(CommandError::Outdated(Outdated::moves(&stale)));
        }
        let kind = MoveKind::Rebalance;
        let operation = self.place(session, &moves, kind, actor, deadline).await?;
        Ok((operation, stale))
    }
}

fn led_before(error: CatalogError) -> CommandError {
    if error.is_fenced() {
        NotLeading::Unconfirmed.into()
    } else {
        error.into()
    }
}
