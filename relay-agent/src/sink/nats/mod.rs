//! NATS JetStream: every message is acknowledged by the stream that stores it, and carries an id by
//! which the stream drops what it has already.
//!
//! One stream may fail a message and store its successor, so of each key one message is on the
//! wire at a time (see [`lanes`]). The client is given up with its connection: one that connects
//! again by itself would still send what it had queued, long after somebody else has.

mod connection;
mod judge;
mod message;

use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use bytes::Bytes;
use tide_model::sink_spec::NatsSpec;
use tokio::sync::OnceCell;

use self::connection::Connection;
use super::{
    Batch, Context, Named, Sink, SinkError, envelope,
    lanes::{self, Ahead, Failure, Limits},
};

pub(crate) struct NatsSink {
    spec: NatsSpec,
    /// None after a failure.
    connection: Option<Connection>,
    ahead: Ahead,
}

/// A connection must be made within this, whatever a batch may take.
const CONNECT: Duration = Duration::from_secs(5);

impl Sink for NatsSink {
    const KIND: &'static str = "nats";
    type Settings = NatsSpec;

    async fn prepare(spec: &NatsSpec) -> Result<Option<Self>, SinkError> {
        Self::connected(spec).await.map(Some)
    }

    async fn open(spec: &NatsSpec, _: &Context) -> Result<Self, SinkError> {
        Self::connected(spec).await
    }

    async fn deliver(&mut self, context: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
        // Not put back unless all goes well, so that a delivery that is dropped leaves no client
        // with something in its queue.
        let connection = match self.connection.take().filter(Connection::is_sound) {
            Some(connection) => connection,
            None => Connection::open(&self.spec).await?,
        };
        let attempt = Attempt {
            connection: &connection,
            spec: &self.spec,
            context,
            unanswered: OnceCell::new(),
        };
        let limits = Limits {
            width: lanes::WIDTH,
            timeout: self.spec.timeout,
        };
        let outcome = lanes::deliver(batch, &mut self.ahead, limits, |index| {
            attempt.publish(batch, index)
        })
        .await;
        if !matches!(outcome, Err(SinkError::Transient { .. })) {
            self.connection = Some(connection);
        }
        outcome
    }
}

impl NatsSink {
    async fn connected(spec: &NatsSpec) -> Result<Self, SinkError> {
        Ok(Self {
            spec: spec.clone(),
            connection: Some(Connection::open(spec).await?),
            ahead: Ahead::default(),
        })
    }
}

/// One batch on its way.
struct Attempt<'a> {
    connection: &'a Connection,
    spec: &'a NatsSpec,
    context: &'a Context,
    /// What it means that nobody answered: of one subject the same for every message, so asked
    /// once.
    unanswered: OnceCell<SinkError>,
}

impl Attempt<'_> {
    async fn publish(&self, batch: &Batch<'_>, index: usize) -> Result<(), Vec<Failure>> {
        let subject = batch.route(index).unwrap_or(&self.spec.subject);
        let answer = self.send(batch, index);
        tokio::pin!(answer);
        let sent = tokio::select! {
            biased;
            trouble = self.connection.trouble() => {
                match judge::trouble(&trouble, subject, batch.named()) {
                    Some(error) => Err(error),
                    // The server complained about another message.
                    None => answer.await,
                }
            }
            sent = &mut answer => sent,
        };
        sent.map_err(|error| vec![Failure { index, error }])
    }

    async fn send(&self, batch: &Batch<'_>, index: usize) -> Result<(), SinkError> {
        let message = &batch.messages[index];
        let subject = batch.route(index).unwrap_or(&self.spec.subject);
        let body = envelope::body(self.context, message);
        let publish = message::with_headers(self.context, message).payload(Bytes::from(body));
        self.context.may_publish()?;
        let stream = self.connection.stream();
        let acknowledgement = match stream.send_publish(subject.to_owned(), publish).await {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        let Err(error) = acknowledgement else {
            return Ok(());
        };
        if error.kind() == PublishErrorKind::StreamNotFound {
            let stream = self.connection.stream();
            let ask = || judge::unanswered(stream, subject, batch.named());
            return Err(match batch.named() {
                Named::ByOwner => self.unanswered.get_or_init(ask).await.clone(),
                Named::ByMessage => ask().await,
            });
        }
        Err(judge::refused(&error))
    }
}
