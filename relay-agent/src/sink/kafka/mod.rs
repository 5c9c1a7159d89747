//! Apache Kafka: the idempotent producer, keyed, with headers.
//!
//! All messages of a batch are handed to librdkafka at once and acknowledged one by one. The
//! idempotent producer numbers them per partition, so the broker accepts no message before its
//! predecessor: what is acknowledged of a partition is always a prefix. Messages never time out
//! inside librdkafka, because one that does would be skipped over; the batch has a deadline
//! instead, after which the producer is purged and replaced.

mod judge;
mod producer;
mod tally;

use std::{collections::BTreeMap, time::Duration};

use rdkafka::message::{Header, OwnedHeaders};
use serde_json::Value;
use tide_catalog::messages::Message;
use tide_model::format::Carrier;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, interval, sleep},
};

use self::{
    judge::judge,
    producer::{Attempt, Connection, Record},
    tally::Settled,
};
use super::{Batch, Context, Named, Sink, SinkError, envelope};

/// What the sink is opened from.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) brokers: String,
    pub(crate) topic: String,
    pub(crate) timeout: Duration,
    pub(crate) properties: BTreeMap<String, String>,
}

pub(crate) struct KafkaSink {
    settings: Settings,
    /// None after a failure: the sequence numbers of a purged producer are worth nothing.
    connection: Option<Connection>,
}

/// No broker at all for this long is a failure; a restart of one is not.
const UNREACHABLE: Duration = Duration::from_secs(3);
/// How often to look whether one can be reached.
const LOOK: Duration = Duration::from_millis(100);
/// librdkafka's queue is full; it empties at the speed of the network.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(2);

impl Sink for KafkaSink {
    const KIND: &'static str = "kafka";
    type Settings = Settings;

    async fn prepare(settings: &Settings) -> Result<Option<Self>, SinkError> {
        let connection = Connection::open(settings)?;
        // Messages that name their topics do so later.
        let topic = Some(settings.topic.as_str()).filter(|topic| !topic.contains("{{"));
        connection.made_ready(topic).await?;
        Ok(Some(Self {
            settings: settings.clone(),
            connection: Some(connection),
        }))
    }

    async fn open(settings: &Settings, _: &Context) -> Result<Self, SinkError> {
        let connection = Connection::open(settings)?;
        Ok(Self {
            settings: settings.clone(),
            connection: Some(connection),
        })
    }

    fn warming(&self) -> Option<watch::Receiver<bool>> {
        self.connection.as_ref().map(Connection::numbered)
    }

    async fn deliver(&mut self, context: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.settings)?,
        };
        // Dropped unless disarmed below, be it by an error or because this future is dropped: then
        // everything that is still queued is purged.
        let attempt = connection.armed();
        let deadline = Instant::now() + self.settings.timeout;
        let mut refused = None;
        let mut queued = 0;
        let mut value = Vec::new();
        for (index, message) in batch.messages.iter().enumerate() {
            value.clear();
            envelope::write(&mut value, context, message);
            let topic = batch.route(index).unwrap_or(&self.settings.topic);
            let record = || {
                let record = Record::with_opaque_to(topic, index)
                    .payload(&value)
                    .headers(headers(context, message));
                match &message.key {
                    Some(key) => record.key(key),
                    None => record,
                }
            };
            if let Err(error) = enqueue(&attempt, context, record, batch.named(), deadline).await {
                refused = Some(error);
                break;
            }
            queued += 1;
        }
        let Settled { delivered, failure } = self.settled(&attempt, queued, deadline).await?;
        if let Some(error) = failure {
            let error = judge(&error, attempt.last_error(), batch.named());
            return Err(error.after(delivered));
        }
        // What was refused before it left this process did not harm the producer.
        self.connection = Some(attempt.disarmed());
        refused.map_or(Ok(()), |error| Err(error.after(delivered)))
    }

    /// Everything that was delivered has been acknowledged: there is nothing to flush. The client
    /// joins its threads, which takes a tenth of a second that a successor need not wait for.
    async fn close(self) {
        drop(spawn_blocking(move || drop(self)));
    }
}

impl KafkaSink {
    /// Waits until so many messages are durable, or one of them is known not to be.
    async fn settled(
        &self,
        attempt: &Attempt,
        queued: usize,
        deadline: Instant,
    ) -> Result<Settled, SinkError> {
        let mut looks = interval(LOOK);
        loop {
            tokio::select! {
                biased;
                settled = attempt.settled(queued) => return Ok(settled),
                _ = looks.tick() => {}
            }
            let now = Instant::now();
            // A cluster that nobody answers for is no reason to wait for the deadline, which
            // whoever wants to stop or change this pipeline would have to wait for as well.
            let unreachable = attempt
                .unreachable_since()
                .is_some_and(|since| now - since > UNREACHABLE);
            if !unreachable && now < deadline {
                continue;
            }
            let what = if unreachable {
                "no broker can be reached".to_owned()
            } else {
                format!("not acknowledged within {:?}", self.settings.timeout)
            };
            let complaint = attempt.last_error().map(|error| format!(": {error}"));
            let error = SinkError::transient(what + &complaint.unwrap_or_default());
            let error = if unreachable {
                error.unreached()
            } else {
                error
            };
            return Err(error.after(attempt.prefix()));
        }
    }
}

/// Hands one message to librdkafka.
async fn enqueue<'a>(
    attempt: &Attempt,
    context: &Context,
    record: impl Fn() -> Record<'a>,
    named: Named,
    deadline: Instant,
) -> Result<(), SinkError> {
    loop {
        context.may_publish()?;
        match attempt.send(record()) {
            Ok(()) => return Ok(()),
            Err(error) if judge::is_queue_full(&error) && Instant::now() < deadline => {
                sleep(QUEUE_FULL_PAUSE).await;
            }
            Err(error) => return Err(judge(&error, attempt.last_error(), named)),
        }
    }
}

/// The publisher's headers, ours and the format's, as Kafka headers: text as it is, everything else as JSON.
fn headers(context: &Context, message: &Message) -> OwnedHeaders {
    let theirs = context.encoder.publishers(Carrier::Kafka, &message.headers);
    let ours = context.encoder.own_headers();
    let beside = envelope::beside(context, Carrier::Kafka, message);
    let count = 1 + ours.len() + theirs.len() + beside.len();
    let mut headers = text(
        OwnedHeaders::new_with_capacity(count),
        "tide-event-id",
        &message.event_id.to_string(),
    );
    for (name, value) in ours {
        headers = text(headers, name, value);
    }
    for (name, value) in &theirs {
        headers = match value {
            Value::String(value) => text(headers, name, value),
            Value::Null => headers.insert(Header {
                key: name,
                value: None::<&str>,
            }),
            other => text(headers, name, &other.to_string()),
        };
    }
    for (name, value) in &beside {
        headers = text(headers, name, value);
    }
    headers
}

fn text(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header {
        key,
        value: Some(value),
    })
}
