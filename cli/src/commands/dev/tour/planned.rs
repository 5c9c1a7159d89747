//! What operators do on purpose: it must cost nothing, not even a message that comes twice.

use anyhow::bail;
use tide_catalog::holds::Breaking;
use tide_model::{AgentName, fleet::AgentState, fleet::FleetView, operation::OperationState};
use tokio::time::Instant;

use super::Tour;
use crate::{
    commands::dev::{
        PATIENCE,
        accounts::milliseconds,
        fleet::{alive, in_place, owned, reporting},
    },
    output::humanize::{counted, number},
    source::{Drain, Intent, Stranding},
};

impl Tour<'_> {
    /// Empties an agent, and does not believe it before `pg_locks` says so too.
    pub(super) async fn drain(&mut self, agent: &AgentName) -> anyhow::Result<()> {
        let before = owned(&self.fleet.view().await?, agent).len();
        let mut source = self.fleet.source().await?;
        let started = source
            .drain(
                &Drain::of(agent.clone(), Stranding::Refuse),
                &intent("the tour"),
            )
            .await?;
        let mut watch = source.operation_watch(started.operation.id).await?;
        let watched = tokio::time::timeout(PATIENCE, async {
            loop {
                let operation = watch.next().await?.operation;
                if operation.state != OperationState::Running {
                    return Ok::<_, anyhow::Error>(operation);
                }
            }
        });
        let Ok(ended) = watched.await else {
            bail!("the drain of {agent} did not end within {PATIENCE:?}");
        };
        let operation = ended?;
        // By the database's clock: we hear of the end only when we ask again.
        let ended_at = operation.finished_at.unwrap_or(operation.created_at);
        let took = (ended_at - operation.created_at).unsigned_abs();
        if !operation.is_safe_to_stop() {
            bail!(
                "the drain of {agent} ended as {}: {:?}",
                operation.state,
                operation.outcome
            );
        }
        let view = self.fleet.view().await?;
        let fleet = FleetView::build(&view, &std::collections::BTreeMap::new(), view.taken_at);
        let drained = fleet.agents.iter().find(|seen| seen.name == *agent);
        if !owned(&view, agent).is_empty()
            || drained.is_none_or(|seen| seen.state != AgentState::Drained)
        {
            bail!("the drain of {agent} has succeeded, and pg_locks still shows locks of it");
        }
        self.story.tell(format_args!(
            "drained {agent} in {}: {} handed over, no lock left in pg_locks, safe to stop",
            milliseconds(took),
            counted(before, "pipeline"),
        ));
        Ok(())
    }

    /// Lets a drained agent work again.
    pub(super) async fn undrain(&mut self, agent: &AgentName) -> anyhow::Result<()> {
        let mut source = self.fleet.source().await?;
        let began = Instant::now();
        source
            .undrain(agent, Breaking::Never, &intent("the tour goes on"))
            .await?;
        let share = self.share(agent).await?;
        self.story.tell(format_args!(
            "undrained {agent}: it owns {} after {}",
            counted(share, "pipeline"),
            milliseconds(began.elapsed()),
        ));
        Ok(())
    }

    /// Starts an agent that has ended, and waits until it does its share.
    pub(super) async fn start_again(&mut self, agent: &AgentName) -> anyhow::Result<()> {
        let began = Instant::now();
        self.fleet.agents.start_again(agent)?;
        let share = self.share(agent).await?;
        self.story.tell(format_args!(
            "started {agent} again: it owns {} after {}",
            counted(share, "pipeline"),
            milliseconds(began.elapsed()),
        ));
        Ok(())
    }

    /// SIGTERM, and a new start.
    pub(super) async fn restart(&mut self, agent: &AgentName) -> anyhow::Result<()> {
        let before = owned(&self.fleet.view().await?, agent).len();
        let began = Instant::now();
        self.fleet.agents.terminate(agent)?;
        let status = self.fleet.agents.ended(agent).await?;
        let took = began.elapsed();
        if !status.success() {
            bail!("{agent} did not stop in good order: {status}");
        }
        self.fleet
            .until("the others to own everything", in_place)
            .await?;
        self.story.tell(format_args!(
            "stopped {agent} with SIGTERM in {}: {} handed over",
            milliseconds(took),
            counted(before, "pipeline"),
        ));
        self.start_again(agent).await
    }

    /// The control plane is killed and comes back; nobody else notices.
    pub(super) async fn control_plane_dies(&mut self) -> anyhow::Result<()> {
        let Some(control) = &mut self.fleet.control else {
            return Ok(());
        };
        control.kill9().await?;
        let before = self.lookout.total();
        self.story.tell("killed the control plane");
        self.a_while().await?;
        let meanwhile = self.lookout.total() - before;
        let running = self.fleet.agents.running().into_keys().collect();
        let Some(control) = &mut self.fleet.control else {
            return Ok(());
        };
        let began = Instant::now();
        control.start_again()?;
        control.ready(|fleet| reporting(fleet, &running)).await?;
        self.story.tell(format_args!(
            "started the control plane again: {} messages were delivered without it, \
             and all agents report after {}",
            number(meanwhile as u64),
            milliseconds(began.elapsed()),
        ));
        Ok(())
    }

    /// Waits until an agent owns something and every pipeline is where it belongs; returns how
    /// many it owns.
    async fn share(&mut self, agent: &AgentName) -> anyhow::Result<usize> {
        let running = self.fleet.agents.running().into_keys().collect();
        self.fleet
            .until("the load to be balanced", |view| {
                alive(view, &running)?;
                in_place(view)?;
                match owned(view, agent).len() {
                    0 => Err(format!("{agent} owns nothing")),
                    share => Ok(share),
                }
            })
            .await
    }
}

fn intent(reason: &str) -> Intent {
    Intent {
        actor: "tidectl dev".to_owned(),
        reason: reason.to_owned(),
        deadline: None,
    }
}
