//! Watches what arrives at the sinks while it arrives: how much, how far, and since when under
//! which epoch. Only what is new is looked at, so that watching costs little.
//!
//! The judge reads the sinks again from the beginning: see [`streams`](Lookout::streams). All that
//! it takes from here is the time at which each line of a file was seen, which files do not keep.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tide_model::UnitName;
use tide_sandbox::{
    envelope::Delivery,
    files::FileReader,
    history::Stream,
    http::{Outcome, Receiver},
    kafka::TopicReader,
};
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{arrivals::Arrivals, tail::Tail};
use crate::commands::dev::{
    pipelines::{Plan, Route, topics},
    surroundings::Surroundings,
};

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(4);

/// Watches the sinks until it is dropped.
#[derive(Debug)]
pub(super) struct Lookout {
    plans: Vec<Plan>,
    receiver: Arc<Receiver>,
    topics: Arc<TopicReader>,
    arrivals: watch::Sender<Arrivals>,
    _task: JoinSet<()>,
}

impl Lookout {
    /// Starts to watch. Call it before the first message is published.
    pub(super) async fn start(surroundings: &Surroundings) -> anyhow::Result<Self> {
        let plans = surroundings.plans.clone();
        let topics = topics(&plans);
        let names: Vec<&str> = topics.iter().map(|topic| &*topic.name).collect();
        let reader = TopicReader::start(surroundings.kafka.bootstrap(), &names).await?;
        let (receiver, reader) = (Arc::clone(&surroundings.receiver), Arc::new(reader));
        let arrivals = watch::Sender::new(Arrivals::default());
        let patrol = Patrol {
            by_place: by_place(&plans),
            receiver: Arc::clone(&receiver),
            requests: 0,
            topics: Arc::clone(&reader),
            records: 0,
            tails: tails(&plans),
            arrivals: arrivals.clone(),
        };
        let mut task = JoinSet::new();
        task.spawn(patrol.run());
        Ok(Self {
            plans,
            receiver,
            topics: reader,
            arrivals,
            _task: task,
        })
    }

    /// Everything that has arrived so far.
    pub(super) fn total(&self) -> usize {
        self.arrivals.borrow().total()
    }

    /// Waits until what has arrived is as `enough` wants it, for at most `within`; says whether
    /// it came to that.
    pub(super) async fn wait(
        &self,
        within: Duration,
        mut enough: impl FnMut(&Arrivals) -> bool,
    ) -> anyhow::Result<bool> {
        let mut watched = self.arrivals.subscribe();
        let reached = |arrivals: &Arrivals| arrivals.failure.is_some() || enough(arrivals);
        let waited = timeout(within, watched.wait_for(reached)).await.is_ok();
        match &self.arrivals.borrow().failure {
            None => Ok(waited),
            Some(failure) => Err(anyhow::Error::msg(failure.clone())),
        }
    }

    /// How many messages each pipeline still lacks, by how many its outbox has.
    pub(super) fn missing(&self, published: &HashMap<String, usize>) -> Vec<(UnitName, usize)> {
        self.arrivals.borrow().missing(&self.plans, published)
    }

    /// Waits until no pipeline lacks anything, or nothing has arrived for `patience`.
    pub(super) async fn wait_for_all(
        &self,
        published: &HashMap<String, usize>,
        patience: Duration,
        mut meanwhile: impl FnMut(usize),
    ) -> anyhow::Result<()> {
        loop {
            let before = self.total();
            let mut lacking = 0;
            let done = self
                .wait(patience, |arrivals| {
                    let missing = arrivals.missing(&self.plans, published);
                    lacking = missing.iter().map(|(_, count)| count).sum();
                    meanwhile(lacking);
                    lacking == 0
                })
                .await?;
            if done || self.total() == before {
                return Ok(());
            }
        }
    }

    /// Everything that arrived, read again from the sinks themselves.
    pub(super) fn streams(&self) -> anyhow::Result<Vec<Stream>> {
        let readable = self.plans.iter().filter(|plan| plan.can_be_read_back());
        readable
            .map(|plan| {
                let deliveries = self.deliveries(plan)?;
                Ok(Stream::new(plan.name.as_str(), plan.outbox, deliveries))
            })
            .collect()
    }

    fn deliveries(&self, plan: &Plan) -> anyhow::Result<Vec<Delivery>> {
        Ok(match &plan.route {
            Route::Kafka { topic } => self.topics.records_of(topic)?,
            Route::Webhook { path, .. } => self.receiver.deliveries(path),
            Route::File { path } => {
                let mut records = FileReader::new(path).records()?;
                let arrivals = self.arrivals.borrow();
                let stamps = arrivals.stamps(&plan.name);
                for (record, stamp) in records.iter_mut().zip(stamps) {
                    record.at = Some(*stamp);
                }
                records
            }
            Route::Null => Vec::new(),
        })
    }
}

/// The task that looks.
struct Patrol {
    /// Pipelines by topic and path.
    by_place: HashMap<String, UnitName>,
    receiver: Arc<Receiver>,
    requests: usize,
    topics: Arc<TopicReader>,
    records: usize,
    tails: Vec<(UnitName, Tail)>,
    arrivals: watch::Sender<Arrivals>,
}

impl Patrol {
    async fn run(mut self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let arrivals = self.arrivals.clone();
            let mut failed = false;
            arrivals.send_if_modified(|arrivals| {
                let looked = self.look(arrivals);
                if let Err(error) = &looked {
                    arrivals.failure = Some(format!("{error:#}"));
                    failed = true;
                }
                !matches!(looked, Ok(0))
            });
            if failed {
                return;
            }
        }
    }

    /// Looks at what is new and returns how much that was.
    fn look(&mut self, arrivals: &mut Arrivals) -> anyhow::Result<usize> {
        let before = self.requests + self.records;
        self.requests = self.receiver.inspect(|requests| {
            let new = requests.iter().skip(self.requests);
            // What was not answered yet is looked at again.
            let settled = new.take_while(|request| request.outcome != Outcome::Pending);
            settled.fold(self.requests, |count, request| {
                let envelopes = request.envelopes.as_deref().unwrap_or_default();
                let pipeline = self.by_place.get(&request.path);
                if let Some(pipeline) = pipeline.filter(|_| request.is_accepted()) {
                    for envelope in envelopes {
                        arrivals.note(pipeline, envelope, request.at);
                    }
                }
                count + 1
            })
        });
        self.records = self.topics.inspect(|records| {
            for record in &records[self.records..] {
                if let (Some(pipeline), Some(at)) = (self.by_place.get(&record.stream), record.at) {
                    arrivals.note(pipeline, &record.envelope, at);
                }
            }
            records.len()
        })?;
        let mut lines = 0;
        for (pipeline, tail) in &mut self.tails {
            for envelope in tail.read()? {
                arrivals.note(pipeline, &envelope, OffsetDateTime::now_utc());
                lines += 1;
            }
        }
        Ok(self.requests + self.records - before + lines)
    }
}

fn by_place(plans: &[Plan]) -> HashMap<String, UnitName> {
    let place = |plan: &Plan| match &plan.route {
        Route::Kafka { topic } => Some(topic.clone()),
        Route::Webhook { path, .. } => Some(path.clone()),
        Route::File { .. } | Route::Null => None,
    };
    plans
        .iter()
        .filter_map(|plan| Some((place(plan)?, plan.name.clone())))
        .collect()
}

fn tails(plans: &[Plan]) -> Vec<(UnitName, Tail)> {
    let tail = |plan: &Plan| match &plan.route {
        Route::File { path } => Some((plan.name.clone(), Tail::new(path))),
        Route::Kafka { .. } | Route::Webhook { .. } | Route::Null => None,
    };
    plans.iter().filter_map(tail).collect()
}
