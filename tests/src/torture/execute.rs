//! Carries a plan out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tide_catalog::pipelines::{pipeline_delete, pipeline_disable, pipeline_enable};
use tide_sandbox::{
    history::{Cause, Disturbance},
    publisher::PublishPlan,
};
use time::OffsetDateTime;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    generate::QUIET,
    plan::{Operation, PipelinePlan, Plan},
    positions,
    processes::ControlPlane,
    sinks::Sinks,
};
use crate::{Fleet, FleetOptions, Network};

/// The lease of the agents: the generator's faults last shorter or longer than that.
const LEASE: Duration = Duration::from_secs(2);
/// One operation may take this long, the wait for a terminated agent included.
const PATIENCE: Duration = Duration::from_mins(1);
/// As many messages a second come from a few writers in every shape.
const FEW: u32 = 200;

/// Tells what happens, as it happens.
#[derive(Debug)]
pub struct Narrator {
    began: Instant,
    told: Mutex<String>,
}

/// A run under way.
pub(super) struct Run<'a> {
    pub(super) narrator: &'a Narrator,
    // Before what the agents talk to.
    pub(super) fleet: Fleet,
    pub(super) control_plane: ControlPlane,
    pub(super) sinks: Sinks,
    pub(super) pipelines: BTreeMap<String, Known>,
    pub(super) harm: Harm,
    /// Commands that run beside.
    pub(super) beside: JoinSet<String>,
}

/// A pipeline that was added.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) plan: PipelinePlan,
    /// The largest batch that it was ever allowed.
    pub(super) largest_batch: usize,
    /// Whether it ever had several owners at a time.
    pub(super) sharded: bool,
    pub(super) deleted: bool,
}

/// What was done, and what is still broken.
#[derive(Debug, Default)]
pub(super) struct Harm {
    pub(super) done: Vec<Disturbance>,
    /// Since when something is broken: an agent frozen or cut off, the brokers gone.
    pub(super) open: BTreeMap<(Cause, String), OffsetDateTime>,
    /// Agents that are down on purpose.
    pub(super) down: BTreeSet<String>,
    /// Agents that ended, or could not be started, for no reason of ours.
    pub(super) deserters: Vec<String>,
}

impl Narrator {
    /// Begins to count time.
    #[expect(clippy::new_without_default, reason = "it looks at the clock")]
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            told: Mutex::default(),
        }
    }

    /// Says something on standard output, with the time.
    pub fn say(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        let line = format!("{seconds:8.3}  {text}\n");
        // Nobody who listens is no reason to stop.
        drop(std::io::stdout().lock().write_all(line.as_bytes()));
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_str(&line);
    }

    /// Everything that was said.
    pub(super) fn told(&self) -> String {
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl<'a> Run<'a> {
    /// Starts everything, and waits until it runs.
    pub(super) async fn start(plan: &Plan, narrator: &'a Narrator) -> Result<Self> {
        narrator.say(&format!(
            "seed {}: {} s, {} agents, {} operations",
            plan.seed,
            plan.seconds,
            plan.agents,
            plan.steps.len()
        ));
        let fleet = Fleet::start(FleetOptions {
            agents: 0,
            lease: LEASE,
            network: Network::Proxied,
            ..FleetOptions::default()
        })
        .await?;
        positions::watch(fleet.pool()).await?;
        let control_plane = ControlPlane::start(&fleet)?;
        let mut run = Self {
            narrator,
            control_plane,
            sinks: Sinks::start(plan, &fleet.scratch).await?,
            pipelines: BTreeMap::new(),
            harm: Harm::default(),
            beside: JoinSet::new(),
            fleet,
        };
        for number in 1..=plan.agents {
            run.launch(&format!("relay-{number}")).await?;
        }
        for pipeline in &plan.pipelines {
            run.add(pipeline).await?;
        }
        run.fleet.wait_until_running().await?;
        let outboxes: BTreeSet<&str> = plan
            .pipelines
            .iter()
            .map(|pipeline| pipeline.outbox.as_str())
            .filter(|outbox| *outbox != QUIET)
            .collect();
        let rate = f64::from(plan.rate);
        let usual = if plan.rate <= FEW {
            PublishPlan::mixed(outboxes)
        } else {
            PublishPlan::brisk(outboxes)
        };
        let load = PublishPlan {
            seed: plan.seed,
            rate: Some(rate),
            ..usual
        };
        run.fleet.publish_as(|_| load).await?;
        narrator.say("everything runs");
        Ok(run)
    }

    /// Does every step at its time, or as soon after as the one before allows.
    pub(super) async fn carry_out(&mut self, plan: &Plan) -> Result<()> {
        let began = Instant::now();
        for step in &plan.steps {
            sleep_until(began + Duration::from_millis(step.at)).await;
            self.listen();
            let doing = step.operation.to_string();
            let done = timeout(PATIENCE, self.perform(&step.operation))
                .await
                .with_context(|| format!("{doing} took longer than {PATIENCE:?}"))?
                .with_context(|| doing.clone())?;
            let note = if done.is_empty() {
                done
            } else {
                format!(": {done}")
            };
            self.narrator.say(&format!("{doing}{note}"));
        }
        sleep_until(began + Duration::from_secs(plan.seconds)).await;
        Ok(())
    }

    /// Does one thing; the text says what came of it, if that is worth telling.
    async fn perform(&mut self, operation: &Operation) -> Result<String> {
        match operation {
            Operation::Crash { agent } => return self.crash(agent).await,
            Operation::Start { agent } => return self.start_again(agent).await,
            Operation::Freeze { agent } => return self.freeze(agent),
            Operation::Thaw { agent } => return self.thaw(agent),
            Operation::EndLockSession { agent } => return self.end_lock_session(agent).await,
            Operation::Terminate { agent } => return self.terminate(agent),
            Operation::KillControlPlane => return self.control_plane.kill().await,
            Operation::Drain { agent } => return Ok(told(self.fleet.drain(agent).await)),
            Operation::Undrain { agent } => return Ok(told(self.fleet.undrain(agent).await)),
            Operation::Move { pipeline, agent } => {
                return Ok(told(self.fleet.move_to(&[(pipeline, agent)]).await));
            }
            Operation::Rebalance => self.rebalance(),
            Operation::Cut { agent } => self.cut(agent),
            Operation::Heal { agent } => self.heal(agent),
            Operation::Distance { agent, millis } => {
                let delay = Duration::from_millis(*millis);
                self.fleet.network(agent).delay(delay);
            }
            Operation::RestartPostgres { how } => self.restart_postgres(*how).await?,
            Operation::StallPostgres { millis } => self.stall_postgres(*millis).await?,
            Operation::StartControlPlane => self.control_plane.start_again()?,
            Operation::Add { pipeline } => self.add(pipeline).await?,
            Operation::Change {
                pipeline,
                batch_size,
            } => self.change(pipeline, *batch_size).await?,
            Operation::Reshard { pipeline, shards } => self.reshard(pipeline, *shards).await?,
            Operation::Disable { pipeline } => {
                pipeline_disable(&mut *self.fleet.connection().await?, pipeline).await?;
            }
            Operation::Enable { pipeline } => {
                pipeline_enable(&mut *self.fleet.connection().await?, pipeline).await?;
            }
            Operation::Delete { pipeline } => {
                pipeline_delete(&mut *self.fleet.connection().await?, pipeline).await?;
                self.known(pipeline).deleted = true;
            }
            Operation::AnswerLate { pipeline, millis } => self.sinks.answer_late(pipeline, *millis),
            Operation::Refuse { pipeline, times } => self.sinks.refuse(pipeline, *times),
            Operation::Sever { pipeline, times } => self.sinks.sever(pipeline, *times),
            Operation::Hang { pipeline } => self.sinks.hang(pipeline),
            Operation::Release => self.sinks.release(),
            Operation::BrokersDown => self.brokers_down()?,
            Operation::BrokersUp => self.brokers_up()?,
            Operation::KillStreams => self.streams_down().await?,
            Operation::StartStreams => self.streams_up().await?,
            Operation::Overtake { outbox, times } => self.overtake(outbox, *times).await?,
            Operation::LateBulk {
                outbox,
                messages,
                millis,
            } => self.late_bulk(outbox, *messages, *millis).await?,
        }
        Ok(String::new())
    }

    /// Tells what came of the commands that run beside.
    pub(super) fn listen(&mut self) {
        while let Some(told) = self.beside.try_join_next() {
            self.narrator
                .say(&told.unwrap_or_else(|error| error.to_string()));
        }
    }

    /// A pipeline that was added.
    pub(super) fn known(&mut self, pipeline: &str) -> &mut Known {
        self.pipelines
            .get_mut(pipeline)
            .unwrap_or_else(|| panic!("the plan never added {pipeline}"))
    }
}

/// What an operator would be told. A refusal is an answer like any other.
fn told<T: std::fmt::Debug>(answer: Result<T>) -> String {
    match answer {
        Ok(_) => String::new(),
        Err(error) => format!("{error:#}"),
    }
}
