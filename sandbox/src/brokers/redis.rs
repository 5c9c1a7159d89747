//! Redis.

use std::{collections::BTreeMap, time::Duration};

use ::redis::{Client, FromRedisValue, RedisResult, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::{Broker, BrokerError, readback, reserve};
use crate::{envelope::Delivery, leftovers::Scratch};

const PROGRAM: &str = "/usr/bin/redis-server";
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server is started with.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// Clients must know it.
    pub password: Option<String>,
    /// Further arguments, `--maxmemory 1mb` say.
    pub arguments: Vec<String>,
}

/// A running server, which writes everything to disk before it answers; dropping it kills it.
#[derive(Debug)]
pub struct Redis {
    broker: Broker,
    password: Option<String>,
}

type Entry = (String, Vec<Vec<u8>>);

impl Redis {
    /// Starts a server.
    pub async fn start(scratch: &Scratch, options: RedisOptions) -> Result<Self, BrokerError> {
        let port = reserve()?;
        let directory = scratch.directory("redis").map_err(BrokerError::Directory)?;
        let mut arguments: Vec<String> = ["--bind", "127.0.0.1", "--port"]
            .map(ToOwned::to_owned)
            .into();
        arguments.push(port.number().to_string());
        arguments.extend(["--dir".to_owned(), directory.display().to_string()]);
        arguments.extend(
            [
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ]
            .map(ToOwned::to_owned),
        );
        if let Some(password) = &options.password {
            arguments.extend(["--requirepass".to_owned(), password.clone()]);
        }
        arguments.extend(options.arguments);
        let broker = Broker::start(
            PROGRAM,
            "redis-server",
            scratch,
            port,
            arguments,
            Vec::new(),
        )?;
        let mut redis = Self {
            broker,
            password: options.password,
        };
        redis.answering().await?;
        Ok(redis)
    }

    /// For `url` of a pipeline.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.broker.port())
    }

    /// Its process.
    pub fn broker(&mut self) -> &mut Broker {
        &mut self.broker
    }

    /// Kills it and starts it again.
    pub async fn restart(&mut self) -> Result<(), BrokerError> {
        self.broker.kill().await?;
        self.broker.start_again()?;
        self.answering().await
    }

    /// Runs a command.
    pub async fn command<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, BrokerError> {
        let mut connection = connect(&self.url(), self.password.as_deref()).await?;
        let mut command = ::redis::cmd(words.first().unwrap_or(&"PING"));
        for word in words.iter().skip(1) {
            command.arg(word);
        }
        let answer: RedisResult<T> = command.query_async(&mut connection).await;
        answer.map_err(BrokerError::ask("a command"))
    }

    /// What a stream holds, as Tide's envelopes.
    pub async fn deliveries(&self, stream: &str) -> Result<Vec<Delivery>, BrokerError> {
        readback::deliveries(stream, self.held(stream).await?)
    }

    /// What a stream holds.
    pub async fn held(&self, stream: &str) -> Result<Vec<readback::Held>, BrokerError> {
        let entries: Vec<Entry> = self.command(&["XRANGE", stream, "-", "+"]).await?;
        let held = entries.into_iter().map(|(_, fields)| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let mut headers: BTreeMap<String, String> = fields
                .chunks_exact(2)
                .map(|pair| (text(&pair[0]), text(&pair[1])))
                .collect();
            readback::Held {
                body: ["envelope", "payload"]
                    .iter()
                    .find_map(|name| headers.remove(*name))
                    .unwrap_or_default()
                    .into_bytes(),
                event_id: headers.remove("event_id").unwrap_or_default(),
                key: headers.remove("key"),
                headers,
            }
        });
        Ok(held.collect())
    }

    async fn answering(&mut self) -> Result<(), BrokerError> {
        let (url, password) = (self.url(), self.password.clone());
        self.broker
            .answering(async || {
                let mut connection = connect(&url, password.as_deref()).await?;
                let pong: RedisResult<String> =
                    ::redis::cmd("PING").query_async(&mut connection).await;
                pong.map(drop).map_err(BrokerError::ask("a ping"))
            })
            .await
    }
}

async fn connect(url: &str, password: Option<&str>) -> Result<MultiplexedConnection, BrokerError> {
    use ::redis::IntoConnectionInfo as _;
    let mut info = url
        .into_connection_info()
        .map_err(BrokerError::ask("reading the address"))?;
    if let Some(password) = password {
        let settings = info.redis_settings().clone().set_password(password);
        info = info.set_redis_settings(settings);
    }
    let client = Client::open(info).map_err(BrokerError::ask("reading the address"))?;
    let config = ::redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    timeout(
        PATIENCE,
        client.get_multiplexed_async_connection_with_config(&config),
    )
    .await
    .map_err(BrokerError::ask("connecting"))?
    .map_err(BrokerError::ask("connecting"))
}
