//! What passes between the hub and one agent's stream.

use std::time::Duration;

use tide_model::report::{AgentIdentity, OwnershipDigest, ReportMessage};
use tokio::sync::mpsc;

use super::{Stopping, state::StreamId};

/// What waits for one agent: one welcome, one request for a snapshot, one nudge, one farewell. More of
/// the same adds nothing, so a full queue loses nothing.
const DOWN_QUEUE: usize = 4;

/// What the hub hears.
pub(super) enum Event {
    /// A stream began.
    Connected {
        stream: StreamId,
        identity: AgentIdentity,
        /// Of what the agent told on an earlier stream of this run.
        told: Option<OwnershipDigest>,
        down: mpsc::Sender<Down>,
    },
    /// A stream spoke.
    Reported {
        stream: StreamId,
        sequence: u64,
        message: ReportMessage,
    },
    /// A stream ended, if it could still say so; otherwise the hub notices that nobody listens.
    Disconnected { stream: StreamId },
}

/// What the hub says to one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Down {
    /// The first word: it is heard.
    Welcome(Welcome),
    /// The first word, and the last: too many wait to be heard. Come back after this.
    Crowded(Duration),
    /// Something was missed.
    SnapshotRequest,
    /// Holds or placements changed.
    Nudge,
    /// Another stream of this agent counts now; nothing follows.
    Displaced,
}

/// How an agent is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Welcome {
    /// What it told earlier is known: it goes on from there.
    pub(crate) resumed: bool,
    /// How often it should tell its lags.
    pub(crate) lag_interval: Duration,
}

/// One agent's stream, from the side of the network. Dropping it ends it.
pub(crate) struct AgentLink {
    stream: StreamId,
    events: mpsc::Sender<Event>,
    down: mpsc::Receiver<Down>,
}

/// Makes a link and the event that introduces it.
pub(super) fn open(
    stream: StreamId,
    identity: AgentIdentity,
    told: Option<OwnershipDigest>,
    events: mpsc::Sender<Event>,
) -> (AgentLink, Event) {
    let (tx, rx) = mpsc::channel(DOWN_QUEUE);
    let link = AgentLink {
        stream,
        events,
        down: rx,
    };
    (
        link,
        Event::Connected {
            stream,
            identity,
            told,
            down: tx,
        },
    )
}

impl AgentLink {
    /// Passes a message on; waits while the hub is busy.
    pub(crate) async fn report(
        &self,
        sequence: u64,
        message: ReportMessage,
    ) -> Result<(), Stopping> {
        let event = Event::Reported {
            stream: self.stream,
            sequence,
            message,
        };
        self.events.send(event).await.map_err(|_| Stopping)
    }

    /// The next word for the agent; none when the stream should end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Down> {
        self.down.recv().await
    }
}

impl Drop for AgentLink {
    fn drop(&mut self) {
        // A full queue is no loss: the hub also looks for streams that nobody listens to.
        drop(self.events.try_send(Event::Disconnected {
            stream: self.stream,
        }));
    }
}
