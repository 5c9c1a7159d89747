//! What happens without warning: an agent is killed, or stopped in its tracks.

use std::collections::BTreeMap;

use anyhow::bail;
use tide_catalog::outboxes::outbox_status;
use tide_model::{AgentName, Epoch, UnitName, fleet::DatabaseView};
use tide_sandbox::{
    history::{Cause, Disturbance, Reach},
    publisher::{PublishPlan, Publisher},
};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};

use super::{Tour, with_share};
use crate::commands::dev::{
    PATIENCE,
    accounts::{Gap, Spread},
    agents::LEASE_TIME,
    fleet::{alive, in_place, owned},
    pipelines::OUTBOXES,
};

/// Messages a second while a gap is measured: with fewer, the gap would be the publisher's.
const PULSE: f64 = 300.0;
/// The hot half of the keys, which no transaction of the steady publisher keeps for long.
const PULSE_KEYS: usize = 10;

/// What an agent owned when something happened to it.
struct Victim {
    agent: AgentName,
    owned: BTreeMap<UnitName, Epoch>,
    at: OffsetDateTime,
}

impl Tour<'_> {
    /// SIGKILL in the middle of it all: how long does each pipeline stand still?
    pub(super) async fn crash(&mut self, agent: &AgentName) -> anyhow::Result<()> {
        let pulse = self.pulse().await?;
        let owned = owned(
            &self
                .fleet
                .until("order before the crash", settled(agent))
                .await?,
            agent,
        );
        let victim = Victim {
            agent: agent.clone(),
            owned,
            at: OffsetDateTime::now_utc(),
        };
        self.fleet.agents.kill9(agent)?;
        let gaps = self.gaps(&victim).await?;
        self.story.tell(format_args!(
            "killed {} with SIGKILL: others delivered after {}",
            with_share(agent, victim.owned.len()),
            Spread::of(&gaps),
        ));
        self.crashes.extend(gaps);
        self.fleet.agents.ended(agent).await?;
        self.recovered(victim, Cause::Crash, pulse).await
    }

    /// SIGSTOP for longer than the lease, then SIGCONT: the others must not wait for it, and it
    /// must not go on where it was.
    pub(super) async fn freeze(&mut self, agent: &AgentName) -> anyhow::Result<()> {
        let pulse = self.pulse().await?;
        let view = self
            .fleet
            .until("order before the freeze", settled(agent))
            .await?;
        let before = view.agent(agent).map(|row| row.incarnation);
        let victim = Victim {
            agent: agent.clone(),
            owned: owned(&view, agent),
            at: OffsetDateTime::now_utc(),
        };
        let thaw_at = Instant::now() + LEASE_TIME + LEASE_TIME / 2;
        self.fleet.agents.freeze(agent)?;
        self.story.tell(format_args!(
            "froze {} with SIGSTOP; the lease is {} s",
            with_share(agent, victim.owned.len()),
            LEASE_TIME.as_secs(),
        ));
        self.fleet
            .until("others to own its pipelines", |view| {
                taken_over(view, &victim)
            })
            .await?;
        // What it held beside its locks (a file's lock, say) is free only once it goes on.
        sleep_until(thaw_at).await;
        self.fleet.agents.thaw(agent)?;
        let gaps = self.gaps(&victim).await?;
        self.story.tell(format_args!(
            "others delivered {} after the freeze; thawed {agent}",
            Spread::of(&gaps),
        ));
        self.freezes.extend(gaps);
        let running = self.fleet.agents.running().into_keys().collect();
        let back = |view: &DatabaseView| {
            alive(view, &running)?;
            in_place(view)?;
            match view.agent(agent).map(|row| row.incarnation) {
                now if now != before => Ok(()),
                _ => Err(format!("{agent} has not come back")),
            }
        };
        self.fleet
            .until("it to come back as a new incarnation", back)
            .await?;
        self.story.tell(format_args!(
            "{agent} has noticed that it lost its locks, and started over"
        ));
        self.recovered(victim, Cause::Freeze, pulse).await
    }

    /// Publishes faster than the story does, in short transactions.
    async fn pulse(&self) -> anyhow::Result<Publisher> {
        let plan = PublishPlan {
            keys: PULSE_KEYS,
            writers: 2,
            ..PublishPlan::steady(OUTBOXES, PULSE)
        };
        let publisher = Publisher::start(&self.pool, plan).await?;
        publisher
            .wait_for_committed(PULSE as usize / 2, PATIENCE)
            .await?;
        Ok(publisher)
    }

    /// Waits until every pipeline of the victim delivers under a new epoch, and returns after how
    /// long each did. Pipelines whose deliveries cannot be seen are left out.
    async fn gaps(&self, victim: &Victim) -> anyhow::Result<Vec<Gap>> {
        let plans = self.fleet.surroundings.plans.iter();
        let visible: Vec<(&UnitName, i64)> = plans
            .filter(|plan| plan.can_be_read_back())
            .filter_map(|plan| Some((&plan.name, victim.owned.get(&plan.name)?.0)))
            .collect();
        let mut gaps = Vec::new();
        let all = self
            .lookout
            .wait(PATIENCE, |arrivals| {
                gaps = visible
                    .iter()
                    .filter_map(|(pipeline, epoch)| {
                        let first = arrivals.first_after(pipeline, *epoch)?;
                        let took = (first - victim.at).try_into().unwrap_or_default();
                        Some(Gap {
                            pipeline: (*pipeline).clone(),
                            took,
                        })
                    })
                    .collect();
                gaps.len() == visible.len()
            })
            .await?;
        if !all {
            let agent = &victim.agent;
            let (came, wanted) = (gaps.len(), visible.len());
            bail!("of {wanted} pipelines of {agent} only {came} were delivered by others");
        }
        Ok(gaps)
    }

    /// Waits until the new owners have caught up: from then on nothing that comes twice does so
    /// because of what happened.
    async fn recovered(
        &mut self,
        victim: Victim,
        cause: Cause,
        pulse: Publisher,
    ) -> anyhow::Result<()> {
        let mut connection = self.pool.acquire().await?;
        let outboxes = outbox_status(&mut connection, None).await?;
        drop(connection);
        let heads: BTreeMap<&str, i64> = outboxes
            .iter()
            .map(|row| (row.outbox.as_str(), row.last_id))
            .collect();
        self.fleet
            .until("the new owners to catch up", |view| {
                taken_over(view, &victim)?;
                let behind = view.pipelines.iter().find(|row| {
                    let head = heads.get(row.outbox.as_str()).copied().unwrap_or(0);
                    victim.owned.contains_key(&row.name) && row.last_change_id < head
                });
                behind.map_or(Ok(()), |row| Err(format!("{} lags behind", row.name)))
            })
            .await?;
        self.extra.extend(pulse.stop(PATIENCE).await?.entries);
        // What is on its way to us, from a topic say, still belongs to it.
        self.a_while().await?;
        let reach = Reach::only(victim.owned.keys().map(UnitName::as_str));
        self.excuse(|now| Disturbance::new(cause, reach, victim.at, now));
        Ok(())
    }
}

/// Everything is in place, and the agent has something to lose.
fn settled(agent: &AgentName) -> impl Fn(&DatabaseView) -> Result<DatabaseView, String> {
    move |view| {
        in_place(view)?;
        if owned(view, agent).is_empty() {
            return Err(format!("{agent} owns nothing"));
        }
        Ok(view.clone())
    }
}

/// Whether all pipelines of the victim have been claimed by others.
fn taken_over(view: &DatabaseView, victim: &Victim) -> Result<(), String> {
    let waiting = view.pipelines.iter().find(|row| {
        let before = victim.owned.get(&row.name);
        before.is_some() && (row.owner.is_none() || row.epoch.as_ref() <= before)
    });
    waiting.map_or(Ok(()), |row| {
        Err(format!("{} is with {:?}", row.name, row.owner))
    })
}
