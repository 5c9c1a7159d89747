//! Whether the load is evened out with nobody asking, through a control plane and straight through
//! PostgreSQL.

use std::time::Duration;

use tide_catalog::{
    PgConnection, balance,
    fleet::{Lag, read_view},
    holds::Breaking,
    rebalance,
};
use tide_model::rebalance::{By, Pause, RebalancePlan, RebalanceStatus};
use tide_proto::{convert::from_duration, fleet::v1 as wire};

use super::{
    ControlPlane, Database, Intent,
    database::actor,
    rpc::{answer, present},
};
use crate::error::CliError;

impl Database {
    pub(super) async fn rebalance_status(&mut self) -> Result<RebalanceStatus, CliError> {
        let group = self.group.clone();
        let look = async |connection: &mut PgConnection| {
            let view = read_view(connection, &group, Lag::Skip).await?;
            let costs = rebalance::unit_costs(connection, &group).await?;
            let activity = balance::activity(connection, &group).await?;
            Ok(RebalanceStatus {
                // What control planes were started with, only they know.
                terms: None,
                decision: None,
                imbalance: RebalancePlan::of(&view, By::Load, &costs).imbalance(),
                activity,
            })
        };
        self.session.run(look).await
    }

    pub(super) async fn rebalance_pause(
        &mut self,
        intent: &Intent,
        lasting: Option<Duration>,
    ) -> Result<Pause, CliError> {
        let (group, actor) = (self.group.clone(), actor(intent));
        let pause = async |connection: &mut PgConnection| {
            Ok(balance::pause(connection, &group, &actor, lasting).await?)
        };
        self.session.run(pause).await
    }

    pub(super) async fn rebalance_resume(
        &mut self,
        asker: &str,
        breaking: Breaking,
    ) -> Result<u32, CliError> {
        let group = self.group.clone();
        let resume = async |connection: &mut PgConnection| {
            Ok(balance::resume(connection, &group, asker, breaking).await?)
        };
        self.session.run(resume).await
    }
}

impl ControlPlane {
    pub(super) async fn rebalance_status(&mut self) -> Result<RebalanceStatus, CliError> {
        let request = wire::GetRebalanceStatusRequest {};
        let call = self.operations.get_rebalance_status(request);
        Ok(answer(&self.label, self.deadline, call).await?.try_into()?)
    }

    pub(super) async fn rebalance_pause(
        &mut self,
        intent: &Intent,
        lasting: Option<Duration>,
    ) -> Result<Pause, CliError> {
        let call = self
            .operations
            .pause_rebalance(wire::PauseRebalanceRequest {
                actor: intent.actor.clone(),
                reason: intent.reason.clone(),
                lasting: lasting.map(from_duration),
            });
        let answered = answer(&self.label, self.deadline, call).await?;
        Ok(present("pause", answered.pause)?.try_into()?)
    }

    pub(super) async fn rebalance_resume(
        &mut self,
        asker: &str,
        breaking: Breaking,
    ) -> Result<u32, CliError> {
        let call = self
            .operations
            .resume_rebalance(wire::ResumeRebalanceRequest {
                actor: asker.to_owned(),
                breaking: breaking == Breaking::Allowed,
            });
        Ok(answer(&self.label, self.deadline, call).await?.ended)
    }
}
