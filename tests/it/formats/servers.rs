//! One server of each kind, and what they hold.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tide_sandbox::{
    brokers::{Held, Nats, RabbitMq, Redis, RedisOptions},
    http::Receiver,
    kafka::{self, MockKafka, Topic},
    leftovers::Scratch,
};
use tide_tests::{Fleet, SOON};

/// Running servers; dropping them ends them.
pub(super) struct Servers {
    kafka: MockKafka,
    nats: Nats,
    rabbitmq: RabbitMq,
    redis: Redis,
    receiver: Receiver,
    _scratch: Scratch,
}

impl Servers {
    /// Starts them; places that Kafka is to have must be known then.
    pub(super) async fn start<const N: usize>(places: [&str; N]) -> Result<Self> {
        let scratch = Scratch::create("formats").await?;
        let (rabbitmq, nats, redis) = tokio::join!(
            RabbitMq::start(&scratch, ""),
            Nats::start(&scratch),
            Redis::start(&scratch, RedisOptions::default())
        );
        Ok(Self {
            kafka: MockKafka::start(&places.map(|place| Topic::new(place, 1)))?,
            nats: nats?,
            rabbitmq: rabbitmq?,
            redis: redis?,
            receiver: Receiver::start().await?,
            _scratch: scratch,
        })
    }

    /// Makes a place of this name wherever it does not make itself.
    pub(super) async fn create(&self, place: &str) -> Result<()> {
        self.nats.create_stream(place).await?;
        Ok(self.rabbitmq.declare_queue(place).await?)
    }

    /// The endpoint of the webhooks.
    pub(super) fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Of each kind of sink a configuration for a place of this name.
    pub(super) fn configs(&self, fleet: &Fleet, place: &str) -> Vec<(&'static str, Value)> {
        vec![
            ("file", json!({"path": fleet.file(place)})),
            (
                "webhook",
                json!({"url": self.receiver.url(&path(place)), "allow_networks": ["127.0.0.1"]}),
            ),
            (
                "kafka",
                json!({"brokers": self.kafka.bootstrap(), "topic": place}),
            ),
            ("nats", json!({"url": self.nats.url(), "subject": place})),
            ("redis", json!({"url": self.redis.url(), "stream": place})),
            (
                "rabbitmq",
                json!({"url": self.rabbitmq.url(), "queue": place}),
            ),
        ]
    }

    /// What a place of a kind of sink holds.
    pub(super) async fn held(
        &self,
        fleet: &Fleet,
        (kind, place): (&str, &str),
        count: usize,
    ) -> Result<Vec<Held>> {
        Ok(match kind {
            "file" => std::fs::read_to_string(fleet.file(place))?
                .lines()
                .map(|line| Held {
                    body: line.as_bytes().to_vec(),
                    headers: BTreeMap::new(),
                    event_id: String::new(),
                    key: None,
                })
                .collect(),
            "webhook" => self.requests(&path(place)),
            "kafka" => kafka::held(&self.kafka.bootstrap(), place, count, SOON).await?,
            "nats" => self.nats.held(place).await?,
            "redis" => self.redis.held(place).await?,
            "rabbitmq" => self.rabbitmq.held(place).await?,
            other => return Err(anyhow::anyhow!("no server for {other}")).context("a test's own"),
        })
    }

    fn requests(&self, path: &str) -> Vec<Held> {
        // What depends on the machine and on the client is nobody's promise.
        let kept = |name: &&String| {
            name.starts_with("ce-")
                || name.starts_with("tide-")
                || matches!(name.as_str(), "content-type" | "webhook-id")
        };
        self.receiver.inspect(|requests| {
            let ours = requests.iter().filter(|request| request.path == path);
            ours.map(|request| Held {
                body: request.body.clone(),
                headers: request
                    .headers
                    .iter()
                    .filter(|(name, _)| kept(name))
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
                event_id: request
                    .headers
                    .get("webhook-id")
                    .cloned()
                    .unwrap_or_default(),
                key: None,
            })
            .collect()
        })
    }
}

fn path(place: &str) -> String {
    format!("/{place}")
}
