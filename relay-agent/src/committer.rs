//! Stores positions and states of all pipelines together, one statement each.
//!
//! Workers leave their newest position here and go on; a newer one replaces an older one that is
//! not stored yet, so memory is bounded by the number of pipelines and a slow database slows
//! nobody but itself. A position that the catalog refuses means fenced.
//!
//! Positions are stored every [`PACE`] at most while nobody waits for one, because a store costs the
//! server as much as reading some hundred messages, and leaves a dead row for each pipeline, which
//! stays as long as the oldest transaction anywhere and is walked over by every store after it. A
//! crash repeats what was delivered since, so no pipeline delivers more than [`MOST_UNSTORED`] full
//! batches before a store begins.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tide_catalog::{
    CatalogError, PgPool,
    offsets::{Advance, StateChange, offsets_advance, offsets_set_state},
};
use tide_daemon::backoff::Backoff;
use tide_model::{Cursor, Epoch, GroupName, PipelineState, UnitName};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics;

/// One statement may take this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The least time from one store to the next, unless somebody waits for it.
const PACE: Duration = Duration::from_millis(100);

/// Full batches that a worker may deliver before a position is stored at once.
const MOST_UNSTORED: u64 = 3;

/// How far a worker's positions are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    UpTo(u64),
    Fenced,
}

/// A newer epoch exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fenced;

#[derive(Debug, Default)]
struct Pending {
    advances: BTreeMap<UnitName, (Advance, u64, watch::Sender<Stored>)>,
    states: BTreeMap<UnitName, StateChange>,
}

/// The desk on which workers leave what is to be stored. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommitterHandle {
    pending: Arc<Mutex<Pending>>,
    left: Arc<Notify>,
    awaited: Arc<Notify>,
}

/// One worker's line to the committer.
#[derive(Debug)]
pub(crate) struct Positions {
    committer: CommitterHandle,
    pipeline: UnitName,
    epoch: Epoch,
    /// Counts the messages that were passed, and the positions that passed none.
    number: u64,
    most_unstored: u64,
    stored: watch::Sender<Stored>,
}

impl CommitterHandle {
    /// A line for one pipeline under one epoch, whose batches have so many messages at most.
    pub(crate) fn positions(&self, pipeline: UnitName, epoch: Epoch, batch: usize) -> Positions {
        let (stored, _) = watch::channel(Stored::UpTo(0));
        Positions {
            committer: self.clone(),
            pipeline,
            epoch,
            number: 0,
            most_unstored: MOST_UNSTORED * batch as u64,
            stored,
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores until `stop`, and then once more what is left.
    pub(crate) async fn run(self, pool: PgPool, group: GroupName, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        let mut failing = false;
        loop {
            let Pending { advances, states } = std::mem::take(&mut *self.pending());
            if advances.is_empty() && states.is_empty() {
                if stop.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = self.left.notified() => {}
                    () = stop.cancelled() => {}
                }
                continue;
            }
            let stored = timeout(PATIENCE, store(&pool, &group, &advances, &states))
                .await
                .unwrap_or(Err(CatalogError::Timeout(PATIENCE)));
            match stored {
                Ok(()) => {
                    if failing {
                        info!("storing positions again");
                    }
                    failing = false;
                    backoff.reset();
                    tokio::select! {
                        () = sleep(PACE) => {}
                        () = self.awaited.notified() => {}
                        () = stop.cancelled() => {}
                    }
                }
                Err(error) => {
                    if !failing {
                        warn!(
                            error = &error as &dyn std::error::Error,
                            "could not store positions; trying again"
                        );
                    }
                    failing = true;
                    self.put_back(advances, states);
                    if stop.is_cancelled() {
                        return;
                    }
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    /// What could not be stored waits again, unless something newer has been left meanwhile.
    fn put_back(
        &self,
        advances: BTreeMap<UnitName, (Advance, u64, watch::Sender<Stored>)>,
        states: BTreeMap<UnitName, StateChange>,
    ) {
        let mut pending = self.pending();
        for (pipeline, advance) in advances {
            pending.advances.entry(pipeline).or_insert(advance);
        }
        for (pipeline, state) in states {
            pending.states.entry(pipeline).or_insert(state);
        }
    }
}

async fn store(
    pool: &PgPool,
    group: &GroupName,
    advances: &BTreeMap<UnitName, (Advance, u64, watch::Sender<Stored>)>,
    states: &BTreeMap<UnitName, StateChange>,
) -> Result<(), CatalogError> {
    let mut connection = pool
        .acquire()
        .await
        .map_err(|source| CatalogError::Database {
            doing: "storing positions",
            source,
        })?;
    if !advances.is_empty() {
        let batch: Vec<Advance> = advances
            .values()
            .map(|(advance, _, _)| advance.clone())
            .collect();
        let accepted = offsets_advance(&mut connection, group, &batch).await?;
        for (pipeline, (_, number, stored)) in advances {
            if accepted.contains(pipeline) {
                stored.send_replace(Stored::UpTo(*number));
            } else {
                metrics::fenced_write();
                stored.send_replace(Stored::Fenced);
            }
        }
    }
    if !states.is_empty() {
        let changes: Vec<StateChange> = states.values().cloned().collect();
        offsets_set_state(&mut connection, group, &changes).await?;
    }
    Ok(())
}

impl Positions {
    /// Leaves a position to be stored, so many messages after the one before; it replaces an older
    /// one that is not stored yet.
    pub(crate) fn advance(&mut self, cursor: Cursor, messages: usize) -> Result<(), Fenced> {
        let Stored::UpTo(stored) = *self.stored.borrow() else {
            return Err(Fenced);
        };
        self.number += messages.max(1) as u64;
        let advance = Advance {
            pipeline: self.pipeline.clone(),
            epoch: self.epoch,
            cursor,
        };
        self.committer.pending().advances.insert(
            self.pipeline.clone(),
            (advance, self.number, self.stored.clone()),
        );
        self.committer.left.notify_one();
        if self.number - stored >= self.most_unstored {
            self.committer.awaited.notify_one();
        }
        Ok(())
    }

    /// Waits until everything that was left is stored. Cancel-safe.
    pub(crate) async fn flushed(&self) -> Result<(), Fenced> {
        let number = self.number;
        let mut stored = self.stored.subscribe();
        if matches!(*stored.borrow(), Stored::UpTo(done) if done < number) {
            self.committer.awaited.notify_one();
        }
        let outcome = stored
            .wait_for(|stored| match stored {
                Stored::UpTo(done) => *done >= number,
                Stored::Fenced => true,
            })
            .await;
        match outcome.map(|stored| *stored) {
            Ok(Stored::UpTo(_)) => Ok(()),
            // The sender lives in `self`, so the channel cannot close before this returns.
            Ok(Stored::Fenced) | Err(_) => Err(Fenced),
        }
    }

    /// Returns when a newer epoch is known to exist. Cancel-safe.
    pub(crate) async fn fenced(&self) {
        let mut stored = self.stored.subscribe();
        // Cannot fail: the sender lives in `self`.
        drop(stored.wait_for(|stored| *stored == Stored::Fenced).await);
    }

    /// Leaves a state to be stored.
    pub(crate) fn set_state(&self, state: PipelineState, reason: Option<String>) {
        self.leave(state, reason, None);
    }

    /// Leaves to be stored that the sink fails, and how soon it is tried again, if that is worth
    /// telling.
    pub(crate) fn set_retrying(&self, reason: String, retry_in: Option<Duration>) {
        self.leave(PipelineState::Retrying, Some(reason), retry_in);
    }

    fn leave(&self, state: PipelineState, reason: Option<String>, retry_in: Option<Duration>) {
        let change = StateChange {
            pipeline: self.pipeline.clone(),
            epoch: self.epoch,
            state,
            reason,
            retry_in,
        };
        self.committer
            .pending()
            .states
            .insert(self.pipeline.clone(), change);
        self.committer.left.notify_one();
        self.committer.awaited.notify_one();
    }
}
