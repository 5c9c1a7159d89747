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

use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use bytes::Bytes;
use tide_model::sink_spec::NatsSpec;
use tokio::sync::OnceCell;

use self::{connection::Connection, message::Headers};
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
            headers: Headers::new(context),
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
    headers: Headers<'a>,
    /// What it means that nobody answered: of one subject the same for every message, so asked
    /// once.
    unanswered: OnceCell<SinkError>,
}

impl<'a> Attempt<'a> {
    /// Sends a message, and returns what ends with the stream's word.
    async fn publish(
        &'a self,
        batch: &'a Batch<'_>,
        index: usize,
    ) -> Result<impl Future<Output = Result<(), Vec<Failure>>> + 'a, Vec<Failure>> {
        let failed = move |error| vec![Failure { index, error }];
        let subject = batch.route(index).unwrap_or(&self.spec.subject);
        let sent = self.undisturbed((subject, batch.named()), self.send(batch, index));
        let acknowledgement = sent.await.map_err(failed)?;
        Ok(async move {
            let answer = self.answered((subject, batch.named()), acknowledgement);
            let answer = self.undisturbed((subject, batch.named()), answer);
            answer.await.map_err(failed)
        })
    }

    /// What comes of an act for a subject unless the connection is of no use any more before.
    async fn undisturbed<T>(
        &self,
        (subject, named): (&str, Named),
        act: impl Future<Output = Result<T, SinkError>>,
    ) -> Result<T, SinkError> {
        tokio::pin!(act);
        tokio::select! {
            // What is there already needs no look at anything else.
            biased;
            done = &mut act => done,
            trouble = self.connection.trouble() => {
                match judge::trouble(&trouble, subject, named) {
                    Some(error) => Err(error),
                    // The server complained about another message.
                    None => act.await,
                }
            }
        }
    }

    async fn send(&self, batch: &Batch<'_>, index: usize) -> Result<PublishAckFuture, SinkError> {
        let message = &batch.messages[index];
        let subject = batch.route(index).unwrap_or(&self.spec.subject);
        let body = envelope::body(self.context, message);
        let publish = self.headers.of(message).payload(Bytes::from(body));
        self.context.may_publish()?;
        let sent = self
            .connection
            .stream()
            .send_publish(subject.to_owned(), publish);
        match sent.await {
            Ok(acknowledgement) => Ok(acknowledgement),
            Err(error) => Err(self.refused((subject, batch.named()), &error).await),
        }
    }

    async fn answered(
        &self,
        destination: (&str, Named),
        acknowledgement: PublishAckFuture,
    ) -> Result<(), SinkError> {
        match acknowledgement.await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.refused(destination, &error).await),
        }
    }

    async fn refused(&self, (subject, named): (&str, Named), error: &PublishError) -> SinkError {
        if error.kind() != PublishErrorKind::StreamNotFound {
            return judge::refused(error);
        }
        // Boxed, so that the hundreds of answers that are waited for are not larger for it.
        let ask = || Box::pin(judge::unanswered(self.connection.stream(), subject, named));
        match named {
            Named::ByOwner => self.unanswered.get_or_init(ask).await.clone(),
            Named::ByMessage => ask().await,
        }
    }
}
