//! Wakes idle pipelines: cheap probes for all of them together, publishers pay nothing.
//!
//! A probe reads the outboxes' sequences and a snapshot, and then, where transactions ended that may
//! have left a message with a lower id, asks the outboxes' indexes whether any did: [`news`] says
//! when that is. So a pipeline that has nothing to do reads nothing, however busy others are.
//! Probing is quick while anything happens and slows down to a ceiling while nothing does.

mod news;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tide_catalog::{
    CatalogError, PgPool,
    heads::{Head, Heads, heads, writers},
};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub(crate) use self::news::Idle;
use self::news::Verdict;

/// Shortest and longest time between two probes.
const PACE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// The time between two probes while nobody waits for one: all that they are for then is to know how
/// far the pipelines are behind.
const LOOK_ON: Duration = Duration::from_millis(250);
/// So many times as long as a probe took passes until the next one at least: the busier the server
/// is, the longer it takes, and the less often it is asked.
const REST: u32 = 4;
/// A probe without an answer for this long is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Outboxes that are asked together, always the same ones so that the server knows the statement.
/// A probe asks one such group, so that many outboxes cost no more than some.
const TOGETHER: usize = 64;

/// Hands idle pipelines to the probe. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct WakeupHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Vec<Waiting>>,
    heads: Mutex<BTreeMap<String, i64>>,
    arrived: Notify,
}

/// A pipeline that waits. Dropping it wakes it: it looks for itself then.
#[derive(Debug)]
struct Waiting {
    idle: Idle,
    wake: oneshot::Sender<()>,
}

impl WakeupHandle {
    /// Returns when there is something to read, or may be. Cancel-safe.
    pub(crate) async fn wait(&self, idle: Idle) {
        let (wake, woken) = oneshot::channel();
        lock(&self.shared.waiting).push(Waiting { idle, wake });
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
        let mut turn = 0;
        while !stop.is_cancelled() {
            let began = Instant::now();
            let result = timeout(PATIENCE, self.probe(&pool, &mut turn))
                .await
                .unwrap_or(Err(CatalogError::Timeout(PATIENCE)));
            let woken = match result {
                Ok(woken) => {
                    if failing {
                        info!("probing the outboxes again");
                    }
                    failing = false;
                    woken
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
            let least = (began.elapsed() * REST).clamp(PACE.0, PACE.1);
            pace = if woken {
                least
            } else {
                (pace + pace / 2).clamp(least, PACE.1)
            };
            let rested = sleep(least);
            let anybody = !lock(&self.shared.waiting).is_empty();
            let next = sleep(if anybody { pace } else { LOOK_ON });
            tokio::select! {
                () = stop.cancelled() => {}
                () = next => {}
                // A pipeline has just run dry: what it waits for is often about to come.
                () = self.shared.arrived.notified(), if !anybody || pace > least * 4 => {
                    pace = least;
                    rested.await;
                }
            }
        }
        lock(&self.shared.waiting).clear();
    }

    /// Wakes whom it should; whether there was anybody.
    async fn probe(&self, pool: &PgPool, turn: &mut usize) -> Result<bool, CatalogError> {
        let mut connection = pool
            .acquire()
            .await
            .map_err(|source| CatalogError::Database {
                doing: "probing the outboxes",
                source,
            })?;
        let heads = heads(&mut connection).await?;
        let at = Instant::now();
        let (ready, unsure) = self.sort(&heads, at);
        let mut woken = !ready.is_empty();
        drop(ready);
        let (group, asking, later) = whose_turn(&heads.outboxes, unsure, turn);
        self.wait_on(later);
        if asking.is_empty() {
            return Ok(woken);
        }
        let finished: BTreeSet<u64> = asking
            .iter()
            .flat_map(|waiting| waiting.idle.finished(&heads.snapshot))
            .collect();
        let relations: Vec<&str> = group.iter().map(|head| head.relation.as_str()).collect();
        let answers = match writers(&mut connection, &relations, finished).await {
            Ok(answers) => answers,
            Err(error) => {
                // One of them may be gone, or not ours to read: its pipelines will find out.
                debug!(
                    error = &error as &dyn std::error::Error,
                    "could not ask the outboxes"
                );
                return Ok(true);
            }
        };
        let answers: BTreeMap<&str, Vec<u64>> = group
            .iter()
            .map(|head| head.outbox.as_str())
            .zip(answers)
            .collect();
        let mut rest = Vec::with_capacity(asking.len());
        for mut waiting in asking {
            let writers = answers.get(waiting.idle.outbox.as_str());
            let writers = writers.map_or(&[][..], Vec::as_slice);
            if waiting.idle.answered(&heads.snapshot, writers, at) {
                woken = true;
            } else {
                rest.push(waiting);
            }
        }
        self.wait_on(rest);
        Ok(woken)
    }

    /// Takes out those who have news, and those of whom only their outbox knows.
    fn sort(&self, heads: &Heads, at: Instant) -> (Vec<Waiting>, Vec<Waiting>) {
        let last: BTreeMap<String, i64> = heads
            .outboxes
            .iter()
            .map(|head| (head.outbox.clone(), head.last))
            .collect();
        let (mut ready, mut unsure, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        let mut waiting = lock(&self.shared.waiting);
        for one in waiting.drain(..).filter(|one| !one.wake.is_closed()) {
            let head = last.get(&one.idle.outbox).copied();
            match one.idle.judge(head, &heads.snapshot, at) {
                Verdict::News => ready.push(one),
                Verdict::Ask => unsure.push(one),
                Verdict::Rest => rest.push(one),
            }
        }
        *waiting = rest;
        drop(waiting);
        *lock(&self.shared.heads) = last;
        (ready, unsure)
    }

    fn wait_on(&self, who: Vec<Waiting>) {
        lock(&self.shared.waiting).extend(who);
    }
}

/// Which group of outboxes is asked now, about whom, and who has to wait for another probe.
fn whose_turn<'a>(
    outboxes: &'a [Head],
    unsure: Vec<Waiting>,
    turn: &mut usize,
) -> (&'a [Head], Vec<Waiting>, Vec<Waiting>) {
    let mut groups: BTreeMap<usize, Vec<Waiting>> = BTreeMap::new();
    for waiting in unsure {
        let name = waiting.idle.outbox.as_str();
        let place = outboxes.binary_search_by(|head| head.outbox.as_str().cmp(name));
        // If it is gone, so is this one: it finds out.
        if let Ok(index) = place {
            groups.entry(index / TOGETHER).or_default().push(waiting);
        }
    }
    let next = groups.range(*turn..).next().or(groups.first_key_value());
    let Some(next) = next.map(|(group, _)| *group) else {
        return (&[], Vec::new(), Vec::new());
    };
    *turn = next + 1;
    let now = groups.remove(&next).unwrap_or_default();
    let later = groups.into_values().flatten().collect();
    let group = outboxes.chunks(TOGETHER).nth(next).unwrap_or_default();
    (group, now, later)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while holding it, and every state it can hold is a valid one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(outbox: &str) -> Waiting {
        let now = Instant::now();
        let idle = Idle {
            outbox: outbox.to_owned(),
            looked: 1,
            seen: "10:10:".parse().unwrap(),
            last_message: now,
            checked: now,
        };
        let (wake, _) = oneshot::channel();
        Waiting { idle, wake }
    }

    #[test]
    fn groups_of_outboxes_take_turns() {
        let outboxes: Vec<Head> = (0..=TOGETHER * 2)
            .map(|number| Head {
                outbox: format!("o{number:04}"),
                relation: format!("tide.o{number:04}"),
                last: 1,
            })
            .collect();
        let mut turn = 0;
        let mut unsure = vec![waiting("o0000"), waiting("o0001"), waiting("o0128")];
        unsure.push(waiting("gone"));
        let (group, now, later) = whose_turn(&outboxes, unsure, &mut turn);
        assert_eq!((group.len(), now.len(), later.len()), (TOGETHER, 2, 1));
        let (group, now, later) = whose_turn(&outboxes, later, &mut turn);
        assert_eq!((group.len(), now.len(), later.len()), (1, 1, 0));
        let (group, now, _) = whose_turn(&outboxes, vec![waiting("o0063")], &mut turn);
        assert_eq!((group.len(), now.len()), (TOGETHER, 1));
    }
}
