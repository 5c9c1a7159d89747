//! Runs one pipeline under one grant: read, deliver, store the position, again.
//!
//! ```text
//!        open sink             batch delivered: position left with the committer
//! start ──────────▶ running ◀─────────────────────────────────────────────────┐
//!                     │  ▲                                                     │
//!         sink fails  │  │ sink answers                 page of messages ──▶ deliver
//!                     ▼  │                              (the next page is read meanwhile)
//!                  retrying / misconfigured / paused (trust window closed)
//! ```
//!
//! **Order of things.** A position is stored only after every message up to it is durable in the
//! sink, so a crash repeats messages and never skips one. Publishing is permitted while the trust
//! window is open, checked before each attempt; an attempt that is under way when the window
//! closes is dropped.
//!
//! **When this fails**
//! - the sink fails for now: the rest of the batch is tried again with growing delays.
//! - the receiver wants no more for good: the pipeline is paused until an operator resumes it.
//! - the sink refuses one message for good: it goes to the dead letters, the rest goes on; or its
//!   key is parked, and what follows of the key goes there too.
//! - it fails several times in a row: one message at a time is tried until it answers.
//! - the configuration cannot work: nothing is tried until it changes, save for a look now and then.
//! - the position is refused: a newer owner exists; stop at once.
//! - an operator pauses the pipeline: what is on its way is finished, and nothing more is begun.
//! - an operator takes the position back: the epoch is a newer one, which is as if fenced.
//! - the lock session is gone: stop at once, store nothing.

mod ahead;
mod deliver;
mod meters;
mod parking;
mod policy;
mod read;
mod replay;

use std::{sync::Arc, time::Duration};

use tide_catalog::{PgPool, offsets::Claim};
use tide_daemon::backoff::Backoff;
use tide_model::{GroupName, PipelineSpec, PipelineState};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    committer::{CommitterHandle, Fenced, Positions},
    discovery::Runnable,
    gauge::Gauge,
    handovers::HandoverHandle,
    orders::Inbound,
    ownership::WorkerEnd,
    preparation::Shelf,
    reach::{Reach, Way},
    sink::{
        Batch, Context, FileSink, Home, KafkaSink, NatsSink, NullSink, Open, PgInboxSink, Place,
        Progress, RabbitmqSink, RedisSink, Sink, SinkError, StdoutSink, WebhookSink,
    },
    trust::{Revoked, Trust},
    wakeup::{Idle, WakeupHandle},
};

use self::{
    ahead::ReadAhead, meters::Meters, parking::Parking, policy::Pace, read::Reader,
    replay::Replaying,
};

/// The right to run one pipeline: a lock on a session that is still trusted, and its epoch. A
/// worker cannot be built without one, and it cannot be copied.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) claim: Claim,
    pub(crate) trust: Trust,
    pub(crate) orders: Inbound,
}

/// What all workers share.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    pub(crate) group: GroupName,
    pub(crate) pool: PgPool,
    pub(crate) committer: CommitterHandle,
    pub(crate) wakeups: WakeupHandle,
    pub(crate) shelf: Shelf,
    pub(crate) handovers: HandoverHandle,
    pub(crate) reach: Reach,
    pub(crate) home: Home,
}

/// Delays between attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// When a sink is tried again is stored from here on: a shorter delay is over before anybody has read of
/// it, and would be stored many times a second.
const WORTH_TELLING: Duration = Duration::from_secs(1);
/// How often a pipeline that cannot work is tried all the same: its cause may lie outside of it.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How long our own pause of a pipeline may be on its way back to us.
const ECHO: Duration = Duration::from_mins(1);

/// Why a worker stops in the middle of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interrupt {
    Stop,
    Revoked,
    Fenced,
}

impl From<Fenced> for Interrupt {
    fn from(_: Fenced) -> Self {
        Self::Fenced
    }
}

impl From<Revoked> for Interrupt {
    fn from(_: Revoked) -> Self {
        Self::Revoked
    }
}

/// Runs a pipeline until it is stopped, revoked or fenced.
pub(crate) async fn run(
    grant: Grant,
    runnable: Arc<Runnable>,
    gauge: Arc<Gauge>,
    services: Services,
    stop: CancellationToken,
) -> WorkerEnd {
    let pipeline = grant.claim.pipeline.clone();
    let epoch = grant.claim.epoch;
    let batch = runnable.spec.as_ref().map_or(1, |spec| spec.batch_size);
    let positions = services.committer.positions(pipeline.clone(), epoch, batch);
    let status = Status {
        gauge,
        positions,
        trust: grant.trust.clone(),
        stop,
        orders: grant.orders.clone(),
        way: services.reach.way(&pipeline, runnable.revision),
    };
    let end = match &runnable.spec {
        Ok(spec) => run_valid(&grant, spec, &runnable, &services, status).await,
        Err(error) => {
            // Nothing to try until somebody changes the row, which restarts this worker.
            warn!(pipeline.id = %pipeline, reason = %error, "pipeline is misconfigured");
            let mut status = status;
            status.set(PipelineState::Misconfigured, Some(&error.to_string()));
            let interrupt = status.interrupted().await;
            status.wind_up(interrupt).await
        }
    };
    debug!(pipeline.id = %pipeline, %epoch, ?end, "worker ended");
    end
}

async fn run_valid(
    grant: &Grant,
    spec: &PipelineSpec,
    runnable: &Runnable,
    services: &Services,
    mut status: Status,
) -> WorkerEnd {
    let context = Context::new(
        &services.group,
        &grant.claim,
        spec,
        &grant.trust,
        &services.home,
    );
    let reader = Reader::new(services, runnable, spec, &grant.claim);
    let status_ref = &mut status;
    let interrupt = match Open::from(&spec.sink) {
        Open::Stdout(settings) => {
            run_with::<StdoutSink>(settings, spec, &context, services, reader, status_ref).await
        }
        Open::File(settings) => {
            run_with::<FileSink>(settings, spec, &context, services, reader, status_ref).await
        }
        Open::Webhook(settings) => {
            run_with::<WebhookSink>(settings, spec, &context, services, reader, status_ref).await
        }
        Open::Kafka(settings) => {
            run_with::<KafkaSink>(settings, spec, &context, services, reader, status_ref).await
        }
        Open::Nats(settings) => {
            run_with::<NatsSink>(settings, spec, &context, services, reader, status_ref).await
        }
        Open::Redis(settings) => {
            run_with::<RedisSink>(settings, spec, &context, services, reader, status_ref).await
        }
        Open::Rabbitmq(settings) => {
            run_with::<RabbitmqSink>(settings, spec, &context, services, reader, status_ref).await
        }
        Open::PgInbox(settings) => {
            run_with::<PgInboxSink>(settings, spec, &context, services, reader, status_ref).await
        }
        Open::Null(settings) => {
            run_with::<NullSink>(settings, spec, &context, services, reader, status_ref).await
        }
    };
    status.wind_up(interrupt).await
}

/// Opens the sink, however long that takes, and delivers until interrupted.
async fn run_with<S: Sink>(
    settings: S::Settings,
    spec: &PipelineSpec,
    context: &Context,
    services: &Services,
    reader: Reader,
    status: &mut Status,
) -> Interrupt {
    let mut sink = match services.shelf.take(&context.pipeline, &spec.sink) {
        Some(prepared) => {
            info!(pipeline.id = %context.pipeline, "sink was prepared");
            prepared
        }
        None => match open_sink::<S>(&settings, context, status).await {
            Ok(sink) => sink,
            Err(interrupt) => return interrupt,
        },
    };
    status.set(PipelineState::Running, None);
    services
        .handovers
        .ready(context.pipeline.clone(), context.epoch, sink.warming());
    let mut delivery = deliver::Delivery {
        context,
        services,
        status,
        sink: &mut sink,
        stored: false,
        told: 0,
        pace: Pace::new(&spec.policy, context),
        replaying: Replaying::default(),
        parking: Parking::new(&spec.policy, context),
    };
    let mut ahead = ReadAhead::start(reader);
    let interrupt = match delivery.run(&mut ahead).await {
        Ok(never) => match never {},
        Err(interrupt) => interrupt,
    };
    drop(ahead);
    status.gauge.quiet();
    sink.close().await;
    interrupt
}

async fn open_sink<S: Sink>(
    settings: &S::Settings,
    context: &Context,
    status: &mut Status,
) -> Result<S, Interrupt> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut tried = false;
    let mut unreached = false;
    loop {
        // The first attempt is made all the same, so that a hand-over of a pipeline that is on hold
        // is over when it is.
        if tried {
            status.hold(context).await?;
        }
        tried = true;
        status.trust.opened().await?;
        let opened = tokio::select! {
            biased;
            interrupt = status.interrupted() => return Err(interrupt),
            opened = S::open(settings, context) => opened,
        };
        match opened {
            Ok(sink) => {
                // One that is opened without a connection says nothing about the way to it.
                if unreached {
                    status.way.reached();
                }
                return Ok(sink);
            }
            Err(error) => {
                unreached |= error.is_unreached();
                let delay = status.failed(context, &error, &mut backoff);
                status.pause(delay).await?;
            }
        }
    }
}

/// What a worker shows, and what can interrupt it.
struct Status {
    gauge: Arc<Gauge>,
    positions: Positions,
    trust: Trust,
    stop: CancellationToken,
    orders: Inbound,
    way: Way,
}

impl Status {
    fn set(&mut self, state: PipelineState, reason: Option<&str>) {
        if self.gauge.set_state(state, reason) {
            self.positions
                .set_state(state, reason.map(ToOwned::to_owned));
        }
    }

    /// Says what failed, once per change, and how long to wait before the next attempt.
    fn failed(&mut self, context: &Context, error: &SinkError, backoff: &mut Backoff) -> Duration {
        self.way.failed(error);
        let reason = error.to_string();
        let (state, delay) = match error {
            SinkError::Misconfigured { .. } => (PipelineState::Misconfigured, LOOK_AGAIN),
            SinkError::Transient { retry_after, .. } => (
                PipelineState::Retrying,
                backoff.next().max(retry_after.unwrap_or_default()),
            ),
            SinkError::Gone { .. } => (PipelineState::Misconfigured, ECHO),
            SinkError::Rejected { .. } | SinkError::Fenced { .. } => {
                (PipelineState::Retrying, backoff.next())
            }
        };
        let news = self.gauge.set_state(state, Some(&reason));
        if news {
            warn!(pipeline.id = %context.pipeline, %state, reason, "delivery failed; trying again");
        }
        let told = (delay >= WORTH_TELLING).then_some(delay);
        if state == PipelineState::Retrying && (news || told.is_some()) {
            self.positions.set_retrying(reason, told);
        } else if news {
            self.positions.set_state(state, Some(reason));
        }
        delay
    }

    fn recovered(&mut self, context: &Context) {
        if self.gauge.set_state(PipelineState::Running, None) {
            info!(pipeline.id = %context.pipeline, "delivering");
            self.positions.set_state(PipelineState::Running, None);
        }
    }

    /// Whether an operator wants nothing delivered; says so, once a change.
    fn is_on_hold(&mut self, context: &Context) -> bool {
        let Some(reason) = self.orders.pause() else {
            return false;
        };
        if self.gauge.set_state(PipelineState::Paused, Some(&reason)) {
            info!(pipeline.id = %context.pipeline, reason, "on hold");
            self.positions
                .set_state(PipelineState::Paused, Some(reason));
        }
        true
    }

    /// Waits while an operator wants nothing delivered.
    async fn hold(&mut self, context: &Context) -> Result<(), Interrupt> {
        while self.is_on_hold(context) {
            let mut orders = self.orders.clone();
            tokio::select! {
                biased;
                interrupt = self.interrupted() => return Err(interrupt),
                () = orders.changed() => {}
            }
        }
        Ok(())
    }

    /// Waits for an order, so long at most, unless interrupted.
    async fn on_order(&self, patience: Duration) -> Result<(), Interrupt> {
        let mut orders = self.orders.clone();
        tokio::select! {
            biased;
            interrupt = self.interrupted() => Err(interrupt),
            () = orders.changed() => Ok(()),
            () = sleep(patience) => Ok(()),
        }
    }

    /// Waits, unless interrupted.
    async fn pause(&self, delay: Duration) -> Result<(), Interrupt> {
        tokio::select! {
            biased;
            interrupt = self.interrupted() => Err(interrupt),
            () = sleep(delay) => Ok(()),
        }
    }

    /// Returns when the worker should stop, for whatever reason. Cancel-safe.
    async fn interrupted(&self) -> Interrupt {
        tokio::select! {
            biased;
            () = self.trust.revoked() => Interrupt::Revoked,
            () = self.positions.fenced() => Interrupt::Fenced,
            () = self.orders.superseded() => Interrupt::Fenced,
            () = self.stop.cancelled() => Interrupt::Stop,
        }
    }

    /// Stores what is left to be stored, if we still may.
    async fn wind_up(mut self, interrupt: Interrupt) -> WorkerEnd {
        self.gauge.quiet();
        match interrupt {
            Interrupt::Revoked => WorkerEnd::Revoked,
            Interrupt::Fenced => WorkerEnd::Fenced,
            Interrupt::Stop => {
                self.set(PipelineState::Stopped, None);
                tokio::select! {
                    biased;
                    () = self.trust.revoked() => WorkerEnd::Revoked,
                    flushed = self.positions.flushed() => match flushed {
                        Ok(()) => WorkerEnd::Stopped,
                        Err(Fenced) => WorkerEnd::Fenced,
                    },
                }
            }
        }
    }
}
