//! Holds through a control plane and straight through PostgreSQL.

use tide_catalog::{
    PgConnection,
    holds::{self, Breaking, HoldTerms, NewHold},
};
use tide_model::{
    HoldId,
    fleet::{Hold, HoldKind},
    hold::HoldTarget,
};
use tide_proto::{convert::from_duration, fleet::v1 as wire};

use super::{
    ControlPlane, Database, Intent,
    database::actor,
    rpc::{answer, converted, present},
};
use crate::error::CliError;

impl Database {
    /// Every hold that is in force, oldest first.
    pub(crate) async fn holds(&mut self) -> Result<Vec<Hold>, CliError> {
        let group = self.group.clone();
        let list =
            async |connection: &mut PgConnection| Ok(holds::hold_list(connection, &group).await?);
        self.session.run(list).await
    }

    pub(super) async fn hold_set(
        &mut self,
        hold: &NewHold,
        terms: &HoldTerms,
        intent: &Intent,
    ) -> Result<Hold, CliError> {
        let (group, actor) = (self.group.clone(), actor(intent));
        let set = async |connection: &mut PgConnection| {
            Ok(holds::hold_set(connection, &group, hold, terms, &actor).await?)
        };
        self.session.run(set).await
    }

    pub(super) async fn hold_lift(
        &mut self,
        kind: HoldKind,
        target: &HoldTarget,
        breaking: Breaking,
        intent: &Intent,
    ) -> Result<u32, CliError> {
        let (group, actor) = (self.group.clone(), actor(intent));
        let lift = async |connection: &mut PgConnection| {
            Ok(holds::hold_lift(connection, &group, kind, target, breaking, &actor).await?)
        };
        self.session.run(lift).await
    }

    pub(super) async fn hold_remove(
        &mut self,
        id: HoldId,
        breaking: Breaking,
        intent: &Intent,
    ) -> Result<Hold, CliError> {
        let (group, actor) = (self.group.clone(), actor(intent));
        let remove = async |connection: &mut PgConnection| {
            Ok(holds::hold_remove(connection, &group, id, breaking, &actor).await?)
        };
        self.session.run(remove).await
    }
}

impl ControlPlane {
    pub(super) async fn holds(&mut self) -> Result<Vec<Hold>, CliError> {
        let call = self.holds.list_holds(wire::ListHoldsRequest {});
        converted(answer(&self.label, self.deadline, call).await?.holds)
    }

    pub(super) async fn hold_set(
        &mut self,
        hold: &NewHold,
        terms: &HoldTerms,
        intent: &Intent,
    ) -> Result<Hold, CliError> {
        let to = match hold {
            NewHold::Pin(_, to) => to.to_string(),
            NewHold::Cordon(_) | NewHold::Freeze(_) | NewHold::Pause(_) => String::new(),
        };
        let call = self.holds.set_hold(wire::SetHoldRequest {
            kind: wire::HoldKind::from(hold.kind()).into(),
            target: hold.target().as_str().to_owned(),
            to,
            actor: intent.actor.clone(),
            reason: intent.reason.clone(),
            name: terms.name.clone().unwrap_or_default(),
            lasting: terms.lasting.map(from_duration),
        });
        let answered = answer(&self.label, self.deadline, call).await?;
        Ok(present("hold", answered.hold)?.try_into()?)
    }

    pub(super) async fn hold_lift(
        &mut self,
        kind: HoldKind,
        target: &HoldTarget,
        breaking: Breaking,
        intent: &Intent,
    ) -> Result<u32, CliError> {
        let call = self.holds.lift_hold(wire::LiftHoldRequest {
            kind: wire::HoldKind::from(kind).into(),
            target: target.as_str().to_owned(),
            actor: intent.actor.clone(),
            reason: intent.reason.clone(),
            breaking: breaking == Breaking::Allowed,
        });
        Ok(answer(&self.label, self.deadline, call).await?.ended)
    }

    pub(super) async fn hold_remove(
        &mut self,
        id: HoldId,
        breaking: Breaking,
        intent: &Intent,
    ) -> Result<Hold, CliError> {
        let call = self.holds.remove_hold(wire::RemoveHoldRequest {
            id: id.to_string(),
            actor: intent.actor.clone(),
            reason: intent.reason.clone(),
            breaking: breaking == Breaking::Allowed,
        });
        let answered = answer(&self.label, self.deadline, call).await?;
        Ok(present("hold", answered.hold)?.try_into()?)
    }
}
