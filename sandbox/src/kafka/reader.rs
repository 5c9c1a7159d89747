//! Everything that was produced to some topics, as deliveries.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{Consumer as _, StreamConsumer},
    error::KafkaError as ClientError,
    message::{BorrowedMessage, Headers as _},
};
use time::OffsetDateTime;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::KafkaError;
use crate::{
    envelope::{Delivery, Envelope},
    wait::TimedOut,
};

/// How long the broker may take to describe a topic.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads topics from their beginning, without a group, for as long as it lives.
///
/// A message must be Tide's envelope, its Kafka key the envelope's key, and the envelope's text
/// headers must be Kafka headers too; the first that is not stops the reader, and every later look
/// at its records says so. Messages are stamped with the time at which the reader got them.
#[derive(Debug)]
pub struct TopicReader {
    read: watch::Sender<Read>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Read {
    deliveries: Vec<Delivery>,
    orders: HashMap<String, u64>,
    stopped: Option<Stop>,
}

/// Why no more is read.
#[derive(Debug, Clone)]
enum Stop {
    Malformed {
        topic: String,
        partition: i32,
        offset: i64,
        what: String,
    },
    Client {
        topic: String,
        source: ClientError,
    },
}

impl TopicReader {
    /// Starts to read; the topics must exist.
    pub async fn start(bootstrap: &str, topics: &[&str]) -> Result<Self, KafkaError> {
        let names = topics.join(", ");
        let failed = |source| KafkaError::Read {
            topic: names.clone(),
            source,
        };
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            // Demanded even where no group is joined.
            .set("group.id", "tide-sandbox-reader")
            .set("enable.auto.commit", "false")
            .set("allow.auto.create.topics", "false")
            .set("fetch.wait.max.ms", "10")
            // A broker that went away with a request is asked again soon, not after a minute.
            .set("socket.timeout.ms", "2000")
            .set("reconnect.backoff.max.ms", "500")
            .create()
            .map_err(failed)?;
        let consumer = Arc::new(consumer);
        let mut everything = TopicPartitionList::new();
        for topic in topics {
            for partition in 0..partitions(&consumer, topic).await? {
                everything
                    .add_partition_offset(topic, partition, Offset::Beginning)
                    .map_err(failed)?;
            }
        }
        consumer.assign(&everything).map_err(failed)?;
        let read = watch::Sender::new(Read::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(consume(consumer, names, read.clone()));
        Ok(Self {
            read,
            _tasks: tasks,
        })
    }

    /// What was read so far: per topic in the order of arrival, which within a partition is the
    /// order of the log.
    pub fn records(&self) -> Result<Vec<Delivery>, KafkaError> {
        self.inspect(<[Delivery]>::to_vec)
    }

    /// Looks at what was read so far without copying it; reading waits meanwhile.
    pub fn inspect<T>(&self, look: impl FnOnce(&[Delivery]) -> T) -> Result<T, KafkaError> {
        let read = self.read.borrow();
        match &read.stopped {
            None => Ok(look(&read.deliveries)),
            Some(stop) => Err(stop.clone().into()),
        }
    }

    /// What was read so far from one topic.
    pub fn records_of(&self, topic: &str) -> Result<Vec<Delivery>, KafkaError> {
        let mut records = self.records()?;
        records.retain(|delivery| delivery.stream == topic);
        Ok(records)
    }

    /// Waits until the records satisfy a predicate; also ends when the reader has stopped, which
    /// [`records`](Self::records) then tells.
    pub async fn wait_until(
        &self,
        within: Duration,
        what: &str,
        mut predicate: impl FnMut(&[Delivery]) -> bool,
    ) -> Result<(), TimedOut> {
        let mut watched = self.read.subscribe();
        let enough = |read: &Read| read.stopped.is_some() || predicate(&read.deliveries);
        let waited = timeout(within, watched.wait_for(enough)).await;
        if waited.is_ok() {
            return Ok(());
        }
        let last = format!("{} records", self.read.borrow().deliveries.len());
        Err(TimedOut {
            what: what.to_owned(),
            within,
            last,
        })
    }
}

impl From<Stop> for KafkaError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Malformed {
                topic,
                partition,
                offset,
                what,
            } => Self::Malformed {
                topic,
                partition,
                offset,
                what,
            },
            Stop::Client { topic, source } => Self::Read { topic, source },
        }
    }
}

async fn partitions(consumer: &Arc<StreamConsumer>, topic: &str) -> Result<i32, KafkaError> {
    let (asking, name) = (Arc::clone(consumer), topic.to_owned());
    let asked =
        tokio::task::spawn_blocking(move || asking.fetch_metadata(Some(&name), PATIENCE)).await;
    let metadata = match asked {
        Ok(metadata) => metadata.map_err(|source| KafkaError::Read {
            topic: topic.to_owned(),
            source,
        })?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found.map(|found| found.partitions().len()) {
        None | Some(0) => Err(KafkaError::NoTopic {
            topic: topic.to_owned(),
        }),
        Some(count) => Ok(count as i32),
    }
}

async fn consume(consumer: Arc<StreamConsumer>, topics: String, read: watch::Sender<Read>) {
    loop {
        let received = consumer.recv().await;
        let stop = match received {
            Ok(message) => match envelope(&message) {
                Ok(envelope) => {
                    read.send_modify(|read| read.append(message.topic(), envelope));
                    continue;
                }
                Err(what) => Stop::Malformed {
                    topic: message.topic().to_owned(),
                    partition: message.partition(),
                    offset: message.offset(),
                    what,
                },
            },
            // The client retries by itself; what it reports as an event passes.
            Err(ClientError::MessageConsumption(code)) if is_passing(code) => continue,
            Err(source) => Stop::Client {
                topic: topics,
                source,
            },
        };
        read.send_modify(|read| read.stopped = Some(stop));
        return;
    }
}

fn is_passing(code: rdkafka::types::RDKafkaErrorCode) -> bool {
    use rdkafka::types::RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::Resolve
    )
}

impl Read {
    fn append(&mut self, topic: &str, envelope: Envelope) {
        let next = self.orders.entry(topic.to_owned()).or_default();
        self.deliveries.push(Delivery {
            stream: topic.to_owned(),
            envelope,
            order: *next,
            at: Some(OffsetDateTime::now_utc()),
        });
        *next += 1;
    }
}

fn envelope(message: &BorrowedMessage<'_>) -> Result<Envelope, String> {
    let value = message.payload().unwrap_or_default();
    let envelope = Envelope::parse(value).map_err(|error| error.to_string())?;
    if message.key() != envelope.key.as_deref().map(str::as_bytes) {
        return Err(format!(
            "its key is not the envelope's key, {:?}",
            envelope.key
        ));
    }
    let headers: HashMap<&str, &[u8]> = message
        .headers()
        .map(|headers| {
            headers
                .iter()
                .map(|header| (header.key, header.value.unwrap_or_default()))
                .collect()
        })
        .unwrap_or_default();
    for (name, value) in &envelope.headers {
        if let Some(text) = value.as_str()
            && headers.get(name.as_str()) != Some(&text.as_bytes())
        {
            return Err(format!(
                "it has no Kafka header {name} with the envelope's value"
            ));
        }
    }
    Ok(envelope)
}
