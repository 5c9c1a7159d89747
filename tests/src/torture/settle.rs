//! The end of a run: everything is healed, everything is delivered, nothing can come after.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tide_catalog::pipelines::pipeline_enable;
use tide_sandbox::{
    history::{self, Cause, Disturbance, PositionChange, Stream},
    publisher::Entry,
};
use tokio::time::{Instant, sleep};

use super::{execute::Run, harm::STREAMS, positions};

/// How long nothing may change while something is missing, once all is well.
const PATIENCE: Duration = Duration::from_secs(45);
/// How often it is told what is still missing.
const TELL: Duration = Duration::from_secs(5);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What the verdict is made of.
#[derive(Debug)]
pub struct Record {
    /// What was committed.
    pub published: Vec<Entry>,
    /// Messages rolled back on purpose.
    pub rolled_back: usize,
    /// Transactions that were given up because the server went away.
    pub interrupted: usize,
    /// What arrived.
    pub streams: Vec<Stream>,
    /// What was done.
    pub disturbances: Vec<Disturbance>,
    /// What the positions did.
    pub positions: Vec<PositionChange>,
    /// Agents that ended for no reason of ours, or not in good order.
    pub deserters: Vec<String>,
    /// What was still missing when patience ended.
    pub stuck: Option<String>,
}

impl Run<'_> {
    /// Heals, waits, stops everything, and reads what there is to judge.
    pub(super) async fn settle(&mut self) -> Result<Record> {
        self.heal_everything().await?;
        let ledger = self.fleet.stop_publishing().await?;
        let ledger = ledger.context("nobody published")?;
        let mut published = self.fleet.drafts.entries().to_vec();
        published.extend(ledger.entries);
        self.narrator
            .say(&format!("all is well; {} published", published.len()));
        let stuck = self.wait_until_delivered(&published).await?;
        while let Some(told) = self.beside.join_next().await {
            self.narrator.say(&told?);
        }
        self.narrator.say("everything is delivered");
        // Who cannot end in good order now may have something to hide.
        if let Err(error) = self.fleet.stop_agents().await {
            self.harm.deserters.push(format!("{error:#}"));
        }
        self.narrator.say("agents stopped");
        let mut disturbances = self.harm.done.clone();
        disturbances.extend(self.sinks.severed());
        Ok(Record {
            published,
            rolled_back: ledger.rolled_back,
            interrupted: ledger.interrupted,
            streams: self.streams()?,
            disturbances,
            positions: positions::read(self.fleet.pool()).await?,
            deserters: std::mem::take(&mut self.harm.deserters),
            stuck,
        })
    }

    async fn heal_everything(&mut self) -> Result<()> {
        for (cause, whom) in self.harm.open.keys().cloned().collect::<Vec<_>>() {
            match cause {
                Cause::Freeze => drop(self.thaw(&whom)?),
                Cause::Partition => self.heal(&whom),
                Cause::Retry if whom == STREAMS => self.streams_up().await?,
                // The others are over as soon as they are done.
                Cause::Retry | Cause::Crash | Cause::ServerRestart | Cause::LostSession => {
                    self.brokers_up()?;
                }
            }
        }
        self.control_plane.start_again()?;
        for agent in self.fleet.agent_names() {
            self.fleet.network(&agent).delay(Duration::ZERO);
            if !self.fleet.agent(&agent).process.is_running()? && !self.harm.down.contains(&agent) {
                self.desert(&agent);
            }
            if self.harm.down.contains(&agent) {
                self.start_again(&agent).await?;
            }
            // Refused unless it is drained.
            drop(self.fleet.undrain(&agent).await);
        }
        let mut connection = self.fleet.connection().await?;
        for (name, known) in &self.pipelines {
            self.sinks.hurry(name);
            if !known.deleted {
                pipeline_enable(&mut connection, name).await?;
            }
        }
        self.sinks.release();
        Ok(())
    }

    /// Returns what is missing when patience ends.
    async fn wait_until_delivered(&self, published: &[Entry]) -> Result<Option<String>> {
        let mut last = (None, Instant::now());
        let mut tell = Instant::now() + TELL;
        loop {
            // Whatever hangs was scripted before all was well.
            self.sinks.release();
            let missing = match self.behind().await? {
                Some(behind) => Some(behind),
                None => self.lost(published)?,
            };
            let now = Instant::now();
            if missing != last.0 {
                last = (missing.clone(), now);
            }
            if missing.is_none() || now - last.1 > PATIENCE {
                return Ok(missing);
            }
            if let Some(missing) = missing.filter(|_| now > tell) {
                self.narrator.say(&format!("waiting: {missing}"));
                tell = now + TELL;
            }
            sleep(LOOK).await;
        }
    }

    /// A pipeline that has not read everything.
    async fn behind(&self) -> Result<Option<String>> {
        let rows = self.fleet.view().await?.pipelines.into_iter();
        let mut behind = rows.filter(|row| row.lag_rows > 0);
        Ok(behind.next().map(|row| {
            let (owner, state) = (row.owner.map(|owner| owner.to_string()), row.state);
            let reason = row.state_reason.unwrap_or_default();
            let behind = format!("{} is {} behind", row.name, row.lag_rows);
            format!("{behind}: owner {owner:?}, {state:?} {reason}")
        }))
    }

    /// A pipeline that has not delivered everything.
    fn lost(&self, published: &[Entry]) -> Result<Option<String>> {
        let accounts = history::check(published, &self.streams()?, &[]);
        let mut short = accounts.pipelines.iter().filter(|one| one.tally.lost > 0);
        Ok(short
            .next()
            .map(|one| format!("{} lacks {}", one.pipeline, one.tally.lost)))
    }
}
