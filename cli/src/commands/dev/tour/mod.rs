//! The tour: everything that may happen to a fleet, while messages flow, and then the accounts.
//!
//! Each step waits for what it caused, never for time to pass; between two steps messages flow
//! until a number of them has been delivered. What was done to an agent on purpose and without
//! warning is noted as a [`Disturbance`], the only excuse for a message that comes twice. Drains,
//! restarts and a control plane that dies are no excuse.

mod arrivals;
mod faults;
mod lookout;
mod planned;
mod tail;

use std::{collections::HashMap, time::Duration};

use anyhow::bail;
use tide_catalog::PgPool;
use tide_model::{AgentName, UnitName};
use tide_sandbox::{
    history::{self, Disturbance},
    publisher::{Entry, PublishPlan, Publisher},
};
use time::OffsetDateTime;

use self::lookout::Lookout;
use super::{
    PATIENCE,
    accounts::{Gap, TourReport},
    agents,
    fleet::Fleet,
    pipelines::OUTBOXES,
    story::Story,
};
use crate::output::humanize::{counted, number};

/// Between two steps, each message published in so many seconds is delivered to its pipelines.
const A_WHILE_SECONDS: usize = 6;
/// No delivery at all for this long means that the rest will not come.
const SILENCE: Duration = Duration::from_secs(20);

/// The fleet and what was done to it so far.
struct Tour<'a> {
    fleet: &'a mut Fleet,
    story: &'a mut Story,
    lookout: Lookout,
    pool: PgPool,
    rate: u32,
    /// What was published beside the steady publisher.
    extra: Vec<Entry>,
    disturbances: Vec<Disturbance>,
    crashes: Vec<Gap>,
    freezes: Vec<Gap>,
}

/// Plays the tour. Afterwards the agents are stopped, and everything around them still runs.
pub(super) async fn play(
    fleet: &mut Fleet,
    story: &mut Story,
    plan: PublishPlan,
    rate: u32,
) -> anyhow::Result<TourReport> {
    let seed = plan.seed;
    let pool = PgPool::connect(&fleet.surroundings.postgres_url).await?;
    let lookout = Lookout::start(&fleet.surroundings).await?;
    let publisher = Publisher::start(&pool, plan).await?;
    let mut tour = Tour {
        fleet,
        story,
        lookout,
        pool,
        rate,
        extra: Vec::new(),
        disturbances: Vec::new(),
        crashes: Vec::new(),
        freezes: Vec::new(),
    };
    let outboxes = OUTBOXES.join(", ");
    tour.story.tell(format_args!(
        "publishing {rate} messages a second to {outboxes} (seed {seed})"
    ));
    tour.steps().await?;
    let ledger = publisher.stop(PATIENCE).await?;
    tour.settle(ledger.entries, seed).await
}

impl Tour<'_> {
    async fn steps(&mut self) -> anyhow::Result<()> {
        let [first, second, third] = [1, 2, 3].map(agents::name);
        self.a_while().await?;
        self.drain(&second).await?;
        self.a_while().await?;
        self.crash(&first).await?;
        self.start_again(&first).await?;
        self.a_while().await?;
        self.freeze(&third).await?;
        self.a_while().await?;
        self.control_plane_dies().await?;
        self.undrain(&second).await?;
        self.a_while().await?;
        self.restart(&first).await?;
        self.a_while().await
    }

    /// Lets messages flow until a number of them has been delivered.
    async fn a_while(&mut self) -> anyhow::Result<()> {
        let readable = self
            .fleet
            .surroundings
            .plans
            .iter()
            .filter(|plan| plan.can_be_read_back());
        // Messages spread evenly over the outboxes, and each is delivered by all its pipelines.
        let per_message = readable.count() / OUTBOXES.len();
        let count = A_WHILE_SECONDS * per_message * self.rate as usize;
        let total = self.lookout.total() + count;
        self.story
            .meanwhile(format_args!("until {} are delivered", number(total as u64)));
        let within = PATIENCE * 2;
        if !self
            .lookout
            .wait(within, |arrivals| arrivals.total() >= total)
            .await?
        {
            let now = self.lookout.total();
            bail!("waited {within:?} for {total} deliveries; there are {now}");
        }
        Ok(())
    }

    /// Notes what was done, as an excuse for what arrived until now.
    fn excuse(&mut self, disturbance: impl FnOnce(OffsetDateTime) -> Disturbance) {
        self.disturbances
            .push(disturbance(OffsetDateTime::now_utc()));
    }

    /// Waits until everything has arrived, stops the agents, and judges.
    async fn settle(mut self, ledger: Vec<Entry>, seed: u64) -> anyhow::Result<TourReport> {
        let mut published = ledger;
        published.append(&mut self.extra);
        let total = number(published.len() as u64);
        self.story.tell(format_args!(
            "published {total} messages; waiting for the last deliveries"
        ));
        let per_outbox = published.iter().fold(HashMap::new(), |mut counts, entry| {
            *counts.entry(entry.outbox.clone()).or_insert(0_usize) += 1;
            counts
        });
        let story = &*self.story;
        let meanwhile = |lacking| {
            story.meanwhile(format_args!("{} to go", counted(lacking, "delivery")));
        };
        self.lookout
            .wait_for_all(&per_outbox, SILENCE, meanwhile)
            .await?;
        self.tell_what_is_missing(&per_outbox);
        self.unread_pipelines_at_end().await?;
        self.fleet.agents.stop().await?;
        self.story
            .tell("the agents have stopped in good order; settling the accounts");
        let streams = self.lookout.streams()?;
        self.pool.close().await;
        let accounts = history::check(&published, &streams, &self.disturbances);
        let unread = self
            .fleet
            .surroundings
            .plans
            .iter()
            .filter(|plan| !plan.can_be_read_back());
        Ok(TourReport {
            seed,
            published: published.len(),
            accounts,
            unread: unread.map(|plan| plan.name.clone()).collect(),
            crashes: self.crashes,
            freezes: self.freezes,
            lease: agents::LEASE_TIME,
            elapsed: self.story.elapsed(),
            lines: self.story.lines().to_vec(),
        })
    }

    fn tell_what_is_missing(&mut self, published: &HashMap<String, usize>) {
        for (pipeline, count) in self.lookout.missing(published) {
            self.story.tell(format_args!(
                "{pipeline} has not delivered {count}, and delivers no more"
            ));
        }
    }

    /// A sink that keeps nothing is judged by its position.
    async fn unread_pipelines_at_end(&mut self) -> anyhow::Result<()> {
        let plans = &self.fleet.surroundings.plans;
        let unread = plans.iter().filter(|plan| !plan.can_be_read_back());
        let unread: Vec<UnitName> = unread.map(|plan| plan.name.clone()).collect();
        self.fleet
            .until("every position to reach the end", |view| {
                let behind = view
                    .pipelines
                    .iter()
                    .find(|row| unread.contains(&row.name) && row.lag_rows > 0);
                behind.map_or(Ok(()), |row| {
                    Err(format!("{} lacks {}", row.name, row.lag_rows))
                })
            })
            .await
    }
}

/// `relay-1 (4 pipelines)`.
fn with_share(agent: &AgentName, pipelines: usize) -> String {
    format!("{agent} ({})", counted(pipelines, "pipeline"))
}
