//! What topics hold, whatever its format.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::Headers as _,
};
use tokio::{task::spawn_blocking, time::Instant};

use super::KafkaError;
use crate::brokers::Held;

/// One wait for a record.
const LOOK: Duration = Duration::from_millis(100);

/// The first so many records of a topic with one partition, or as many as come in time.
pub async fn held(
    bootstrap: &str,
    topic: &str,
    count: usize,
    within: Duration,
) -> Result<Vec<Held>, KafkaError> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    let read = spawn_blocking(move || read(&bootstrap, &topic, count, within));
    read.await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

fn read(
    bootstrap: &str,
    topic: &str,
    count: usize,
    within: Duration,
) -> Result<Vec<Held>, KafkaError> {
    let failed = |source| KafkaError::Read {
        topic: topic.to_owned(),
        source,
    };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "tide-sandbox-held")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "10")
        .create()
        .map_err(failed)?;
    let mut partitions = TopicPartitionList::new();
    partitions
        .add_partition_offset(topic, 0, Offset::Beginning)
        .map_err(failed)?;
    consumer.assign(&partitions).map_err(failed)?;
    let deadline = Instant::now() + within;
    let mut held = Vec::new();
    while held.len() < count && Instant::now() < deadline {
        let Some(Ok(message)) = consumer.poll(LOOK) else {
            continue;
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers: BTreeMap<String, String> = message
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter())
            .map(|header| {
                (
                    header.key.to_owned(),
                    text(header.value.unwrap_or_default()),
                )
            })
            .collect();
        held.push(Held {
            body: message.payload().unwrap_or_default().to_vec(),
            event_id: headers.get("tide-event-id").cloned().unwrap_or_default(),
            key: message.key().map(text),
            headers,
        });
    }
    Ok(held)
}
