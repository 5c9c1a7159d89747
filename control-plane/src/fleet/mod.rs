//! The fleet as this process sees it: one task owns the state, everybody else reads snapshots.
//!
//! ```text
//! agents' streams ──▶ events ──▶ ┌─────┐ ──▶ watch: FleetView     (operators, dashboards)
//! LISTEN ──▶ "look again" ─────▶ │ hub │ ──▶ watch: DatabaseView  (operations)
//! every second ──▶ PostgreSQL ──▶└─────┘ ──▶ nudges, requests for snapshots (agents)
//! ```
//!
//! - [`state`] is pure: words and rows in, what counts out; `claims` compares the two.
//! - `shown` keeps a [`view`] in step with it, at the cost of what changes. Pure, too.
//! - `admission` says who may send a snapshot next, `warming` whether enough is known to plan by.
//! - `hub` is the task around them: it reads the database, publishes views, answers streams.
//! - [`FleetHandle`] is what everybody else holds.
//!
//! Nothing here decides who owns what, and nothing here is needed for messages to flow. When this
//! process dies, all that is lost is what the agents tell the next one anyway.
//!
//! When this fails: without the database the last view goes on being served and its
//! `database_at` says how old it is; without reports the view holds what the database knows; a
//! slow reader skips views, because a `watch` only ever keeps the newest.

mod admission;
mod claims;
mod dirty;
mod hub;
mod link;
mod shown;
pub(crate) mod state;
pub(crate) mod view;
mod warming;

#[cfg(test)]
mod protocol_tests;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tide_model::{
    fleet::{Coverage, DatabaseView},
    report::{AgentIdentity, OwnershipDigest},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::link::{AgentLink, Down, Welcome};
use self::{
    hub::{Hub, HubError},
    link::Event,
    shown::Shown,
    state::{FleetState, StreamId},
    view::View,
    warming::Warming,
};
use crate::{database::Database, leadership::Standing};

/// Words of agents that wait for the hub; a full queue makes the streams wait, not memory grow.
const EVENT_QUEUE: usize = 1_024;

/// The hub has ended, because the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is stopping")]
pub(crate) struct Stopping;

/// The control plane has just started, and too few agents have told what they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the control plane is warming up: {} of {} agents have reported since it started",
    .0.told,
    .0.agents
)]
pub(crate) struct TooCold(pub(crate) Coverage);

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
    views: watch::Receiver<Arc<View>>,
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
    pub(crate) async fn run(
        self,
        standing: watch::Receiver<Standing>,
        stop: CancellationToken,
    ) -> Result<(), HubError> {
        self.0.run(standing, stop).await
    }
}

/// Makes the hub and the handle to it. `first` is served until the next read; it makes plans once it
/// has heard enough, or after `warm_up`.
pub(crate) fn fleet(
    database: Database,
    first: DatabaseView,
    warm_up: Duration,
) -> (FleetHandle, FleetTask) {
    let mut state = FleetState::new(Arc::new(first));
    let (event_tx, event_rx) = mpsc::channel(EVENT_QUEUE);
    let now = time::OffsetDateTime::now_utc();
    let warm_up = time::Duration::seconds_f64(warm_up.as_secs_f64());
    let shown = Shown::new(&mut state, Warming::new(warm_up, now), now);
    let (view_tx, views) = watch::channel(Arc::new(shown.view().clone()));
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
    let hub = Hub::new(state, shown, database, event_rx, Arc::clone(&wake), outlets);
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
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }

    /// The fleet whenever it changes; a slow reader skips what lies between.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<View>> {
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

    /// Fails while too little is known to plan by.
    pub(crate) fn warm(&self) -> Result<(), TooCold> {
        let coverage = self.views.borrow().coverage;
        if coverage.warming {
            return Err(TooCold(coverage));
        }
        Ok(())
    }

    /// Begins a stream of reports of an agent that has `told` so much on an earlier one.
    pub(crate) async fn connect(
        &self,
        identity: AgentIdentity,
        told: Option<OwnershipDigest>,
    ) -> Result<AgentLink, Stopping> {
        let stream = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
        let (link, event) = link::open(stream, identity, told, self.events.clone());
        self.events.send(event).await.map_err(|_| Stopping)?;
        Ok(link)
    }
}
