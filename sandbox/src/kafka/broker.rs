//! Mock brokers: in this process, or in a process that can be frozen and killed.

use std::{
    fmt,
    io::{self, Write as _},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, Producer as _},
    types::RDKafkaRespErr,
};
use tokio::signal::unix::{SignalKind, signal};

use super::{KafkaError, Topic};
use crate::process::{Process, ProcessSpec};

/// What a mock's process says when it is ready, before its address.
const READY: &str = "ready ";
/// How long it may take to say so.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mock broker inside this process; it ends when dropped.
pub struct MockKafka {
    // A client that brings its own mock: unlike a free-standing one it may move between threads.
    client: BaseProducer,
}

/// A mock broker in a process of its own; it is killed when dropped.
#[derive(Debug)]
pub struct MockBroker {
    process: Process,
    bootstrap: String,
}

impl MockKafka {
    /// Starts one broker on a port of its own and creates the topics.
    pub fn start(topics: &[Topic]) -> Result<Self, KafkaError> {
        let client = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .create()
            .map_err(KafkaError::Start)?;
        let kafka = Self { client };
        for Topic { name, partitions } in topics {
            kafka
                .mock()
                .create_topic(name, i32::from(*partitions), 1)
                .map_err(|source| KafkaError::CreateTopic {
                    topic: name.clone(),
                    source,
                })?;
        }
        Ok(kafka)
    }

    /// The address for `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        self.mock().bootstrap_servers()
    }

    /// Drops all connections and refuses new ones.
    pub fn down(&self) -> Result<(), KafkaError> {
        self.mock().broker_down(-1).map_err(KafkaError::Switch)
    }

    /// Accepts connections again; the log is still there.
    pub fn up(&self) -> Result<(), KafkaError> {
        self.mock().broker_up(-1).map_err(KafkaError::Switch)
    }

    /// Makes every answer this late.
    pub fn delay(&self, delay: Duration) -> Result<(), KafkaError> {
        self.mock()
            .broker_round_trip_time(-1, delay)
            .map_err(KafkaError::Switch)
    }

    /// Answers as if a topic were not there, or as it is again.
    pub fn hide(&self, topic: &str, hidden: bool) -> Result<(), KafkaError> {
        let answer = if hidden {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
        } else {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        };
        self.mock()
            .topic_error(topic, answer)
            .map_err(KafkaError::Switch)
    }

    fn mock(&self) -> rdkafka::mocking::MockCluster<'_, rdkafka::producer::DefaultProducerContext> {
        self.client
            .client()
            .mock_cluster()
            .expect("the client was made with mock brokers")
    }
}

impl fmt::Debug for MockKafka {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MockKafka")
            .field("bootstrap", &self.bootstrap())
            .finish()
    }
}

/// Is a mock broker until SIGTERM or SIGINT: the whole body of a broker's `main`.
///
/// Says `ready <bootstrap>` on standard output, one line, when it can be used.
pub async fn serve_mock_broker(topics: &[Topic]) -> Result<(), KafkaError> {
    let mut terminated = signal(SignalKind::terminate()).map_err(KafkaError::Signals)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(KafkaError::Signals)?;
    let kafka = MockKafka::start(topics)?;
    announce(&kafka.bootstrap()).map_err(KafkaError::Announce)?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(())
}

impl MockBroker {
    /// Starts a program that calls [`serve_mock_broker`] and waits until it is ready.
    pub async fn spawn(spec: ProcessSpec) -> Result<Self, KafkaError> {
        let mut process = Process::spawn(spec).map_err(KafkaError::Process)?;
        let line = process
            .wait_for_log(READY, PATIENCE)
            .await
            .map_err(KafkaError::Process)?;
        let bootstrap = line[line.find(READY).unwrap_or(0) + READY.len()..]
            .trim()
            .to_owned();
        Ok(Self { process, bootstrap })
    }

    /// The address for `bootstrap.servers`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process, to freeze or kill it. A killed broker's log is gone with it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn announce(bootstrap: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{READY}{bootstrap}")?;
    output.flush()
}
