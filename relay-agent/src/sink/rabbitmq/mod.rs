//! RabbitMQ by AMQP 0-9-1: persistent, mandatory, confirmed.
//!
//! A queue may refuse a message and take its successor, so of each key one message is on the wire
//! at a time (see [`lanes`]). RabbitMQ knows no duplicates: consumers have the `message_id`.

mod connection;
mod judge;
mod message;

use std::time::Duration;

use lapin::{Confirmation, PublisherConfirm, options::BasicPublishOptions};
use tide_model::sink_spec::RabbitmqSpec;

use self::connection::Connection;
use super::{
    Batch, Context, Named, Sink, SinkError, envelope,
    lanes::{self, Ahead, Failure, Limits},
    secret,
};

pub(crate) struct RabbitmqSink {
    spec: RabbitmqSpec,
    /// None after a failure.
    connection: Option<Connection>,
    ahead: Ahead,
}

/// A connection must be made within this, whatever a batch may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Taking leave may take so long.
const CLOSE: Duration = Duration::from_millis(500);

impl Sink for RabbitmqSink {
    const KIND: &'static str = "rabbitmq";
    type Settings = RabbitmqSpec;

    async fn prepare(spec: &RabbitmqSpec) -> Result<Option<Self>, SinkError> {
        Self::connected(spec).await.map(Some)
    }

    async fn open(spec: &RabbitmqSpec, _: &Context) -> Result<Self, SinkError> {
        Self::connected(spec).await
    }

    async fn deliver(&mut self, context: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
        let connection = match self.connection.take().filter(Connection::is_sound) {
            Some(connection) => connection,
            None => Connection::open(&self.spec).await?,
        };
        // A message that is too large ends the channel for all that were on the wire with it, and
        // the broker does not say which one that was. One by one it is plain.
        let (connection, outcome) = match self
            .publish_all(&connection, context, batch, lanes::WIDTH)
            .await
        {
            Err(SinkError::Rejected { .. }) => {
                let again = Connection::open(&self.spec).await?;
                let outcome = self.publish_all(&again, context, batch, 1).await;
                (again, outcome)
            }
            outcome => (connection, outcome),
        };
        // Not put back unless all went well, nor if this future is dropped: the broker ends the
        // channel over most errors.
        if outcome.is_ok() {
            self.connection = Some(connection);
        }
        outcome
    }

    async fn close(self) {
        if let Some(connection) = self.connection {
            connection.close().await;
        }
    }
}

impl RabbitmqSink {
    async fn connected(spec: &RabbitmqSpec) -> Result<Self, SinkError> {
        Ok(Self {
            spec: spec.clone(),
            connection: Some(Connection::open(spec).await?),
            ahead: Ahead::default(),
        })
    }

    /// Publishes a batch with so many messages on the wire at most.
    async fn publish_all(
        &mut self,
        connection: &Connection,
        context: &Context,
        batch: &Batch<'_>,
        width: usize,
    ) -> Result<(), SinkError> {
        let attempt = Attempt {
            connection,
            spec: &self.spec,
            context,
            batch,
        };
        let limits = Limits {
            width,
            timeout: self.spec.timeout,
        };
        let delivered = lanes::deliver(batch, &mut self.ahead, limits, |index| {
            attempt.publish(index)
        })
        .await;
        delivered.map_err(|error| judge::explained(error, connection.is_blocked()))
    }
}

/// One batch on its way.
struct Attempt<'a> {
    connection: &'a Connection,
    spec: &'a RabbitmqSpec,
    context: &'a Context,
    batch: &'a Batch<'a>,
}

impl Attempt<'_> {
    /// Sends a message, and returns what ends with the broker's word.
    async fn publish(
        &self,
        index: usize,
    ) -> Result<impl Future<Output = Result<(), Vec<Failure>>>, Vec<Failure>> {
        let sent = self.send(index).await;
        let refused = move |error| vec![Failure { index, error }];
        let confirm = sent.map_err(refused)?;
        Ok(async move {
            let confirmed = confirm.await;
            let confirmed = confirmed.map_err(|error| judge::refused(&error, self.spec));
            self.judged(index, confirmed.map_err(refused)?)
        })
    }

    fn judged(&self, index: usize, confirmation: Confirmation) -> Result<(), Vec<Failure>> {
        let own = |error| Failure { index, error };
        let mut failures = Vec::new();
        if confirmation.is_nack() {
            failures.push(own(SinkError::transient(
                "the broker did not take the message: its queue is full, or failed",
            )));
        }
        if let Some(returned) = confirmation.take_message() {
            // The client hands what came back to whoever is confirmed next, which need not be its
            // publisher.
            let id = returned.delivery.properties.message_id().clone();
            let whose = id.and_then(|id| self.index_of(id.as_str()));
            failures.push(Failure {
                index: whose.unwrap_or(index),
                error: judge::unroutable(&returned, self.spec, self.batch.named()),
            });
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures)
        }
    }

    async fn send(&self, index: usize) -> Result<PublisherConfirm, SinkError> {
        let message = &self.batch.messages[index];
        let body = envelope::body(self.context, message);
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        self.context.may_publish()?;
        let published = self.connection.channel().basic_publish(
            self.spec.exchange.as_str().into(),
            self.batch
                .route(index)
                .unwrap_or(&self.spec.routing_key)
                .into(),
            options,
            &body,
            message::properties(self.context, message),
        );
        published
            .await
            .map_err(|error| judge::refused(&error, self.spec))
    }

    fn index_of(&self, id: &str) -> Option<usize> {
        let messages = self.batch.messages.iter();
        let mut ids = messages.map(|message| message.event_id.to_string());
        ids.position(|other| other == id)
    }
}
