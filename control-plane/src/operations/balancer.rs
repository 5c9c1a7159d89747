//! Evens out the load with nobody asking, or suggests to: what the model decides, every so often,
//! by the active control plane and under its epoch.
//!
//! When this fails: nothing moves. Agents share pipelines out by themselves all the same, and
//! anybody may ask for a plan.

use std::{error::Error, mem::discriminant, time::Duration};

use metrics::gauge;
use tide_catalog::{
    balance::{self, Suggestion},
    holds::Breaking,
    intent::Actor,
    rebalance,
};
use tide_model::{
    UnitName,
    fleet::DatabaseView,
    rebalance::{
        By, Costs, Decision, Mode, Pause, PlanRecord, RebalancePlan, RebalanceStatus, Situation,
        Terms, decide,
    },
    state::PipelineState,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{CommandError, commands::Commands};
use crate::{database::answer, metrics::LOAD_IMBALANCE};

/// Who acts where nobody asked.
const ITSELF: &str = "tide-control-plane";
/// What has not moved by then is not waited for any longer.
const DEADLINE: Duration = Duration::from_mins(15);

/// When to act, and how often to look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Balance {
    /// When to act.
    pub(crate) terms: Terms,
    /// How often to look.
    pub(crate) interval: Duration,
}

/// What was found, and what follows.
struct Judged {
    plan: RebalancePlan,
    situation: Situation,
    decision: Decision,
}

impl Commands {
    /// How it stands, and what would be done now.
    pub(crate) async fn rebalance_status(&self) -> Result<RebalanceStatus, CommandError> {
        let judged = self.judge().await?;
        Ok(RebalanceStatus {
            terms: Some(self.balance.terms),
            decision: Some(judged.decision.to_string()),
            imbalance: judged.plan.imbalance(),
            activity: judged.situation.activity,
        })
    }

    /// Keeps it from acting by itself.
    pub(crate) async fn rebalance_pause(
        &self,
        actor: &Actor,
        lasting: Option<Duration>,
    ) -> Result<Pause, CommandError> {
        let mut session = self.session().await?;
        let group = self.database.group();
        let paused = balance::pause(session.connection(), group, actor, lasting);
        let pause = answer(paused).await?;
        session.done();
        info!(
            owner = pause.actor,
            reason = pause.reason,
            "rebalancing paused"
        );
        Ok(pause)
    }

    /// Ends the actor's pause, or everybody's.
    pub(crate) async fn rebalance_resume(
        &self,
        actor: &str,
        breaking: Breaking,
    ) -> Result<u32, CommandError> {
        let mut session = self.session().await?;
        let group = self.database.group();
        let ended = answer(balance::resume(
            session.connection(),
            group,
            actor,
            breaking,
        ))
        .await?;
        session.done();
        info!(actor, ended, "rebalancing resumed");
        Ok(ended)
    }

    async fn judge(&self) -> Result<Judged, CommandError> {
        let (mut session, view) = self.look().await?;
        let group = self.database.group();
        let costs: Costs = answer(rebalance::unit_costs(session.connection(), group)).await?;
        let activity = answer(balance::activity(session.connection(), group)).await?;
        session.done();
        let plan = RebalancePlan::of(&view, By::Load, &costs);
        let situation = Situation {
            activity,
            warming: self.fleet.warm().is_err(),
            moving: view.moves().into_iter().flatten().count(),
            worst: self.worst(&view),
        };
        let decision = decide(&self.balance.terms, &plan, &situation, view.taken_at);
        Ok(Judged {
            plan,
            situation,
            decision,
        })
    }

    /// The pipeline that is furthest behind, by the database or by its owner's word. Who waits for an
    /// operator is left out: time makes that no better.
    fn worst(&self, view: &DatabaseView) -> Option<(UnitName, time::Duration)> {
        let waits = [PipelineState::Paused, PipelineState::Misconfigured];
        let fleet = self.fleet.view();
        let told = fleet.pipelines.iter().filter(|pipeline| {
            pipeline.enabled && waits.iter().all(|state| pipeline.state != state.as_str())
        });
        let told = told.map(|pipeline| {
            let lag = time::Duration::seconds_f64(pipeline.lag_seconds);
            (&pipeline.name, lag)
        });
        let read = view
            .pipelines
            .iter()
            .filter(|row| row.enabled && row.state.is_none_or(|state| !waits.contains(&state)));
        let worst = told
            .chain(read.map(|row| (&row.name, row.lag)))
            .max_by_key(|(_, lag)| *lag);
        worst.map(|(unit, lag)| (unit.clone(), lag))
    }

    /// Looks once, and acts if that is decided.
    async fn even_out(&self) -> Result<Decision, CommandError> {
        let Judged { plan, decision, .. } = self.judge().await?;
        gauge!(LOAD_IMBALANCE).set(plan.imbalance().0);
        let Decision::Act(..) = decision else {
            return Ok(decision);
        };
        let actor = Actor {
            name: ITSELF.to_owned(),
            reason: decision.to_string(),
        };
        let record = self.keep(&plan).await?;
        match self.balance.terms.mode {
            Mode::Off => {}
            Mode::Suggest => {
                let epoch = self.leadership.epoch().await?;
                let mut session = self.session().await?;
                let group = self.database.group();
                let suggested =
                    balance::suggest(session.connection(), group, record.id, &actor, epoch);
                let suggested = answer(suggested).await?;
                session.done();
                if suggested == Suggestion::New {
                    info!(plan = %record.id, moves = plan.moves.len(), reason = actor.reason, "rebalance suggested");
                }
            }
            Mode::Auto => {
                let applied = self.rebalance(record.id, &actor, Some(DEADLINE)).await;
                let (operation, skipped) = applied?;
                info!(
                    plan = %record.id, operation.id = %operation.id, moves = operation.moves.len(),
                    skipped = skipped.len(), reason = actor.reason, "rebalance applied"
                );
            }
        }
        Ok(decision)
    }

    async fn keep(&self, plan: &RebalancePlan) -> Result<PlanRecord, CommandError> {
        let mut session = self.session().await?;
        let group = self.database.group();
        let kept = rebalance::plan_store(session.connection(), group, plan, ITSELF);
        let record = answer(kept).await?;
        session.done();
        Ok(record)
    }
}

/// Runs until the token is cancelled.
pub(crate) async fn even_out(
    commands: Commands,
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let mut told = None;
    let mut trouble = None;
    loop {
        let interval = commands.balance.interval;
        if stop.run_until_cancelled(sleep(interval)).await.is_none() {
            return Ok(());
        }
        // A standby leaves it to the active one, and so does whoever is not sure.
        if commands.leadership.confirmed().is_none() {
            gauge!(LOAD_IMBALANCE).set(1.0);
            continue;
        }
        let Some(looked) = stop.run_until_cancelled(commands.even_out()).await else {
            return Ok(());
        };
        let failed = match looked {
            Ok(decision) => {
                let kind = Some(discriminant(&decision));
                if kind != told {
                    info!(%decision, "looked at the balance");
                    told = kind;
                }
                None
            }
            Err(error) => Some((error.to_string(), error)),
        };
        if let Some((text, error)) = &failed
            && trouble.as_ref() != Some(text)
        {
            let error: &dyn Error = error;
            warn!(error, "the load could not be evened out, trying again");
        }
        trouble = failed.map(|(text, _)| text);
    }
}
