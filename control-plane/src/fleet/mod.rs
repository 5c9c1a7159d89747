//! The fleet as this process sees it: one task owns the state, everybody else reads snapshots.
//!
//! ```text
//! agents' streams ──▶ events ──▶ ┌─────┐ ──▶ watch: FleetView     (operators, dashboards)
//! LISTEN ──▶ "look again" ─────▶ │ hub │ ──▶ watch: DatabaseView  (operations)
//! every second ──▶ PostgreSQL ──▶└─────┘ ──▶ nudges, requests for snapshots (agents)
//! ```
//!
//! - [`state`] is pure: words and rows in, view out.
//! - `hub` is the task around it: it reads the database, publishes views, answers streams.
//! - [`FleetHandle`] is what everybody else holds.
//!
//! Nothing here decides who owns what, and nothing here is needed for messages to flow. When this
//! process dies, all that is lost is what the agents tell the next one anyway.
//!
//! When this fails: without the database the last view goes on being served and its
//! `database_at` says how old it is; without reports the view holds what the database knows; a
//! slow reader skips views, because a `watch` only ever keeps the newest.

mod hub;
mod link;
pub(crate) mod state;

#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tide_model::{
    fleet::{DatabaseView, FleetView},
    report::AgentIdentity,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::link::{AgentLink, Down};
use self::{
    hub::{Hub, HubError},
    link::Event,
    state::{FleetState, StreamId},
};
use crate::database::Database;

/// Words of agents that wait for the hub; a full queue makes the streams wait, not memory grow.
const EVENT_QUEUE: usize = 1_024;

/// The hub has ended, because the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is stopping")]
pub(crate) struct Stopping;

/// How the last attempts to read the database went.
#[derive(Debug, Clone)]
pub(crate) struct DatabaseHealth {
    /// When it last answered.
    pub(crate) answered_at: Instant,
    /// When an attempt last came to an end, in whatever way.
    pub(crate) tried_at: Instant,
    /// Why it does not answer now.
    pub(crate) trouble: Option<Arc<str>>,
}

/// Reads the fleet and talks to its hub. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FleetHandle {
    events: mpsc::Sender<Event>,
    views: watch::Receiver<Arc<FleetView>>,
    databases: watch::Receiver<Arc<DatabaseView>>,
    health: watch::Receiver<DatabaseHealth>,
    wake: Arc<Wake>,
    next_stream: Arc<AtomicU64>,
}

/// What the hub should do soon; asking twice is asking once.
#[derive(Default)]
struct Wake {
    look_again: Notify,
    nudge: Notify,
}

/// The hub, to be run by the caller.
pub(crate) struct FleetTask(Hub);

impl FleetTask {
    /// Runs until the token is cancelled; an error means that the process is useless.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), HubError> {
        self.0.run(stop).await
    }
}

/// Makes the hub and the handle to it. `first` is served until the next read.
pub(crate) fn fleet(database: Database, first: DatabaseView) -> (FleetHandle, FleetTask) {
    let state = FleetState::new(Arc::new(first));
    let (event_tx, event_rx) = mpsc::channel(EVENT_QUEUE);
    let now = time::OffsetDateTime::now_utc();
    let (view_tx, views) = watch::channel(Arc::new(state.view(now)));
    let (database_tx, databases) = watch::channel(Arc::clone(state.database_view()));
    let started_at = Instant::now();
    let (health_tx, health) = watch::channel(DatabaseHealth {
        answered_at: started_at,
        tried_at: started_at,
        trouble: None,
    });
    let wake = Arc::new(Wake::default());
    let outlets = hub::Outlets {
        views: view_tx,
        databases: database_tx,
        health: health_tx,
    };
    let hub = Hub::new(state, database, event_rx, Arc::clone(&wake), outlets);
    let handle = FleetHandle {
        events: event_tx,
        views,
        databases,
        health,
        wake,
        next_stream: Arc::new(AtomicU64::new(1)),
    };
    (handle, FleetTask(hub))
}

impl FleetHandle {
    /// The fleet now.
    pub(crate) fn view(&self) -> Arc<FleetView> {
        Arc::clone(&self.views.borrow())
    }

    /// The fleet whenever it changes; a slow reader skips what lies between.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<FleetView>> {
        self.views.clone()
    }

    /// What the database said, whenever it was read.
    pub(crate) fn databases(&self) -> watch::Receiver<Arc<DatabaseView>> {
        self.databases.clone()
    }

    /// How the database is.
    pub(crate) fn database_health(&self) -> DatabaseHealth {
        self.health.borrow().clone()
    }

    /// How the database is, whenever that changes.
    pub(crate) fn database_healths(&self) -> watch::Receiver<DatabaseHealth> {
        self.health.clone()
    }

    /// Something in the database changed: read it soon.
    pub(crate) fn look_again(&self) {
        self.wake.look_again.notify_one();
    }

    /// Holds or placements changed: read them soon, and tell every agent to.
    pub(crate) fn intent_changed(&self) {
        self.wake.nudge.notify_one();
        self.wake.look_again.notify_one();
    }

    /// Begins a stream of reports.
    pub(crate) async fn connect(&self, identity: AgentIdentity) -> Result<AgentLink, Stopping> {
        let stream = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
        let (link, event) = link::open(stream, identity, self.events.clone());
        self.events.send(event).await.map_err(|_| Stopping)?;
        Ok(link)
    }
}
