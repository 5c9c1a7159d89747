//! What changes: streamed by a control plane, or looked up again and again in the database.

use std::{pin::Pin, time::Duration};

use tide_model::{OperationId, fleet::FleetView};
use tide_proto::fleet::v1::{
    WatchFleetResponse, WatchOperationResponse, watch_fleet_response::Event,
};
use tokio::time::{Instant, sleep_until};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::{Database, OperationView, control_plane::operation_view, refusal};
use crate::error::CliError;

/// How often the database is asked for the fleet.
const FLEET_POLL: Duration = Duration::from_secs(2);
/// How often the database is asked for an operation.
const OPERATION_POLL: Duration = Duration::from_millis(300);

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The fleet, again and again.
pub struct FleetWatch<'a>(Fleets<'a>);

enum Fleets<'a> {
    Stream {
        messages: Messages<WatchFleetResponse>,
        server: &'a str,
        view: Option<FleetView>,
    },
    Poll {
        database: &'a mut Database,
        next: Instant,
    },
}

impl<'a> FleetWatch<'a> {
    pub(super) fn stream(
        messages: impl Stream<Item = Result<WatchFleetResponse, Status>> + Send + 'static,
        server: &'a str,
    ) -> Self {
        Self(Fleets::Stream {
            messages: Box::pin(messages),
            server,
            view: None,
        })
    }

    pub(super) fn poll(database: &'a mut Database) -> Self {
        let next = Instant::now();
        Self(Fleets::Poll { database, next })
    }

    /// The fleet as it is now: at once the first time, then when there is something new to see.
    pub async fn next(&mut self) -> Result<FleetView, CliError> {
        match &mut self.0 {
            Fleets::Stream {
                messages,
                server,
                view,
            } => loop {
                let message = received(messages, server).await?;
                let whole = is_whole(&message);
                let after = match (message.event, view.as_ref()) {
                    (Some(Event::Snapshot(fleet)), _) => FleetView::try_from(fleet)?,
                    (Some(Event::Delta(delta)), Some(before)) => delta.apply(before)?,
                    // Kinds of events that this version does not know, and differences to what
                    // was never sent, change nothing that can be shown.
                    (None, _) | (Some(Event::Delta(_)), None) => continue,
                };
                let after = view.insert(after);
                if whole {
                    return Ok(after.clone());
                }
            },
            Fleets::Poll { database, next } => {
                sleep_until(*next).await;
                let fleet = database.fleet().await?;
                *next = Instant::now() + FLEET_POLL;
                Ok(fleet)
            }
        }
    }
}

/// Whether a view is complete with this message. A control plane that sends large fleets in parts says
/// of every part how much of the fleet it covers, and gives a token with the last one.
fn is_whole(message: &WatchFleetResponse) -> bool {
    let in_parts = match &message.event {
        Some(Event::Snapshot(fleet)) => fleet.coverage.is_some(),
        Some(Event::Delta(delta)) => delta.coverage.is_some(),
        None => false,
    };
    !in_parts || !message.resume_token.is_empty()
}

/// One operation, again and again.
pub struct OperationWatch<'a>(Operations<'a>);

enum Operations<'a> {
    Stream {
        messages: Messages<WatchOperationResponse>,
        server: &'a str,
    },
    Poll {
        database: &'a mut Database,
        id: OperationId,
        next: Instant,
    },
}

impl<'a> OperationWatch<'a> {
    pub(super) fn stream(
        messages: impl Stream<Item = Result<WatchOperationResponse, Status>> + Send + 'static,
        server: &'a str,
    ) -> Self {
        Self(Operations::Stream {
            messages: Box::pin(messages),
            server,
        })
    }

    pub(super) fn poll(database: &'a mut Database, id: OperationId) -> Self {
        let next = Instant::now();
        Self(Operations::Poll { database, id, next })
    }

    /// The operation as it is now: at once the first time, then when it may have changed.
    pub async fn next(&mut self) -> Result<OperationView, CliError> {
        match &mut self.0 {
            Operations::Stream { messages, server } => {
                let message = received(messages, server).await?;
                operation_view(message.operation, message.steps)
            }
            Operations::Poll { database, id, next } => {
                sleep_until(*next).await;
                let view = database.operation(*id).await?;
                *next = Instant::now() + OPERATION_POLL;
                Ok(view)
            }
        }
    }
}

/// The next message. A stream that ends has not ended what it was about.
async fn received<T>(messages: &mut Messages<T>, server: &str) -> Result<T, CliError> {
    match messages.next().await {
        Some(Ok(message)) => Ok(message),
        Some(Err(status)) => Err(refusal::from_status(server, &status)),
        None => Err(CliError::Unreachable {
            server: server.to_owned(),
            reason: "it closed the stream".to_owned(),
            hint: None,
            leader: None,
        }),
    }
}
