//! Wakes idle pipelines: one cheap probe for all of them, publishers pay nothing.
//!
//! The probe reads the outboxes' sequences and a snapshot. A pipeline is woken when its sequence
//! has moved past what it read, or when a transaction that its last read could not see may since
//! have committed a message with a lower id. Probing is quick while anything happens and slows
//! down to a ceiling while nothing does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tide_catalog::{CatalogError, PgPool, messages::heads};
use tide_model::Snapshot;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Shortest and longest time between two probes.
const PACE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// A probe without an answer for this long is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Transactions that drew an id before they drew a transaction id are in nobody's snapshot yet.
/// They commit soon after, so for this long after the last message a pipeline looks again after
/// every commit anywhere, and later only now and then.
const UNSETTLED: Duration = Duration::from_secs(5);
const SETTLED_PACE: Duration = Duration::from_secs(1);

/// What a pipeline waits for.
#[derive(Debug)]
pub(crate) struct Idle {
    /// The outbox it reads.
    pub(crate) outbox: String,
    /// The highest id that had been drawn when it last read, as far as it knew.
    pub(crate) looked: i64,
    /// What its last read could see.
    pub(crate) seen: Snapshot,
    /// When it last read a message.
    pub(crate) last_message: Instant,
    /// When it last read at all.
    pub(crate) last_read: Instant,
}

/// Hands idle pipelines to the probe. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct WakeupHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Vec<(Idle, oneshot::Sender<()>)>>,
    heads: Mutex<BTreeMap<String, i64>>,
    arrived: Notify,
}

impl WakeupHandle {
    /// Returns when there is something to read, or may be. Cancel-safe.
    pub(crate) async fn wait(&self, idle: Idle) {
        let (wake, woken) = oneshot::channel();
        lock(&self.shared.waiting).push((idle, wake));
        self.shared.arrived.notify_one();
        // A probe that ended leaves nobody to wake: look again rather than hang.
        drop(woken.await);
    }

    /// The highest id drawn from an outbox, as last probed.
    pub(crate) fn head(&self, outbox: &str) -> Option<i64> {
        lock(&self.shared.heads).get(outbox).copied()
    }

    /// Probes until `stop`.
    pub(crate) async fn run(self, pool: PgPool, stop: CancellationToken) {
        let mut pace = PACE.0;
        let mut failing = false;
        while !stop.is_cancelled() {
            let result = timeout(PATIENCE, probe(&pool))
                .await
                .unwrap_or(Err(CatalogError::Timeout(PATIENCE)));
            let woken = match result {
                Ok(heads) => {
                    if failing {
                        info!("probing the outboxes again");
                    }
                    failing = false;
                    self.wake(&heads.snapshot, heads.outboxes)
                }
                Err(error) => {
                    if !failing {
                        warn!(
                            error = &error as &dyn std::error::Error,
                            "could not probe the outboxes; trying again"
                        );
                    }
                    failing = true;
                    false
                }
            };
            pace = if woken {
                PACE.0
            } else {
                (pace + pace / 2).min(PACE.1)
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(pace) => {}
                // A pipeline has just run dry: what it waits for is often about to come.
                () = self.shared.arrived.notified(), if pace > PACE.0 * 4 => {
                    pace = PACE.0;
                    sleep(pace).await;
                }
            }
        }
        lock(&self.shared.waiting).clear();
    }

    fn wake(&self, now: &Snapshot, outboxes: Vec<(String, i64)>) -> bool {
        let outboxes: BTreeMap<String, i64> = outboxes.into_iter().collect();
        let at = Instant::now();
        let mut waiting = lock(&self.shared.waiting);
        let before = waiting.len();
        let (ready, still): (Vec<_>, Vec<_>) = waiting
            .drain(..)
            .filter(|(_, wake)| !wake.is_closed())
            .partition(|(idle, _)| may_have_news(idle, &outboxes, now, at));
        *waiting = still;
        drop(waiting);
        *lock(&self.shared.heads) = outboxes;
        let woken = !ready.is_empty();
        for (_, wake) in ready {
            // The waiter may have gone away meanwhile.
            wake.send(()).unwrap_or_default();
        }
        woken && before > 0
    }
}

async fn probe(pool: &PgPool) -> Result<tide_catalog::messages::Heads, CatalogError> {
    let mut connection = pool
        .acquire()
        .await
        .map_err(|source| CatalogError::Database {
            doing: "probing the outboxes",
            source,
        })?;
    heads(&mut connection).await
}

fn may_have_news(idle: &Idle, heads: &BTreeMap<String, i64>, now: &Snapshot, at: Instant) -> bool {
    // The same snapshot sees the same messages.
    if *now == idle.seen {
        return false;
    }
    if heads
        .get(&idle.outbox)
        .is_some_and(|head| *head > idle.looked)
    {
        return true;
    }
    let finished = idle.seen.in_progress().iter().any(|xid| now.sees(*xid));
    let pace = if at.duration_since(idle.last_message) < UNSETTLED {
        PACE.0 * 5
    } else {
        SETTLED_PACE
    };
    finished || at.duration_since(idle.last_read) >= pace
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while holding it, and every state it can hold is a valid one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(looked: i64, seen: &str, now: Instant) -> Idle {
        Idle {
            outbox: "o".to_owned(),
            looked,
            seen: seen.parse().unwrap(),
            last_message: now,
            last_read: now,
        }
    }

    fn news(idle: &Idle, head: i64, now: &str, at: Instant) -> bool {
        may_have_news(
            idle,
            &BTreeMap::from([("o".to_owned(), head)]),
            &now.parse().unwrap(),
            at,
        )
    }

    #[test]
    fn a_moved_sequence_wakes() {
        let now = Instant::now();
        assert!(news(&idle(4, "10:10:", now), 5, "11:11:", now));
        assert!(!news(&idle(5, "10:10:", now), 5, "10:10:", now));
    }

    #[test]
    fn the_end_of_a_transaction_that_was_open_wakes_without_a_new_id() {
        let now = Instant::now();
        let waiting = idle(5, "10:12:10", now);
        assert!(!news(&waiting, 5, "10:12:10", now));
        assert!(news(&waiting, 5, "12:12:", now));
    }

    #[test]
    fn unrelated_commits_wake_rarely_once_all_is_settled() {
        let start = Instant::now();
        let mut waiting = idle(5, "10:12:10", start);
        waiting.last_read = start + UNSETTLED * 2;
        assert!(!news(&waiting, 5, "10:13:10", waiting.last_read + PACE.0));
        assert!(news(
            &waiting,
            5,
            "10:13:10",
            waiting.last_read + SETTLED_PACE
        ));
    }
}
