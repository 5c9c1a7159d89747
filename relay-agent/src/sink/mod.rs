//! Where messages go. One folder a sink, behind one trait; the worker knows no sink by name.

mod envelope;
mod error;
mod file;
mod home;
mod kafka;
mod lanes;
mod nats;
mod null;
mod pg_inbox;
mod probe;
mod rabbitmq;
mod redis;
mod routing;
mod secret;
mod stdout;
mod transforming;
mod webhook;

use std::{
    any::Any,
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tide_catalog::{
    messages::{Message, Page},
    offsets::Claim,
};
use tide_model::{
    Cursor, Epoch, GroupName, PipelineSpec, SinkSpec, Transforms, UnitName,
    format::{Encoder, Provenance},
    route::Route,
    sink_spec::{FileSpec, NatsSpec, RabbitmqSpec, RedisSpec, WebhookSpec},
};
use tokio::sync::watch;

pub(crate) use self::{
    error::{Named, SinkError},
    home::Home,
    probe::Probe,
    transforming::deliver,
};
use crate::{boot_clock::Moment, trust::Trust};

/// What a sink may say about where a message comes from.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) group: GroupName,
    pub(crate) pipeline: UnitName,
    pub(crate) outbox: String,
    /// Travels with every message, so that a consumer can refuse an older owner's.
    pub(crate) epoch: Epoch,
    pub(crate) trust: Trust,
    /// What is done to each message on the way, if anything is.
    pub(crate) transforms: Option<Arc<Transforms>>,
    /// Writes messages in the pipeline's format.
    pub(crate) encoder: Arc<Encoder>,
    /// Where each message goes, if it chooses that.
    pub(crate) route: Option<Route>,
    /// Sessions to the outbox's own database, for sinks that write there; nobody else's work
    /// waits for them.
    pub(crate) home: Home,
}

impl Context {
    /// What a grant and a pipeline's settings make.
    pub(crate) fn new(
        group: &GroupName,
        claim: &Claim,
        spec: &PipelineSpec,
        trust: &Trust,
        home: &Home,
    ) -> Self {
        let provenance = Provenance {
            group: group.clone(),
            pipeline: claim.pipeline.clone(),
            outbox: spec.outbox.clone(),
            epoch: claim.epoch,
            database: home.database().to_owned(),
        };
        Self {
            encoder: Arc::new(Encoder::new(&spec.format, &provenance)),
            transforms: spec.transforms.clone().map(Arc::new),
            route: spec.route.clone(),
            group: group.clone(),
            pipeline: claim.pipeline.clone(),
            outbox: spec.outbox.clone(),
            epoch: claim.epoch,
            trust: trust.clone(),
            home: home.clone(),
        }
    }

    /// The last look before an act that cannot be taken back.
    pub(crate) fn may_publish(&self) -> Result<(), SinkError> {
        if self.trust.is_open(Moment::now()) {
            Ok(())
        } else {
            Err(SinkError::transient(
                "the locks could not be proven any more",
            ))
        }
    }
}

#[cfg(test)]
impl Context {
    /// Where the messages of a test come from.
    pub(crate) fn example(pipeline: &str) -> Self {
        Self::example_of(pipeline, &tide_model::format::Format::Native)
    }

    /// The same, in another format.
    pub(crate) fn example_of(pipeline: &str, format: &tide_model::format::Format) -> Self {
        let server = tide_catalog::connection::Server::parse("postgres://host/db", "test");
        let now = Moment::now();
        let provenance = Provenance {
            group: "default".parse().unwrap(),
            pipeline: pipeline.parse().unwrap(),
            outbox: "order_events".to_owned(),
            epoch: Epoch(7),
            database: "db".to_owned(),
        };
        Self {
            encoder: Arc::new(Encoder::new(format, &provenance)),
            transforms: None,
            route: None,
            group: provenance.group,
            pipeline: provenance.pipeline,
            outbox: provenance.outbox,
            epoch: provenance.epoch,
            trust: Trust::new(now, now),
            home: Home::new(&server.unwrap()),
        }
    }
}

/// Messages to be delivered in this order; at least one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub(crate) messages: &'a [Message],
    /// Of each message its destination, if they choose it; empty if it is fixed.
    pub(crate) routes: &'a [String],
    /// What is known to be durable should the delivery be dropped half-way.
    pub(crate) progress: &'a Progress,
    /// Where the messages stand in the outbox; none if they were put aside before.
    pub(crate) place: Option<Place<'a>>,
}

/// A part of a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) page: &'a Page,
    /// So many messages of the page come before.
    pub(crate) before: usize,
}

impl Batch<'_> {
    /// Where the message of an index goes; none if the destination is fixed.
    pub(crate) fn route(&self, index: usize) -> Option<&str> {
        self.routes.get(index).map(String::as_str)
    }

    /// Who chose the destinations.
    pub(crate) fn named(&self) -> Named {
        if self.routes.is_empty() {
            Named::ByOwner
        } else {
            Named::ByMessage
        }
    }

    /// The pipeline's position once the first `delivered` messages are delivered, if that moves it.
    pub(crate) fn position_after(&self, delivered: usize) -> Option<Cursor> {
        let place = self.place?;
        let done = self.progress.done_after(delivered);
        place.page.position_after(place.before + done)
    }
}

/// How many messages from the start of a batch are durable. A sink that delivers one by one counts
/// here, so that a delivery that is dropped does not repeat what was acknowledged.
///
/// A sink counts what it was handed, which is less than the batch if a filter has left something
/// out; everybody else counts all messages, and these are done as well.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    handed: AtomicUsize,
    /// By the number of messages that the sink has made durable, how many are done; and so one more
    /// than it was handed. Unset if it was handed all.
    done: OnceLock<Vec<usize>>,
}

impl Progress {
    /// Said by the sink, of the messages that it was handed.
    pub(crate) fn reached(&self, delivered: usize) {
        self.handed.store(delivered, Ordering::Relaxed);
    }

    /// The sink is handed some of the messages alone; see `done`. Once, before it is asked.
    fn leaves_out(&self, done: Vec<usize>) {
        let first = self.done.set(done);
        debug_assert!(first.is_ok(), "a batch is handed over once");
    }

    /// So many messages are done when the sink has made `delivered` of its own durable.
    fn done_after(&self, delivered: usize) -> usize {
        let Some(done) = self.done.get() else {
            return delivered;
        };
        done.get(delivered)
            .or(done.last())
            .copied()
            .unwrap_or(delivered)
    }

    /// How many messages are done.
    pub(crate) fn delivered(&self) -> usize {
        self.done_after(self.handed.load(Ordering::Relaxed))
    }

    /// How many of the first `done` messages went to the sink.
    pub(crate) fn sent(&self, done: usize) -> usize {
        self.done.get().map_or(done, |ends| {
            ends[..ends.len() - 1].partition_point(|index| *index < done)
        })
    }

    /// How many messages of the batch the sink was not asked to take.
    pub(crate) fn spared(&self, batch: usize) -> usize {
        self.done.get().map_or(0, |ends| batch - (ends.len() - 1))
    }
}

/// The delivery contract.
///
/// - **Order**: messages of one key become visible downstream in the order of the batch.
/// - **Durability**: `Ok` means that every message of the batch is durable downstream.
/// - **Prefix**: an error says how many messages from the start are durable; the worker tries the
///   rest again, so what came after the failure may be delivered twice and is never skipped.
/// - **Identity**: a message carries the same event id on every delivery.
/// - **Cancellation**: dropping the future of [`deliver`](Sink::deliver) publishes nothing more
///   than what is on the wire; the batch is then in doubt and will be delivered again.
/// - **Preparation**: [`prepare`](Sink::prepare) happens in an agent that does not own the
///   pipeline: it changes nothing downstream, and nothing that a consumer could see comes of it.
/// - **Permission**: [`Context::may_publish`] is asked right before anything leaves the process.
pub(crate) trait Sink: Sized + Send + Sync + 'static {
    /// The word for it in metrics; the same as in `sink_type`.
    const KIND: &'static str;
    /// What it is opened from.
    type Settings: Send + Sync;

    /// Does beforehand what would hold up a takeover, and returns the sink if it is worth keeping
    /// until then. An error says why it cannot work, which whoever opens it will find out as well.
    fn prepare(_: &Self::Settings) -> impl Future<Output = Result<Option<Self>, SinkError>> + Send {
        async { Ok(None) }
    }

    /// Connects, as far as that makes sense before the first message.
    fn open(
        settings: &Self::Settings,
        context: &Context,
    ) -> impl Future<Output = Result<Self, SinkError>> + Send;

    /// For a sink that can be opened before it can deliver: says true when it can.
    fn warming(&self) -> Option<watch::Receiver<bool>> {
        None
    }

    /// Whether this sink stores the pipeline's position itself, together with the messages and
    /// under the same epoch ([`Batch::position_after`]); asked once it is open.
    fn stores_positions(&self) -> bool {
        false
    }

    /// Delivers a batch.
    fn deliver(
        &mut self,
        context: &Context,
        batch: &Batch<'_>,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Lets go of everything. Nothing is delivered any more.
    fn close(self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// A sink that is about to be opened, so that the worker is compiled for each of them once.
pub(crate) enum Open {
    Stdout(()),
    File(FileSpec),
    Webhook(WebhookSpec),
    Kafka(kafka::Settings),
    Nats(NatsSpec),
    Redis(RedisSpec),
    Rabbitmq(RabbitmqSpec),
    PgInbox(pg_inbox::Settings),
    Null(()),
}

pub(crate) use self::{
    file::FileSink, kafka::KafkaSink, nats::NatsSink, null::NullSink, pg_inbox::PgInboxSink,
    rabbitmq::RabbitmqSink, redis::RedisSink, stdout::StdoutSink, webhook::WebhookSink,
};

impl From<&SinkSpec> for Open {
    fn from(spec: &SinkSpec) -> Self {
        match spec.clone() {
            SinkSpec::Stdout => Self::Stdout(()),
            SinkSpec::File(spec) => Self::File(spec),
            SinkSpec::Webhook(spec) => Self::Webhook(spec),
            SinkSpec::Kafka {
                brokers,
                topic,
                timeout,
                properties,
            } => Self::Kafka(kafka::Settings {
                brokers,
                topic,
                timeout,
                properties,
            }),
            SinkSpec::Nats(spec) => Self::Nats(spec),
            SinkSpec::Redis(spec) => Self::Redis(spec),
            SinkSpec::Rabbitmq(spec) => Self::Rabbitmq(spec),
            SinkSpec::PgInbox {
                inbox,
                postgres_url,
                timeout,
            } => Self::PgInbox(pg_inbox::Settings {
                inbox,
                postgres_url,
                timeout,
            }),
            SinkSpec::Null => Self::Null(()),
        }
    }
}

/// Whether preparing is worth the while before anybody asks: a takeover after a crash would wait
/// longer for this sink than for everything else.
pub(crate) fn takes_long(spec: &SinkSpec) -> bool {
    matches!(spec, SinkSpec::Kafka { .. })
}

impl Open {
    /// See [`Sink::prepare`].
    pub(crate) async fn prepare(&self) -> Result<Option<Box<dyn Any + Send>>, SinkError> {
        match self {
            Self::Stdout(settings) => boxed::<StdoutSink>(settings).await,
            Self::File(settings) => boxed::<FileSink>(settings).await,
            Self::Webhook(settings) => boxed::<WebhookSink>(settings).await,
            Self::Kafka(settings) => boxed::<KafkaSink>(settings).await,
            Self::Nats(settings) => boxed::<NatsSink>(settings).await,
            Self::Redis(settings) => boxed::<RedisSink>(settings).await,
            Self::Rabbitmq(settings) => boxed::<RabbitmqSink>(settings).await,
            Self::PgInbox(settings) => boxed::<PgInboxSink>(settings).await,
            Self::Null(settings) => boxed::<NullSink>(settings).await,
        }
    }
}

async fn boxed<S: Sink>(settings: &S::Settings) -> Result<Option<Box<dyn Any + Send>>, SinkError> {
    let prepared = S::prepare(settings).await?;
    Ok(prepared.map(|sink| Box::new(sink) as Box<dyn Any + Send>))
}

/// Makes what takes long and needs no settings, before a takeover has to wait for it. Blocks.
pub(crate) fn warm_up() {
    webhook::warm_up();
}
