//! Where messages go: validated settings of each sink, no clients.

mod brokers;
mod file;
mod webhook;

use std::{collections::BTreeMap, time::Duration};

pub use self::{
    brokers::{Login, NatsLogin, NatsSpec, RabbitmqSpec, RedisSpec},
    file::{Compression, FileSpec, Rotation},
    webhook::{ClientCertificate, OAuth2Spec, WebhookAuthentication, WebhookSpec},
};
use crate::{Shard, SpecError, fields::Fields, format::Carrier};

/// Settings of one sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkSpec {
    /// JSON lines on standard output.
    Stdout,
    /// JSON lines appended to a file.
    File(FileSpec),
    /// HTTP POST.
    Webhook(WebhookSpec),
    /// Apache Kafka protocol.
    Kafka {
        /// `host:port,…`
        brokers: String,
        /// The topic.
        topic: String,
        /// One batch must be acknowledged within this.
        timeout: Duration,
        /// Further librdkafka properties; values may hold `${env:NAME}` and `${file:PATH}`.
        properties: BTreeMap<String, String>,
    },
    /// NATS JetStream.
    Nats(NatsSpec),
    /// Redis Streams.
    Redis(RedisSpec),
    /// RabbitMQ, by AMQP 0-9-1.
    Rabbitmq(RabbitmqSpec),
    /// An inbox in PostgreSQL.
    PgInbox {
        /// Its name.
        inbox: String,
        /// Where it is; in the outbox's own database if absent. May hold `${env:NAME}` and
        /// `${file:PATH}`, and no password in plain text.
        postgres_url: Option<String>,
        /// One batch must be stored within this.
        timeout: Duration,
    },
    /// Counts and discards.
    Null,
}

/// Producer properties that would break Tide's order or delivery promise.
const RESERVED_PROPERTIES: [&str; 6] = [
    "acks",
    "bootstrap.servers",
    "enable.idempotence",
    "message.timeout.ms",
    "request.required.acks",
    "transactional.id",
];

impl SinkSpec {
    /// The sink of one shard: see [`FileSpec::for_shard`]; of any other kind the same.
    #[must_use]
    pub fn for_shard(&self, shard: Option<Shard>) -> Self {
        match self {
            Self::File(spec) => Self::File(spec.for_shard(shard)),
            other => other.clone(),
        }
    }

    pub(crate) fn parse(fields: &mut Fields) -> Result<Self, SpecError> {
        #[derive(Clone, Copy)]
        enum Kind {
            Stdout,
            File,
            Webhook,
            Kafka,
            Nats,
            Redis,
            Rabbitmq,
            PgInbox,
            Null,
        }
        let kind = fields
            .choice(
                "sink_type",
                &[
                    ("stdout", Kind::Stdout),
                    ("file", Kind::File),
                    ("webhook", Kind::Webhook),
                    ("kafka", Kind::Kafka),
                    ("nats", Kind::Nats),
                    ("redis", Kind::Redis),
                    ("rabbitmq", Kind::Rabbitmq),
                    ("pg-inbox", Kind::PgInbox),
                    ("null", Kind::Null),
                ],
            )?
            .ok_or_else(|| {
                SpecError::new("sink_type", "is missing")
                    .hint("for example \"sink_type\": \"kafka\"")
            })?;
        Ok(match kind {
            Kind::Stdout => Self::Stdout,
            Kind::Null => Self::Null,
            Kind::File => Self::File(FileSpec::parse(fields)?),
            Kind::Webhook => Self::Webhook(WebhookSpec::parse(fields)?),
            Kind::Nats => Self::Nats(NatsSpec::parse(fields)?),
            Kind::Redis => Self::Redis(RedisSpec::parse(fields)?),
            Kind::Rabbitmq => Self::Rabbitmq(RabbitmqSpec::parse(fields)?),
            Kind::Kafka => {
                let brokers = fields.required_text("brokers", "kafka:9092")?;
                let topic = fields.required_text("topic", "orders")?;
                let properties = fields.text_map("properties")?;
                if let Some(name) = properties
                    .keys()
                    .find(|name| RESERVED_PROPERTIES.contains(&name.as_str()))
                {
                    return Err(
                        SpecError::new(format!("properties.{name}"), "is set by Tide")
                            .hint("order and delivery depend on it; leave it out"),
                    );
                }
                Self::Kafka {
                    brokers,
                    topic,
                    timeout: timeout(fields)?,
                    properties,
                }
            }
            Kind::PgInbox => {
                let inbox = fields.required_text("inbox", "orders")?;
                let postgres_url = fields.text("postgres_url")?;
                if let Some(url) = &postgres_url {
                    check_postgres_url(url)?;
                }
                Self::PgInbox {
                    inbox,
                    postgres_url,
                    timeout: timeout(fields)?,
                }
            }
        })
    }

    /// What carries the headers of a message there.
    pub fn carrier(&self) -> Carrier {
        match self {
            Self::Webhook(_) => Carrier::Http,
            Self::Kafka { .. } => Carrier::Kafka,
            Self::Nats(_) => Carrier::Nats,
            Self::Rabbitmq(_) => Carrier::Amqp,
            Self::Redis(_) => Carrier::Redis,
            Self::Stdout | Self::File(_) | Self::PgInbox { .. } | Self::Null => Carrier::Lines,
        }
    }

    /// The word in `sink_type`, in metrics and on the screen.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::File(_) => "file",
            Self::Webhook(_) => "webhook",
            Self::Kafka { .. } => "kafka",
            Self::Nats(_) => "nats",
            Self::Redis(_) => "redis",
            Self::Rabbitmq(_) => "rabbitmq",
            Self::PgInbox { .. } => "pg-inbox",
            Self::Null => "null",
        }
    }
}

/// Configurations are shown to whoever may list pipelines, so they hold no secret. The URL is not
/// repeated: what is wrong with it may be the secret.
fn check_postgres_url(url: &str) -> Result<(), SpecError> {
    const KEY: &str = "postgres_url";
    if url.starts_with("${") {
        return Ok(());
    }
    let rest = ["postgres://", "postgresql://"]
        .into_iter()
        .find_map(|scheme| url.strip_prefix(scheme))
        .ok_or_else(|| {
            SpecError::new(KEY, "is no PostgreSQL URL").hint(
                "postgres://USER:${env:PASSWORD}@HOST:PORT/DATABASE, or ${env:NAME} for all of it",
            )
        })?;
    // What is looked up elsewhere is no secret of this text.
    let mut plain = rest.to_owned();
    while let Some((start, length)) = plain
        .find("${")
        .and_then(|start| Some((start, plain[start..].find('}')?)))
    {
        plain.replace_range(start..=start + length, "");
    }
    let (authority, query) = plain.split_once('?').unwrap_or((&plain, ""));
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let password = user.split_once(':').map_or("", |(_, password)| password);
    let in_query = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("password="));
    if [password, in_query.unwrap_or_default()]
        .iter()
        .any(|secret| !secret.is_empty() && !secret.starts_with("${"))
    {
        return Err(SpecError::new(KEY, "holds a password in plain text")
            .hint("write it as ${env:NAME} or ${file:PATH}"));
    }
    Ok(())
}

fn timeout(fields: &mut Fields) -> Result<Duration, SpecError> {
    let millis = fields.number("timeout_ms", 1, 600_000)?.unwrap_or(30_000);
    Ok(Duration::from_millis(millis))
}
