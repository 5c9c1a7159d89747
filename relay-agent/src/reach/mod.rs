//! Whether this agent reaches the sinks of its pipelines, and of those that are to come. What it does
//! not reach it says to everybody, so that the pipeline is with somebody who does.
//!
//! ```text
//! worker ── no connection, for ten seconds ──▶ ledger ── once ──▶ tide.relay_unreachable ──▶ everybody looks
//! preparer ── looked before a hand-over ─────▶   ▲                     ▲
//! worker, preparer ── reached after all ─────────┘ ── once ────────────┘ the row goes
//! ```
//!
//! Nothing is written while nothing changes, and what changes for many pipelines is written in one
//! statement. Only the lack of a connection counts; a sink that answers is reached, whatever it says.
//!
//! **When this fails** the row is written late, and the pipeline stays where it is that long. A row
//! that nobody takes back expires.

mod ledger;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tide_catalog::{
    CatalogError, PgPool,
    reach::{Finding, Speaker, unreachable_clear, unreachable_set},
};
use tide_daemon::backoff::Backoff;
use tide_model::{SinkSpec, UnitName};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::ledger::{COUNTS_FOR, Failure, Ledger, Word};
use crate::sink::{Probe, SinkError};

/// What comes up within so long is said together: pipelines of one broker fail together.
const GATHERING: Duration = Duration::from_secs(1);
/// The least time from one word to the next, as each makes every agent look at the fleet. What a
/// hand-over waits for is said at once.
const PACE: Duration = Duration::from_secs(5);
/// One statement may take this long.
const SAYING: Duration = Duration::from_secs(10);
/// So many addresses are looked for at a time.
const LOOKS: usize = 16;

/// What this agent knows of its reach. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    speaker: Speaker,
    pool: PgPool,
    ledger: Mutex<Ledger>,
    /// Whether the ledger has anything in it: workers look at this after every batch.
    concerned: AtomicBool,
    /// Rung when there is something to say.
    news: Notify,
    /// Held while something is said, so that a newer word is never overtaken by an older one.
    saying: tokio::sync::Mutex<()>,
}

impl Reach {
    /// Knows nothing yet.
    pub(crate) fn new(speaker: Speaker, pool: PgPool) -> Self {
        Self {
            shared: Arc::new(Shared {
                speaker,
                pool,
                ledger: Mutex::default(),
                concerned: AtomicBool::new(false),
                news: Notify::new(),
                saying: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// The way of an owner to one unit's sink.
    pub(crate) fn way(&self, unit: &UnitName, revision: i64) -> Way {
        Way {
            reach: self.clone(),
            unit: unit.clone(),
            revision,
        }
    }

    /// Whether others go by it that we do not reach this unit's sink, as it is configured.
    pub(crate) fn is_marked(&self, unit: &UnitName, revision: i64) -> bool {
        self.is_concerned() && self.ledger().is_marked(unit, revision, Instant::now())
    }

    /// A sink could not be made ready before its unit is ours. To whoever is about to hand over that is
    /// news at once, and otherwise when it goes on.
    pub(crate) fn unprepared(
        &self,
        unit: &UnitName,
        revision: i64,
        error: &SinkError,
        awaited: bool,
    ) {
        if !error.is_unreached() {
            return;
        }
        let failure = Failure {
            revision,
            owned: false,
            reason: error.to_string(),
            probe: None,
        };
        self.change(|ledger, now| {
            ledger.looked(unit, false, now);
            if awaited {
                ledger.refused(unit, failure, now);
            } else {
                ledger.failed(unit, failure, now);
            }
        });
    }

    /// A sink was made ready before its unit is ours.
    pub(crate) fn prepared(&self, unit: &UnitName) {
        if self.is_concerned() {
            self.change(|ledger, now| ledger.looked(unit, true, now));
        }
    }

    /// Looks whether anybody listens where these sinks should be, and returns the units where not.
    pub(crate) async fn look_for(
        &self,
        sinks: impl IntoIterator<Item = (&UnitName, &SinkSpec, i64)>,
    ) -> BTreeSet<UnitName> {
        let mut wanted: BTreeMap<Probe, Vec<(UnitName, i64)>> = BTreeMap::new();
        for (unit, sink, revision) in sinks {
            if let Some(probe) = Probe::of(sink) {
                wanted
                    .entry(probe)
                    .or_default()
                    .push((unit.clone(), revision));
            }
        }
        let mut unreached = BTreeSet::new();
        for (probe, reason) in looks(wanted.keys().cloned()).await {
            let Err(reason) = reason else { continue };
            for (unit, revision) in wanted.remove(&probe).unwrap_or_default() {
                let failure = Failure {
                    revision,
                    owned: false,
                    reason: reason.clone(),
                    probe: Some(probe.clone()),
                };
                self.change(|ledger, now| ledger.refused(&unit, failure, now));
                unreached.insert(unit);
            }
        }
        unreached
    }

    /// Forgets what is over, and looks again where nobody listened before.
    pub(crate) async fn look_again(&self) {
        if !self.is_concerned() {
            return;
        }
        let mut wanted = BTreeMap::new();
        self.change(|ledger, now| wanted = ledger.tidy(now));
        for (probe, found) in looks(wanted.keys().take(LOOKS).cloned()).await {
            for unit in &wanted[&probe] {
                self.change(|ledger, now| ledger.looked(unit, found.is_ok(), now));
            }
        }
    }

    /// Says what is to be said, now.
    pub(crate) async fn say(&self) -> Result<(), CatalogError> {
        let _turn = self.shared.saying.lock().await;
        let words = self.ledger().take();
        if words.is_empty() {
            return Ok(());
        }
        let said = timeout(SAYING, self.write(&words))
            .await
            .unwrap_or(Err(CatalogError::Timeout(SAYING)));
        if said.is_err() {
            self.ledger().put_back(words);
            self.shared.news.notify_one();
            return said;
        }
        for (unit, word) in words {
            match word {
                Word::Unreached(Failure { reason, owned, .. }, _) => {
                    warn!(pipeline.id = %unit, reason, owned, "cannot reach the sink; others may");
                }
                Word::Reached => info!(pipeline.id = %unit, "the sink is within reach again"),
            }
        }
        said
    }

    async fn write(&self, words: &BTreeMap<UnitName, Word>) -> Result<(), CatalogError> {
        let mut findings = Vec::new();
        let mut reached = Vec::new();
        for (unit, word) in words {
            match word {
                Word::Unreached(failure, since) => findings.push(Finding {
                    unit: unit.clone(),
                    revision: failure.revision,
                    owned: failure.owned,
                    reason: failure.reason.clone(),
                    failing: since.elapsed(),
                }),
                Word::Reached => reached.push(unit.clone()),
            }
        }
        let Shared { speaker, pool, .. } = &*self.shared;
        let mut connection = pool
            .acquire()
            .await
            .map_err(|source| CatalogError::Database {
                doing: "saying which sinks are out of reach",
                source,
            })?;
        if !findings.is_empty() {
            unreachable_set(&mut connection, speaker, &findings, COUNTS_FOR).await?;
        }
        if !reached.is_empty() {
            unreachable_clear(&mut connection, speaker, &reached).await?;
        }
        Ok(())
    }

    /// Says what comes up until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::new(GATHERING, Duration::from_secs(30));
        let talk = async {
            loop {
                self.shared.news.notified().await;
                sleep(GATHERING).await;
                match self.say().await {
                    Ok(()) => {
                        backoff.reset();
                        sleep(PACE).await;
                    }
                    Err(error) => {
                        debug!(
                            error = &error as &dyn std::error::Error,
                            "could not say which sinks are out of reach; trying again"
                        );
                        sleep(backoff.next()).await;
                    }
                }
            }
        };
        // What is not said is said by whoever has the pipelines next.
        stop.run_until_cancelled(talk).await;
    }

    fn is_concerned(&self) -> bool {
        self.shared.concerned.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Ledger, Instant)) {
        let mut ledger = self.ledger();
        change(&mut ledger, Instant::now());
        let concerned = !ledger.is_empty();
        self.shared.concerned.store(concerned, Ordering::Relaxed);
        if ledger.has_news() {
            self.shared.news.notify_one();
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        let ledger = self.shared.ledger.lock();
        ledger.unwrap_or_else(PoisonError::into_inner)
    }
}

/// An owner's way to the sink of one unit, for as long as it runs it.
#[derive(Debug)]
pub(crate) struct Way {
    reach: Reach,
    unit: UnitName,
    revision: i64,
}

impl Way {
    /// The sink has taken or refused something.
    pub(crate) fn reached(&self) {
        if self.reach.is_concerned() {
            self.reach.change(|ledger, _| ledger.reached(&self.unit));
        }
    }

    /// An attempt has failed.
    pub(crate) fn failed(&self, error: &SinkError) {
        if !error.is_unreached() || error.delivered() > 0 {
            self.reached();
        }
        if error.is_unreached() {
            let failure = Failure {
                revision: self.revision,
                owned: true,
                reason: error.to_string(),
                probe: None,
            };
            self.reach
                .change(|ledger, now| ledger.failed(&self.unit, failure, now));
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if self.reach.is_concerned() {
            self.reach.change(|ledger, _| ledger.let_go(&self.unit));
        }
    }
}

/// Looks in all these places, some at a time.
async fn looks(probes: impl IntoIterator<Item = Probe>) -> Vec<(Probe, Result<(), String>)> {
    let mut looking = JoinSet::new();
    let mut found = Vec::new();
    for probe in probes {
        if looking.len() >= LOOKS {
            found.extend(looking.join_next().await.and_then(Result::ok));
        }
        looking.spawn(async move { (probe.clone(), probe.look().await) });
    }
    found.extend(looking.join_all().await);
    found
}
