//! Measures hand-overs: workers say that they are ready, and the database says how long their
//! pipelines stood still. Nobody waits for it.

use std::time::Duration;

use tide_catalog::{
    CatalogError, PgPool,
    handovers::{Arrival, Handover, handover_ready},
};
use tide_daemon::backoff::Backoff;
use tide_model::{AgentName, Epoch, GroupName, UnitName};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::metrics;

/// One statement may take this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// What was said first waits for so long: for others that are said with it, and because right after
/// a hand-over those who read messages need the pool.
const GATHERING: Duration = Duration::from_millis(100);
/// So many are recorded in one statement at most.
const AT_A_TIME: usize = 1_000;

/// A worker that can deliver.
#[derive(Debug)]
struct Ready {
    pipeline: UnitName,
    epoch: Epoch,
    since: Instant,
}

/// Where workers say that they are ready. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct HandoverHandle {
    ready: mpsc::Sender<(Ready, Option<watch::Receiver<bool>>)>,
}

/// The task that records what workers said.
#[derive(Debug)]
pub(crate) struct Recorder {
    ready: mpsc::Receiver<(Ready, Option<watch::Receiver<bool>>)>,
}

/// A handle and the task behind it.
pub(crate) fn channel() -> (HandoverHandle, Recorder) {
    let (tx, rx) = mpsc::channel(4 * AT_A_TIME);
    (HandoverHandle { ready: tx }, Recorder { ready: rx })
}

impl HandoverHandle {
    /// A worker has opened its sink, which is ready now or when `warming` says so.
    pub(crate) fn ready(
        &self,
        pipeline: UnitName,
        epoch: Epoch,
        warming: Option<watch::Receiver<bool>>,
    ) {
        let ready = Ready {
            pipeline,
            epoch,
            since: Instant::now(),
        };
        // A measurement that finds no room is left out.
        drop(self.ready.try_send((ready, warming)));
    }
}

impl Recorder {
    /// Runs until told to stop.
    pub(crate) async fn run(
        mut self,
        pool: PgPool,
        group: GroupName,
        me: AgentName,
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut warming = JoinSet::new();
        let mut ready: Vec<Ready> = Vec::new();
        loop {
            if ready.is_empty() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    Some(warm) = warming.join_next() => ready.extend(warm.ok().flatten()),
                    said = self.ready.recv() => match said {
                        Some((one, None)) => ready.push(one),
                        Some((one, Some(watched))) => drop(warming.spawn(warm(one, watched))),
                        None => return,
                    },
                }
                stop.run_until_cancelled(sleep(GATHERING)).await;
                continue;
            }
            while ready.len() < AT_A_TIME {
                match self.ready.try_recv() {
                    Ok((one, None)) => ready.push(one),
                    Ok((one, Some(watched))) => drop(warming.spawn(warm(one, watched))),
                    Err(_) => break,
                }
            }
            match record(&pool, &group, &me, &ready).await {
                Ok(handovers) => {
                    ready.clear();
                    backoff.reset();
                    handovers.iter().for_each(told);
                }
                Err(error) => {
                    debug!(
                        error = &error as &dyn std::error::Error,
                        "could not record hand-overs; trying again"
                    );
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = sleep(backoff.next()) => {}
                    }
                }
            }
        }
    }
}

/// A sink that never gets warm is closed at some time, and then there is nothing to measure.
async fn warm(one: Ready, mut warming: watch::Receiver<bool>) -> Option<Ready> {
    warming.wait_for(|warm| *warm).await.ok()?;
    Some(Ready {
        since: Instant::now(),
        ..one
    })
}

async fn record(
    pool: &PgPool,
    group: &GroupName,
    me: &AgentName,
    ready: &[Ready],
) -> Result<Vec<Handover>, CatalogError> {
    let recorded = async {
        let mut connection = pool
            .acquire()
            .await
            .map_err(|source| CatalogError::Database {
                doing: "recording hand-overs",
                source,
            })?;
        let arrivals: Vec<Arrival> = ready
            .iter()
            .map(|one| Arrival {
                pipeline: one.pipeline.clone(),
                epoch: one.epoch,
                ready: one.since.elapsed(),
            })
            .collect();
        handover_ready(&mut connection, group, me, &arrivals).await
    };
    timeout(PATIENCE, recorded)
        .await
        .unwrap_or(Err(CatalogError::Timeout(PATIENCE)))
}

fn told(handover: &Handover) {
    metrics::handover_gap(handover.kind, handover.gap);
    info!(
        pipeline.id = %handover.pipeline, kind = %handover.kind, from = handover.from,
        gap_ms = handover.gap.as_micros() as f64 / 1e3, "hand-over complete"
    );
}
