//! Kafka without Kafka: librdkafka's mock brokers, as a process of their own or inside this one,
//! and a reader that shows what was produced.
//!
//! The mock knows idempotent producers and consumer groups. It does not isolate transactions
//! (aborted records can be read), fences no zombies, and has no topic administration: create
//! topics up front. **Its log keeps at most 5 MB or 100,000 messages of a partition**; older ones
//! are dropped without a word. A [`TopicReader`] started before the first message sees them all;
//! one started late may not.

mod broker;
mod held;
mod reader;
mod topics;

use std::{io, str::FromStr};

use rdkafka::{error::KafkaError as ClientError, types::RDKafkaErrorCode};

use crate::process::ProcessError;

pub use self::{
    broker::{MockBroker, MockKafka, serve_mock_broker},
    held::held,
    reader::TopicReader,
    topics::{create_topics, delete_topics},
};

/// A topic to create up front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions it gets.
    pub partitions: u16,
}

/// Why there is no mock broker or no reader.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// The mock could not be started inside this process.
    #[error("could not start mock brokers")]
    Start(#[source] ClientError),
    /// A topic could not be created.
    #[error("could not create topic {topic}")]
    CreateTopic {
        /// Its name.
        topic: String,
        /// What the mock answered.
        #[source]
        source: ClientError,
    },
    /// The cluster could not be asked to create or remove topics.
    #[error("could not administer topics at {bootstrap}")]
    Administer {
        /// The cluster's address.
        bootstrap: String,
        /// What the client says.
        #[source]
        source: ClientError,
    },
    /// The cluster refused to create or remove a topic.
    #[error("topic {topic} was refused: {code}")]
    Refused {
        /// Its name.
        topic: String,
        /// What the cluster answered.
        code: RDKafkaErrorCode,
    },
    /// The broker could not be switched off or on.
    #[error("could not switch the mock broker")]
    Switch(#[source] ClientError),
    /// The signals that end a mock broker could not be listened for.
    #[error("could not listen for signals")]
    Signals(#[source] io::Error),
    /// The address could not be told on standard output.
    #[error("could not say that the mock broker is ready")]
    Announce(#[source] io::Error),
    /// The mock's process did not start or did not get ready.
    #[error("the mock broker's process failed")]
    Process(#[source] ProcessError),
    /// A reader could not be set up.
    #[error("could not read topic {topic}")]
    Read {
        /// The topic.
        topic: String,
        /// What the client says.
        #[source]
        source: ClientError,
    },
    /// A topic to read does not exist.
    #[error("topic {topic} does not exist")]
    NoTopic {
        /// The topic.
        topic: String,
    },
    /// A message is no delivery of Tide's.
    #[error("message {offset} of {topic}[{partition}] is wrong: {what}")]
    Malformed {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The message's offset.
        offset: i64,
        /// What is wrong.
        what: String,
    },
}

/// The text is no topic.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no topic; write name:partitions, orders:4 say")]
pub struct TopicSyntax(String);

impl Topic {
    /// A topic with so many partitions.
    pub fn new(name: impl Into<String>, partitions: u16) -> Self {
        Self {
            name: name.into(),
            partitions,
        }
    }
}

impl FromStr for Topic {
    type Err = TopicSyntax;

    /// Reads `name:partitions`; without a number, one partition.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, partitions) = text.rsplit_once(':').unwrap_or((text, "1"));
        match partitions.parse() {
            Ok(partitions) if partitions > 0 && !name.is_empty() => Ok(Self::new(name, partitions)),
            _ => Err(TopicSyntax(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_from_text() {
        assert_eq!(
            "orders:4".parse::<Topic>().unwrap(),
            Topic::new("orders", 4)
        );
        assert_eq!("orders".parse::<Topic>().unwrap(), Topic::new("orders", 1));
        for wrong in ["orders:0", "orders:x", ":3", ""] {
            assert!(wrong.parse::<Topic>().is_err(), "{wrong}");
        }
    }
}
