//! Topics of a real cluster: made before use and removed after it.

use std::time::Duration;

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult},
    client::DefaultClientContext,
    types::RDKafkaErrorCode,
};

use super::{KafkaError, Topic};

/// How long the cluster may take over one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// As many copies as the cluster makes by default.
const DEFAULT_REPLICATION: TopicReplication<'static> = TopicReplication::Fixed(-1);

/// Creates topics. The mock brokers of this crate cannot do that: name their topics at the start.
pub async fn create_topics(bootstrap: &str, topics: &[Topic]) -> Result<(), KafkaError> {
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|topic| {
            let partitions = i32::from(topic.partitions);
            NewTopic::new(&topic.name, partitions, DEFAULT_REPLICATION)
        })
        .collect();
    let results = client(bootstrap)?.create_topics(&new, &options()).await;
    judged(bootstrap, results)
}

/// Removes topics; one that is not there is no error.
pub async fn delete_topics(bootstrap: &str, topics: &[Topic]) -> Result<(), KafkaError> {
    let names: Vec<&str> = topics.iter().map(|topic| &*topic.name).collect();
    let results = client(bootstrap)?.delete_topics(&names, &options()).await;
    judged(bootstrap, results)
}

fn client(bootstrap: &str) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .map_err(|source| KafkaError::Administer {
            bootstrap: bootstrap.to_owned(),
            source,
        })
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(PATIENCE))
        .operation_timeout(Some(PATIENCE))
}

fn judged(
    bootstrap: &str,
    results: Result<Vec<TopicResult>, rdkafka::error::KafkaError>,
) -> Result<(), KafkaError> {
    let results = results.map_err(|source| KafkaError::Administer {
        bootstrap: bootstrap.to_owned(),
        source,
    })?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((topic, code)) => return Err(KafkaError::Refused { topic, code }),
        }
    }
    Ok(())
}
