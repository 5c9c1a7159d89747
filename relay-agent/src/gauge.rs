//! Live numbers of one running pipeline: written by its worker, sampled by metrics, probes and the
//! reporter.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use tide_model::{Epoch, PipelineState, UnitName, report::PipelineReport};
use time::OffsetDateTime;
use tokio::{sync::Notify, time::Instant};

use crate::wakeup::WakeupHandle;

/// What one worker shows.
#[derive(Debug)]
pub(crate) struct Gauge {
    epoch: Epoch,
    outbox: String,
    last_change_id: AtomicI64,
    /// When the oldest message in hand was written, nanoseconds since 1970; 0 while there is none.
    oldest_nanos: AtomicI64,
    state: Mutex<(PipelineState, Option<String>)>,
    quiet_since: OnceLock<Instant>,
    /// Rung when the state changes.
    news: OnceLock<Arc<Notify>>,
}

impl Gauge {
    pub(crate) fn new(epoch: Epoch, outbox: String, last_change_id: i64) -> Self {
        Self {
            epoch,
            outbox,
            last_change_id: AtomicI64::new(last_change_id),
            oldest_nanos: AtomicI64::new(0),
            state: Mutex::new((PipelineState::Starting, None)),
            quiet_since: OnceLock::new(),
            news: OnceLock::new(),
        }
    }

    pub(crate) fn delivered(&self, last_change_id: i64) {
        self.last_change_id.store(last_change_id, Ordering::Relaxed);
    }

    pub(crate) fn waits_since(&self, oldest: Option<OffsetDateTime>) {
        let nanos = oldest.map_or(0, |oldest| oldest.unix_timestamp_nanos() as i64);
        self.oldest_nanos.store(nanos, Ordering::Relaxed);
    }

    /// The worker delivers nothing more from now on.
    pub(crate) fn quiet(&self) {
        self.quiet_since.get_or_init(Instant::now);
    }

    /// Since when the worker has delivered nothing more.
    pub(crate) fn quiet_since(&self) -> Option<Instant> {
        self.quiet_since.get().copied()
    }

    /// Sets the state; true if it is news.
    pub(crate) fn set_state(&self, state: PipelineState, reason: Option<&str>) -> bool {
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let news = current.0 != state || current.1.as_deref() != reason;
        if news {
            *current = (state, reason.map(ToOwned::to_owned));
            if let Some(bell) = self.news.get() {
                bell.notify_one();
            }
        }
        news
    }

    /// What to report. Lag in rows needs the outbox's head, which the probe knows.
    pub(crate) fn report(&self, wakeups: &WakeupHandle, now: OffsetDateTime) -> PipelineReport {
        let last_change_id = self.last_change_id.load(Ordering::Relaxed);
        let oldest = self.oldest_nanos.load(Ordering::Relaxed);
        let (state, reason) = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let behind = oldest != 0;
        let head = wakeups.head(&self.outbox).unwrap_or(last_change_id);
        let age = (now.unix_timestamp_nanos() - i128::from(oldest)).max(0) as f64 / 1e9;
        PipelineReport {
            epoch: self.epoch,
            state,
            reason,
            last_change_id,
            lag_rows: match (behind, state.is_healthy()) {
                (true, _) => (head - last_change_id).max(1),
                (false, true) => 0,
                // It cannot even look; what was drawn since is the best that can be said.
                (false, false) => (head - last_change_id).max(0),
            },
            lag_seconds: if behind { age } else { 0.0 },
        }
    }
}

/// The gauges of everything that runs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauges {
    running: Arc<Mutex<BTreeMap<UnitName, Arc<Gauge>>>>,
    news: Arc<Notify>,
}

impl Gauges {
    pub(crate) fn insert(&self, pipeline: UnitName, gauge: Arc<Gauge>) {
        gauge.news.get_or_init(|| Arc::clone(&self.news));
        self.lock().insert(pipeline, gauge);
        self.news.notify_one();
    }

    pub(crate) fn remove(&self, pipeline: &UnitName) {
        self.lock().remove(pipeline);
        self.news.notify_one();
    }

    /// Returns when something has begun, ended or changed its state since this last returned; there is
    /// one listener. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.news.notified().await;
    }

    /// Reports of everything that runs.
    pub(crate) fn reports(&self, wakeups: &WakeupHandle) -> BTreeMap<UnitName, PipelineReport> {
        let now = OffsetDateTime::now_utc();
        self.lock()
            .iter()
            .map(|(name, gauge)| (name.clone(), gauge.report(wakeups, now)))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<UnitName, Arc<Gauge>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
