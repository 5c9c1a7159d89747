//! Holds: set, listed, taken away. What they forbid is up to the agents, which obey by themselves.

use tide_catalog::{
    holds::{self, Breaking, HoldTerms, NewHold},
    intent::Actor,
};
use tide_model::{
    HoldId,
    fleet::{Hold, HoldKind},
    hold::HoldTarget,
};
use tracing::info;

use super::{CommandError, commands::Commands};
use crate::database::answer;

impl Commands {
    /// Sets a hold, or renews the one of its kind, target and name.
    pub(crate) async fn hold_set(
        &self,
        hold: &NewHold,
        terms: &HoldTerms,
        actor: &Actor,
    ) -> Result<Hold, CommandError> {
        let mut session = self.session().await?;
        let group = self.database.group();
        let set = holds::hold_set(session.connection(), group, hold, terms, actor);
        let hold = answer(set).await?;
        session.done();
        info!(hold.id = %hold.id, kind = %hold.kind, target = hold.target.as_str(),
              owner = hold.actor, "hold set");
        self.fleet.intent_changed();
        Ok(hold)
    }

    /// Ends the actor's holds of a kind on a target, or everybody's.
    pub(crate) async fn hold_lift(
        &self,
        kind: HoldKind,
        target: &HoldTarget,
        breaking: Breaking,
        actor: &Actor,
    ) -> Result<u32, CommandError> {
        let mut session = self.session().await?;
        let group = self.database.group();
        let lifted = holds::hold_lift(session.connection(), group, kind, target, breaking, actor);
        let ended = answer(lifted).await?;
        session.done();
        info!(%kind, target = target.as_str(), actor = actor.name, ended, "holds lifted");
        self.fleet.intent_changed();
        Ok(ended)
    }

    /// Takes one hold away.
    pub(crate) async fn hold_remove(
        &self,
        id: HoldId,
        breaking: Breaking,
        actor: &Actor,
    ) -> Result<Hold, CommandError> {
        let mut session = self.session().await?;
        let group = self.database.group();
        let removed = holds::hold_remove(session.connection(), group, id, breaking, actor);
        let hold = answer(removed).await?;
        session.done();
        info!(hold.id = %hold.id, kind = %hold.kind, target = hold.target.as_str(),
              owner = hold.actor, actor = actor.name, "hold removed");
        self.fleet.intent_changed();
        Ok(hold)
    }

    /// Every hold that is in force.
    pub(crate) async fn hold_list(&self) -> Result<Vec<Hold>, CommandError> {
        let mut session = self.session().await?;
        let group = self.database.group();
        let listed = answer(holds::hold_list(session.connection(), group)).await?;
        session.done();
        Ok(listed)
    }
}
