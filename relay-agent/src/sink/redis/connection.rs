//! One connection to one Redis.

use std::collections::HashMap;

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo as _, RedisResult, ScriptInvocation,
    aio::MultiplexedConnection,
};
use tide_model::sink_spec::RedisSpec;
use tokio::time::timeout;

use super::{CONNECT, SinkError, judge, secret};

/// The limit that servers have unless configured otherwise.
const USUAL_LARGEST: usize = 512 << 20;
/// Its name there.
const LARGEST: &str = "proto-max-bulk-len";

pub(super) struct Connection {
    connection: MultiplexedConnection,
    largest: usize,
}

impl Connection {
    /// Connects, logs in and asks what the server takes.
    pub(super) async fn open(spec: &RedisSpec) -> Result<Self, SinkError> {
        let opened = timeout(CONNECT, Self::open_without_end(spec));
        opened.await.unwrap_or_else(|_| {
            Err(SinkError::unreachable(format!(
                "{}: no connection within {CONNECT:?}",
                spec.url
            )))
        })
    }

    async fn open_without_end(spec: &RedisSpec) -> Result<Self, SinkError> {
        let unconnected = |error| judge::unconnected(&error, &spec.url);
        let info = spec
            .url
            .as_str()
            .into_connection_info()
            .map_err(|error| SinkError::misconfigured(format!("url: {}: {error}", spec.url)))?;
        let mut settings = info.redis_settings().clone();
        if let Some(login) = &spec.login {
            if let Some(username) = &login.username {
                settings = settings.set_username(secret::resolve("username", username)?);
            }
            settings = settings.set_password(secret::resolve("password", &login.password)?);
        }
        let client = Client::open(info.set_redis_settings(settings)).map_err(unconnected)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            // The batch has a deadline of its own.
            .set_response_timeout(None);
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(unconnected)?;
        let largest = largest(&mut connection).await;
        Ok(Self {
            connection,
            largest,
        })
    }

    /// The largest value that the server takes. It hangs up on what is larger, without saying which
    /// message that was.
    pub(super) fn largest(&self) -> usize {
        self.largest
    }

    pub(super) async fn invoke(&mut self, call: &ScriptInvocation<'_>) -> RedisResult<u64> {
        call.invoke_async(&mut self.connection).await
    }
}

async fn largest(connection: &mut MultiplexedConnection) -> usize {
    let asked: RedisResult<HashMap<String, String>> = redis::cmd("CONFIG")
        .arg("GET")
        .arg(LARGEST)
        .query_async(connection)
        .await;
    // Not everybody may ask, and hosted servers do not answer.
    asked
        .ok()
        .and_then(|answer| answer.get(LARGEST)?.parse().ok())
        .unwrap_or(USUAL_LARGEST)
}
