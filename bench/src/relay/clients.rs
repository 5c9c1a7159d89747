//! Every sink's bare client, as the sink sets it up: the same promises, batches, headers and bytes,
//! and nothing but sending.

use std::{collections::BTreeMap, fs::File, io::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use async_nats::{
    HeaderMap, header::NATS_MESSAGE_ID, jetstream, jetstream::message::PublishMessage,
};
use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use futures_util::future::try_join_all;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use serde_json::{Value, json};
use sqlx::{Postgres, pool::PoolConnection};
use tide_catalog::{
    inboxes::{Arrivals, inbox_create, inbox_store},
    messages::Message,
};
use tide_sandbox::{binaries, brokers::Nats, kafka::MockBroker, process::ProcessSpec};
use tokio::{net::TcpListener, task::JoinSet};
use uuid::Uuid;

use crate::{cost::Who, rig::Rig};

/// A sink that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum SinkKind {
    /// Takes everything and keeps nothing.
    Null,
    /// Lines of a file, each batch synchronised.
    File,
    /// One request a batch, to a receiver that reads and answers.
    Webhook,
    /// librdkafka's mock cluster, in a process of its own.
    Kafka,
    /// A stream of a NATS server.
    Nats,
    /// A table of the same database; the whole pipeline stores its position with the messages.
    PgInbox,
}

/// Where messages go: partitions, subjects and tables of this name.
const PLACE: &str = "bench_place";
/// What every message of a pipeline carries besides what is its own.
const OWN_HEADERS: [(&str, &str); 3] = [
    ("tide-group", "default"),
    ("tide-pipeline", PLACE),
    ("tide-epoch", "1"),
];
/// As many partitions as a small cluster's topic has.
const PARTITIONS: u16 = 6;

/// What a sink needs to be there.
pub(super) enum Destination {
    File(PathBuf),
    Webhook(
        String,
        #[expect(dead_code, reason = "it answers until it is dropped")] JoinSet<()>,
    ),
    Kafka(Box<MockBroker>),
    Nats(Box<Nats>),
    PgInbox(String),
}

impl SinkKind {
    pub(super) const ALL: [Self; 6] = [
        Self::Null,
        Self::File,
        Self::Webhook,
        Self::Kafka,
        Self::Nats,
        Self::PgInbox,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::File => "file",
            Self::Webhook => "webhook",
            Self::Kafka => "kafka",
            Self::Nats => "nats",
            Self::PgInbox => "pg-inbox",
        }
    }

    /// Starts what it needs; nothing for the null sink, which has no client.
    pub(super) async fn start(self, rig: &Rig) -> Result<Option<Destination>> {
        Ok(Some(match self {
            Self::Null => return Ok(None),
            Self::File => Destination::File(rig.scratch.path().join("bench.jsonl")),
            Self::Webhook => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let url = format!("http://{}/", listener.local_addr()?);
                let router = Router::new()
                    .route("/", post(async |_: Bytes| StatusCode::OK))
                    .layer(axum::extract::DefaultBodyLimit::disable());
                let mut server = JoinSet::new();
                server.spawn(async move {
                    // It ends with the measurement; a failure shows in the client.
                    drop(axum::serve(listener, router).await);
                });
                Destination::Webhook(url, server)
            }
            Self::Kafka => {
                let program = binaries::find("tide-mock-broker")
                    .context("build it with: cargo build --release -p tide-sandbox --bins")?;
                let topic = format!("{PLACE}:{PARTITIONS}");
                let spec = ProcessSpec {
                    args: vec![topic.into()],
                    ..ProcessSpec::new("broker", program, &rig.scratch)
                };
                let broker = MockBroker::spawn(spec).await?;
                Destination::Kafka(Box::new(broker))
            }
            Self::Nats => {
                let nats = Nats::start(&rig.scratch).await?;
                nats.create_stream(PLACE).await?;
                Destination::Nats(Box::new(nats))
            }
            Self::PgInbox => {
                let mut connection = rig.pool.acquire().await?;
                let inbox = format!("bench_{}", Uuid::now_v7().simple());
                inbox_create(&mut connection, &inbox, None).await?;
                Destination::PgInbox(inbox)
            }
        }))
    }
}

impl Destination {
    /// Of a pipeline that delivers here.
    pub(super) fn config(&self) -> Value {
        match self {
            Self::File(path) => json!({"sink_type": "file", "path": path}),
            Self::Webhook(url, _) => json!({
                "sink_type": "webhook", "url": url, "batch": true, "allow_networks": ["127.0.0.1"],
            }),
            Self::Kafka(broker) => {
                json!({"sink_type": "kafka", "brokers": broker.bootstrap(), "topic": PLACE})
            }
            Self::Nats(nats) => json!({"sink_type": "nats", "url": nats.url(), "subject": PLACE}),
            Self::PgInbox(inbox) => json!({"sink_type": "pg-inbox", "inbox": inbox}),
        }
    }

    /// The server's process, where it is neither this one nor the database.
    pub(super) fn process(&self) -> Option<Who> {
        match self {
            Self::File(_) | Self::Webhook(..) | Self::PgInbox(_) => None,
            Self::Kafka(broker) => Some(Who::Process(broker.pid())),
            Self::Nats(nats) => Some(Who::Process(nats.pid())),
        }
    }

    /// A client that sends these messages, as often as it is told to.
    pub(super) async fn client(&self, rig: &Rig, messages: &[Message]) -> Result<Client> {
        let bodies: Vec<Bytes> = messages.iter().map(body).collect::<Result<_>>()?;
        let way = match self {
            Self::File(path) => Way::File(File::create(path)?),
            Self::Webhook(url, _) => {
                // What agents choose, too.
                let client = reqwest::Client::builder().no_proxy();
                Way::Webhook(client.build()?, url.clone())
            }
            Self::Kafka(broker) => {
                let mut config = ClientConfig::new();
                config
                    .set("bootstrap.servers", broker.bootstrap())
                    .set("enable.idempotence", "true")
                    .set("acks", "all")
                    .set("linger.ms", "1");
                Way::Kafka(config.create()?)
            }
            Self::Nats(nats) => {
                let client = async_nats::connect(nats.url()).await?;
                Way::Nats(jetstream::new(client))
            }
            Self::PgInbox(inbox) => {
                Way::PgInbox(rig.pool.acquire().await?, format!("tide.inbox_{inbox}"))
            }
        };
        Ok(Client {
            way,
            bodies,
            messages: messages.to_vec(),
        })
    }
}

/// One that sends batches from memory.
pub(super) struct Client {
    way: Way,
    bodies: Vec<Bytes>,
    messages: Vec<Message>,
}

enum Way {
    File(File),
    Webhook(reqwest::Client, String),
    Kafka(FutureProducer),
    Nats(jetstream::Context),
    PgInbox(PoolConnection<Postgres>, String),
}

/// One batch must be confirmed within this.
const PATIENCE: Duration = Duration::from_mins(1);

impl Client {
    /// Sends a batch of at most so many, and waits until all of it is confirmed.
    pub(super) async fn send_batch(&mut self, most: usize) -> Result<usize> {
        let count = most.min(self.bodies.len());
        ensure!(count > 0, "nothing to send: more --rows than none, please");
        let bodies = &self.bodies[..count];
        match &mut self.way {
            Way::File(file) => {
                let mut lines = Vec::with_capacity(bodies.iter().map(|body| body.len() + 1).sum());
                for body in bodies {
                    lines.extend_from_slice(body);
                    lines.push(b'\n');
                }
                file.write_all(&lines)?;
                file.sync_data()?;
            }
            Way::Webhook(client, url) => {
                let mut array = vec![b'['];
                array.extend(bodies.join(&b','));
                array.push(b']');
                let request = client.post(&*url).timeout(PATIENCE).body(array);
                request.send().await?.error_for_status()?;
            }
            Way::Kafka(producer) => {
                let mut confirmations = Vec::with_capacity(count);
                for (message, body) in self.messages.iter().zip(bodies) {
                    let key = message.key.as_deref().unwrap_or_default();
                    let id = message.event_id.to_string();
                    let headers = OWN_HEADERS
                        .into_iter()
                        .chain([("tide-event-id", id.as_str())])
                        .fold(OwnedHeaders::new(), |headers, (key, value)| {
                            headers.insert(Header {
                                key,
                                value: Some(value),
                            })
                        });
                    let record = FutureRecord::to(PLACE)
                        .key(key)
                        .payload(&body[..])
                        .headers(headers);
                    let sent = producer.send_result(record);
                    confirmations.push(sent.map_err(|(error, _)| error)?);
                }
                for confirmed in try_join_all(confirmations).await? {
                    confirmed.map_err(|(error, _)| error)?;
                }
            }
            Way::Nats(stream) => {
                let mut confirmations = Vec::with_capacity(count);
                for (message, body) in self.messages.iter().zip(bodies) {
                    let mut headers = HeaderMap::new();
                    for (name, value) in OWN_HEADERS {
                        headers.insert(name, value);
                    }
                    // As often as they are sent, no message may look like one that was sent before.
                    let id = Uuid::new_v4().to_string();
                    headers.insert("tide-key", message.key.as_deref().unwrap_or_default());
                    headers.insert("tide-event-id", id.as_str());
                    headers.insert(NATS_MESSAGE_ID, format!("{id}/default/{PLACE}"));
                    let message = PublishMessage::build()
                        .headers(headers)
                        .payload(body.clone());
                    confirmations.push(stream.send_publish(PLACE, message).await?);
                }
                for confirmation in confirmations {
                    confirmation.await?;
                }
            }
            Way::PgInbox(connection, relation) => {
                let mut messages = self.messages[..count].to_vec();
                for message in &mut messages {
                    // As an outbox draws them. The index has them in no order.
                    message.event_id = Uuid::new_v4();
                }
                let headers = vec![json!(BTreeMap::from(OWN_HEADERS)).to_string(); count];
                let arrivals = Arrivals {
                    relation,
                    source: PLACE,
                    messages: &messages,
                    headers: &headers,
                };
                inbox_store(connection, &arrivals).await?;
            }
        }
        Ok(count)
    }
}

/// The envelope that a sink would make of a message, about.
fn body(message: &Message) -> Result<Bytes> {
    let payload: Value = serde_json::from_str(&message.payload)?;
    let envelope = json!({
        "event_id": message.event_id, "outbox": PLACE, "id": message.id, "key": message.key,
        "headers": BTreeMap::from(OWN_HEADERS),
        "payload": payload, "created_at": message.created_at.to_string(),
    });
    Ok(Bytes::from(serde_json::to_vec(&envelope)?))
}
