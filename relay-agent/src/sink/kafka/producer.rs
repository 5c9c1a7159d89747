//! librdkafka's producer, its settings, and what it says.
//!
//! Its own thread hears what becomes of every message, and wakes whoever waits for the batch once,
//! at its end: a thousand wake-ups cost more than sending what they are about.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError,
    message::DeliveryResult,
    producer::{BaseRecord, Producer, ProducerContext, PurgeConfig, ThreadedProducer},
    types::RDKafkaErrorCode,
};
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::Instant,
};
use tracing::debug;

use super::{
    Named, Settings, SinkError,
    judge::judge,
    tally::{Settled, Tally},
};
use crate::sink::secret;

/// So long a topic may be unknown, in milliseconds, as one that was just created is for a moment: then
/// it is missing. The default is half a minute in which nobody would know what is wrong.
const UNKNOWN_TOPIC: &str = "5000";
/// A connection must stand within this, in milliseconds, or the broker is out of reach. The default is
/// half a minute, which is as long as a batch may take: nobody would know that no broker was reached.
const CONNECT: &str = "5000";
/// How long one question about the topic may take.
const METADATA: Duration = Duration::from_secs(1);

/// A producer and what it says.
pub(super) struct Connection {
    producer: ThreadedProducer<Listener>,
    listener: Listener,
}

/// A message whose number in its batch comes back with what became of it.
pub(super) type Record<'a> = BaseRecord<'a, str, [u8], usize>;

impl Connection {
    /// Makes a producer. Brokers are contacted in the background.
    pub(super) fn open(settings: &Settings) -> Result<Self, SinkError> {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "tide-agent")
            .set("linger.ms", "1")
            .set("compression.type", "none")
            .set("socket.connection.setup.timeout.ms", CONNECT)
            .set("topic.metadata.propagation.max.ms", UNKNOWN_TOPIC);
        for (name, value) in &settings.properties {
            config.set(name, secret::resolve(&format!("properties.{name}"), value)?);
        }
        let debug = debugged(config.get("debug"));
        config
            .set("bootstrap.servers", &settings.brokers)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // Never: a message that times out is skipped, and its successors overtake it.
            .set("message.timeout.ms", "0")
            // The only word about the producer's id is in librdkafka's log. It changes rarely, so
            // saying so costs the hot path nothing.
            .set("debug", debug)
            .set_log_level(RDKafkaLogLevel::Debug);
        let listener = Listener::default();
        let producer = config
            .create_with_context(listener.clone())
            .map_err(|error| SinkError::misconfigured(error.to_string()))?;
        Ok(Self { producer, listener })
    }

    /// Waits until a broker is connected, the topic's partitions, if there is one topic, are known
    /// and the producer has its id. librdkafka looks twice a second whether it can ask for one, which
    /// is most of what a fresh producer takes until its first message. Nothing is written, and no
    /// topic is created.
    pub(super) async fn made_ready(&self, topic: Option<&str>) -> Result<(), SinkError> {
        let (producer, topic) = (self.producer.clone(), topic.map(ToOwned::to_owned));
        let asked = spawn_blocking(move || {
            let answer = producer.client().fetch_metadata(topic.as_deref(), METADATA);
            answer.map(drop)
        });
        asked
            .await
            .map_err(|error| SinkError::transient(error.to_string()))?
            .map_err(|error| judge(&error, self.listener.heard().last.clone(), Named::ByOwner))?;
        let mut numbered = self.numbered();
        // Cannot fail: the sender lives in `self`.
        drop(numbered.wait_for(|numbered| *numbered).await);
        Ok(())
    }

    /// Whether the producer has got its id; it cannot send before.
    pub(super) fn numbered(&self) -> watch::Receiver<bool> {
        self.listener.numbered.subscribe()
    }

    /// Begins an attempt that purges what it queued unless it succeeds.
    pub(super) fn armed(self) -> Attempt {
        *self.listener.heard() = Heard::default();
        Attempt {
            connection: Some(self),
        }
    }
}

/// One batch on its way.
pub(super) struct Attempt {
    /// Present until disarmed.
    connection: Option<Connection>,
}

impl Attempt {
    /// Queues a message.
    pub(super) fn send(&self, record: Record<'_>) -> Result<(), KafkaError> {
        match &self.connection {
            Some(connection) => connection.producer.send(record).map_err(|(error, _)| error),
            None => Err(KafkaError::Canceled),
        }
    }

    /// Waits until it is known what became of the messages that were queued, so many of them.
    /// Cancel-safe.
    pub(super) async fn settled(&self, queued: usize) -> Settled {
        let Some(connection) = &self.connection else {
            return Settled {
                delivered: 0,
                failure: Some(KafkaError::Canceled),
            };
        };
        let listener = &connection.listener;
        listener.heard().tally.sent(queued);
        loop {
            if let Some(settled) = listener.heard().tally.settled() {
                return settled;
            }
            // Said before now, it is not lost.
            listener.settled.notified().await;
        }
    }

    /// How many messages from the start are acknowledged by now.
    pub(super) fn prefix(&self) -> usize {
        let connection = self.connection.as_ref();
        connection.map_or(0, |connection| connection.listener.heard().tally.prefix())
    }

    /// What librdkafka last complained about during this attempt.
    pub(super) fn last_error(&self) -> Option<String> {
        self.connection.as_ref()?.listener.heard().last.clone()
    }

    /// Since when no broker at all could be reached; none while one can, or may.
    pub(super) fn unreachable_since(&self) -> Option<Instant> {
        let connection = self.connection.as_ref()?;
        connection.listener.heard().unreachable_since
    }

    /// Everything is acknowledged: the producer can be used again.
    pub(super) fn disarmed(mut self) -> Connection {
        self.connection
            .take()
            .expect("an attempt is disarmed once, by value")
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection
                .producer
                .purge(PurgeConfig::default().queue().inflight());
        }
    }
}

/// librdkafka's `debug` property with what we need in it.
fn debugged(theirs: Option<&str>) -> String {
    theirs.map_or_else(|| "eos".to_owned(), |theirs| format!("{theirs},eos"))
}

/// Keeps what a client says: of the batch at hand, of itself, and its complaints, because the
/// messages' own errors often only say "timed out".
#[derive(Debug, Clone, Default)]
pub(super) struct Listener {
    heard: Arc<Mutex<Heard>>,
    /// The batch at hand is settled.
    settled: Arc<Notify>,
    /// Whether the producer has got its id.
    numbered: Arc<watch::Sender<bool>>,
}

/// About one batch. A producer that has not told the fate of all of them gets no further one.
#[derive(Debug, Default)]
struct Heard {
    tally: Tally,
    last: Option<String>,
    unreachable_since: Option<Instant>,
}

impl Listener {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(?level, facility, message, "librdkafka");
        if facility == "GETPID" && message.contains("Acquired PID") {
            self.numbered.send_replace(true);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut heard = self.heard();
        heard.last = Some(reason.to_owned());
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            heard.unreachable_since.get_or_insert_with(Instant::now);
        }
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let mut heard = self.heard();
        match result {
            Ok(_) => {
                heard.tally.acknowledged(index);
                heard.unreachable_since = None;
            }
            Err((error, _)) => heard.tally.failed(index, error.clone()),
        }
        if heard.tally.settled().is_some() {
            drop(heard);
            self.settled.notify_one();
        }
    }
}
