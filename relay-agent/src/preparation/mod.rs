//! Makes sinks ready before their pipelines are ours, so that a hand-over does not wait for it.
//!
//! ```text
//! owner                                  successor
//!   │ ── prepare: these, for you ──────────▶ │ connects, asks brokers for a producer id, …
//!   │    (goes on delivering)                │ keeps the sink on the shelf, and goes through
//!   │                                        │ the statements that it will need
//!   │ ◀───────────────────────── ready ───── │
//!   │ finishes its batch, unlocks ─────────▶ │ claims; the worker takes the sink from the shelf
//! ```
//!
//! A standby does the same unasked for the pipelines whose first backup it is, where preparing
//! takes long: nobody announces a crash. A prepared sink has no grant and no context, so there is
//! nothing that it could publish, and nothing that would permit it to.
//!
//! **When this fails** nothing is lost but time: the owner waits for a while only, and a worker
//! that finds nothing on the shelf opens its sink itself and says what is wrong. A sink that we do
//! not even reach is another matter: see [`crate::reach`].

mod rehearsal;
mod shelf;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use metrics::gauge;
use tide_catalog::{
    CatalogError, PgPool,
    listener::{Handshake, announce_prepare, announce_ready},
    messages::Source,
};
use tide_model::{SinkSpec, UnitName};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

pub(crate) use self::shelf::Shelf;
use self::shelf::{MOST_STANDBYS, Prepared, Reason};
use crate::{metrics as names, reach::Reach, sink::Open};

/// What is asked of the preparer.
#[derive(Debug)]
pub(crate) enum Request {
    /// An owner is about to hand over these, of which we know some.
    Offered(Handshake, BTreeMap<UnitName, Known>),
    /// Be ready for these from now on, and for no others.
    Standby(Standby),
}

/// What a pipeline that is about to come needs.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) source: Source,
    pub(crate) prospect: Prospect,
}

/// A sink to be made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prospect {
    pub(crate) sink: SinkSpec,
    /// The configuration that says so.
    pub(crate) revision: i64,
}

/// Pipelines that may come without having been announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standby {
    /// Those of others whose first backup we are.
    pub(crate) first: BTreeMap<UnitName, Prospect>,
    /// Those that are assigned to us and are not ours yet. What is ready for them is kept; it is
    /// too late to begin.
    pub(crate) coming: BTreeSet<UnitName>,
}

/// One sink must be ready within this, which is less than an owner waits.
const PATIENCE: Duration = Duration::from_millis(1_700);
/// So many are made ready at a time.
const AT_A_TIME: usize = 8;
/// How often to look for what is not needed any more, and for what is missing.
const TIDY: Duration = Duration::from_secs(10);

/// The task that fills the shelf.
pub(crate) struct Preparer {
    pub(crate) pool: PgPool,
    pub(crate) shelf: Shelf,
    pub(crate) reach: Reach,
    pub(crate) requests: mpsc::Receiver<Request>,
}

/// Makes sinks ready and puts them on the shelf. Cheap to clone.
#[derive(Clone)]
struct Workbench {
    shelf: Shelf,
    reach: Reach,
    permits: Arc<Semaphore>,
}

impl Preparer {
    /// Runs until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let bench = Workbench {
            shelf: self.shelf.clone(),
            reach: self.reach.clone(),
            permits: Arc::new(Semaphore::new(AT_A_TIME)),
        };
        let mut standby = Standby::default();
        let mut tasks = JoinSet::new();
        let mut tidy = interval(TIDY);
        tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let request = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(_) = tasks.join_next() => continue,
                request = self.requests.recv() => match request {
                    Some(request) => Some(request),
                    None => return,
                },
                _ = tidy.tick() => None,
            };
            match request {
                Some(Request::Offered(handshake, known)) => {
                    tasks.spawn(bench.clone().offered(self.pool.clone(), handshake, known));
                }
                Some(Request::Standby(wanted)) if wanted == standby => {}
                Some(Request::Standby(wanted)) => {
                    standby = wanted;
                    tasks.spawn(bench.clone().stand_by(standby.clone()));
                }
                None => {
                    let (bench, standby) = (bench.clone(), standby.clone());
                    tasks.spawn(async move {
                        bench.reach.look_again().await;
                        bench.stand_by(standby).await;
                    });
                }
            }
        }
    }
}

impl Workbench {
    /// Makes ready what an owner announced, and says so. What could not be made ready will not be
    /// any readier if the owner waits, unless we do not reach its sink: then everybody is told that,
    /// and the owner hears nothing of it from us, so that it keeps the pipeline or finds another.
    async fn offered(self, pool: PgPool, handshake: Handshake, known: BTreeMap<UnitName, Known>) {
        let sources = known.values().map(|known| known.source.clone()).collect();
        let prospects: BTreeMap<UnitName, Prospect> = known
            .into_iter()
            .map(|(name, known)| (name, known.prospect))
            .collect();
        let is_marked = |(name, prospect): &(&UnitName, &Prospect)| {
            self.reach.is_marked(name, prospect.revision)
        };
        // What is given to us although everybody knows that comes all the same.
        let insisted: BTreeSet<&UnitName> = prospects
            .iter()
            .filter(is_marked)
            .map(|(name, _)| name)
            .collect();
        let rehearsal = rehearsal::rehearse(&pool, &handshake.group, sources);
        let making = async {
            let new = prospects
                .iter()
                .filter(|(name, _)| !insisted.contains(name));
            let looks = new.map(|(name, prospect)| (name, &prospect.sink, prospect.revision));
            let unreached = self.reach.look_for(looks).await;
            let mut wanted = prospects.clone();
            wanted.retain(|name, _| !unreached.contains(name));
            self.make_all(wanted, Reason::Offered).await;
        };
        let ready = async { tokio::join!(making, rehearsal) };
        if timeout(PATIENCE, ready).await.is_err() {
            debug!("not everything that is to come could be made ready in time");
        }
        let unreached = |name: &UnitName| {
            let prospect = prospects.get_key_value(name);
            prospect.is_some_and(|found| !insisted.contains(name) && is_marked(&found))
        };
        let (unreached, pipelines): (Vec<UnitName>, Vec<UnitName>) =
            handshake.pipelines.iter().cloned().partition(unreached);
        if !unreached.is_empty()
            && let Err(error) = self.reach.say().await
        {
            debug!(
                error = &error as &dyn std::error::Error,
                "could not say that sinks are out of reach; the owner does not wait for long"
            );
        }
        if pipelines.is_empty() {
            return;
        }
        let answer = Handshake {
            from: handshake.to,
            to: handshake.from,
            group: handshake.group,
            pipelines,
        };
        if let Err(error) = said(&pool, &answer, Saying::Ready).await {
            debug!(
                error = &error as &dyn std::error::Error,
                "could not say that we are ready; the owner does not wait for long"
            );
        }
    }

    /// Is ready for `wanted` and for nothing else.
    async fn stand_by(self, wanted: Standby) {
        discard(self.shelf.outdated(&wanted, Instant::now()));
        let wanted = wanted.first.into_iter().take(MOST_STANDBYS).collect();
        self.make_all(wanted, Reason::Standby).await;
    }

    async fn make_all(&self, wanted: BTreeMap<UnitName, Prospect>, reason: Reason) {
        let mut making = JoinSet::new();
        for (pipeline, prospect) in wanted {
            if !self
                .shelf
                .has(&pipeline, &prospect.sink, reason, Instant::now())
            {
                making.spawn(self.clone().make(pipeline, prospect, reason));
            }
        }
        making.join_all().await;
        gauge!(names::PREPARED_SINKS).set(self.shelf.len() as f64);
    }

    async fn make(self, pipeline: UnitName, prospect: Prospect, reason: Reason) {
        let Prospect {
            sink: spec,
            revision,
        } = prospect;
        let made = timeout(PATIENCE, async {
            // Never closed: the bench is alive.
            let _permit = self.permits.acquire().await;
            Open::from(&spec).prepare().await
        });
        let sink = match made.await {
            Ok(Ok(Some(sink))) => sink,
            // Such a sink is opened as quickly by the worker itself.
            Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                let awaited = reason == Reason::Offered;
                self.reach.unprepared(&pipeline, revision, &error, awaited);
                debug!(pipeline.id = %pipeline, reason = %error, "could not prepare the sink");
                return;
            }
            Err(_) => {
                debug!(pipeline.id = %pipeline, "the sink could not be prepared in time");
                return;
            }
        };
        info!(pipeline.id = %pipeline, reason = reason.as_str(), "sink prepared");
        self.reach.prepared(&pipeline);
        let gone = self.shelf.put(pipeline, spec, sink, reason, Instant::now());
        discard(gone.into_iter().collect());
    }
}

/// Asks a successor to make ready.
pub(crate) async fn ask(pool: &PgPool, handshake: &Handshake) -> Result<(), CatalogError> {
    said(pool, handshake, Saying::Prepare).await
}

#[derive(Clone, Copy)]
enum Saying {
    Prepare,
    Ready,
}

async fn said(pool: &PgPool, handshake: &Handshake, what: Saying) -> Result<(), CatalogError> {
    let saying = async {
        let mut connection = pool
            .acquire()
            .await
            .map_err(|source| CatalogError::Database {
                doing: "preparing a hand-over",
                source,
            })?;
        match what {
            Saying::Prepare => announce_prepare(&mut connection, handshake).await,
            Saying::Ready => announce_ready(&mut connection, handshake).await,
        }
    };
    timeout(PATIENCE, saying)
        .await
        .unwrap_or(Err(CatalogError::Timeout(PATIENCE)))
}

/// Throws sinks away where nobody waits for it: a Kafka producer joins its threads.
fn discard(sinks: Vec<Prepared>) {
    if !sinks.is_empty() {
        drop(spawn_blocking(move || drop(sinks)));
    }
}
