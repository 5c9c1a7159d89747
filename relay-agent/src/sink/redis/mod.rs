//! Redis Streams: a script appends many messages at once, whole and in order, and none that it has
//! appended within the duplicate window.
//!
//! Redis has no memory of its own for that, so the script keeps one beside the stream: the ids of
//! the pipeline's last events. Entry ids cannot serve, because they must rise and a message of a
//! transaction that commits late has a lower id than what was delivered before it.

mod chunk;
mod connection;
mod judge;

use std::{sync::LazyLock, time::Duration};

use redis::Script;
use tide_model::sink_spec::RedisSpec;
use tokio::time::{Instant, timeout_at};

use self::{
    chunk::{Chunk, memory_key},
    connection::Connection,
};
use super::{Batch, Context, Named, Sink, SinkError, envelope, secret};

pub(crate) struct RedisSink {
    spec: RedisSpec,
    /// None after a failure, so that no answer is taken for that to another question.
    connection: Option<Connection>,
}

/// A connection must be made within this, whatever a batch may take.
const CONNECT: Duration = Duration::from_secs(5);
/// So many events are remembered, which is more than any crash leaves in doubt, in about 2 MB.
const REMEMBERED: usize = 20_000;

static APPEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("append.lua")));

impl Sink for RedisSink {
    const KIND: &'static str = "redis";
    type Settings = RedisSpec;

    async fn prepare(spec: &RedisSpec) -> Result<Option<Self>, SinkError> {
        Self::connected(spec).await.map(Some)
    }

    async fn open(spec: &RedisSpec, _: &Context) -> Result<Self, SinkError> {
        Self::connected(spec).await
    }

    async fn deliver(&mut self, context: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
        // Not put back unless all goes well, nor if this future is dropped.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.spec).await?,
        };
        let outcome = self.append(&mut connection, context, batch).await;
        if !matches!(outcome, Err(SinkError::Transient { .. })) {
            self.connection = Some(connection);
        }
        outcome
    }
}

impl RedisSink {
    async fn connected(spec: &RedisSpec) -> Result<Self, SinkError> {
        Ok(Self {
            spec: spec.clone(),
            connection: Some(Connection::open(spec).await?),
        })
    }

    /// Appends chunk by chunk: each is appended whole or not at all, as far as Redis can tell.
    async fn append(
        &self,
        connection: &mut Connection,
        context: &Context,
        batch: &Batch<'_>,
    ) -> Result<(), SinkError> {
        let deadline = Instant::now() + self.spec.timeout;
        let mut delivered = 0;
        while delivered < batch.messages.len() {
            // One call appends to one stream.
            let stream = batch.route(delivered).unwrap_or(&self.spec.stream);
            let routes = batch.routes.iter().skip(delivered);
            let run = match batch.named() {
                Named::ByOwner => batch.messages.len() - delivered,
                Named::ByMessage => routes.take_while(|route| *route == stream).count(),
            };
            let run = &batch.messages[delivered..delivered + run];
            let chunk = Chunk::cut(context, run, connection.largest())
                .map_err(|error| error.after(delivered))?;
            let call = self.call(context, stream, &chunk);
            context
                .may_publish()
                .map_err(|error| error.after(delivered))?;
            let answer = timeout_at(deadline, connection.invoke(&call)).await;
            let judged = match answer {
                Ok(answer) => answer.map_err(|error| judge::refused(&error, stream, batch.named())),
                Err(_) => Err(SinkError::transient(format!(
                    "not answered within {:?}",
                    self.spec.timeout
                ))),
            };
            judged.map_err(|error| error.after(delivered))?;
            delivered += chunk.messages;
            batch.progress.reached(delivered);
        }
        Ok(())
    }

    fn call(
        &self,
        context: &Context,
        stream: &str,
        chunk: &Chunk,
    ) -> redis::ScriptInvocation<'static> {
        let mut call = APPEND.prepare_invoke();
        call.key(stream)
            .key(memory_key(stream, context))
            .arg(self.spec.duplicate_window.as_micros() as u64)
            .arg(REMEMBERED)
            .arg(self.spec.max_length.unwrap_or(0));
        for argument in &chunk.arguments {
            call.arg(argument.as_slice());
        }
        call
    }
}
