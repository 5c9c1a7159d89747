//! One process's part in an election.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use sqlx::PgPool;
use tide_model::{Epoch, NodeId};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    LeaderConfig, LeaderInfo, LeaderRole, PgNotifyBus, leaders,
    session::{LeaderSession, Preemption},
    trust::Trust,
};
use crate::CatalogError;

/// Reading who leads must be done within this.
const LOOK: Duration = Duration::from_secs(10);

/// Contends for a role, and knows whether it has it.
///
/// Either [`run`](Self::run) it as a task, or call the steps at cadences of your own. All methods
/// may be called at any time and from anywhere; those that talk to the server take turns.
pub struct LeaderElection {
    pool: PgPool,
    node_id: NodeId,
    role: LeaderRole,
    config: LeaderConfig,
    address: Option<String>,
    bus: Option<Arc<PgNotifyBus>>,
    /// The session with the lock. Whoever changes trust or term holds this mutex.
    held: Mutex<Option<Held>>,
    trust: Trust,
    term: watch::Sender<Option<Epoch>>,
    /// The zombie that could not be evicted, so that this is said once.
    stubborn: AtomicI64,
    stop: CancellationToken,
}

/// What a leader holds.
struct Held {
    session: LeaderSession,
    epoch: Epoch,
}

impl LeaderElection {
    /// Contends for nothing until it is run. `pool` is for reading, and says how to connect: the
    /// lock has a session of its own, which the pool never sees.
    pub fn new(pool: PgPool, node_id: NodeId, role: LeaderRole, config: LeaderConfig) -> Self {
        Self {
            pool,
            node_id,
            role,
            config,
            address: None,
            bus: None,
            held: Mutex::new(None),
            trust: Trust::closed(),
            term: watch::Sender::new(None),
            stubborn: AtomicI64::new(0),
            stop: CancellationToken::new(),
        }
    }

    /// Hears from `bus` when a leader gives the role up, and then does not wait for the next check.
    #[must_use]
    pub fn with_notify_bus(self, bus: Arc<PgNotifyBus>) -> Self {
        Self {
            bus: Some(bus),
            ..self
        }
    }

    /// Tells others under which address to reach this process while it leads.
    #[must_use]
    pub fn with_address(self, address: String) -> Self {
        Self {
            address: Some(address),
            ..self
        }
    }

    /// Whether this process leads, as far as it may still believe so. Asks nobody; turns false by
    /// itself when the server has not confirmed the lock in time.
    pub fn is_leader(&self) -> bool {
        self.trust.is_open(Instant::now())
    }

    /// The fencing token to write under; none unless this process leads.
    pub fn epoch(&self) -> Option<Epoch> {
        self.is_leader().then(|| *self.term.borrow()).flatten()
    }

    /// The term in office, whenever one begins or ends. One that lapses and is confirmed again has
    /// not ended: for that, ask [`is_leader`](Self::is_leader).
    pub fn terms(&self) -> watch::Receiver<Option<Epoch>> {
        self.term.subscribe()
    }

    /// The role.
    pub fn role(&self) -> &LeaderRole {
        &self.role
    }

    /// How often the leader asks whether the lock is still its own.
    pub fn lock_validate_interval(&self) -> Duration {
        self.config.within_lease(self.config.lock_validate_interval)
    }

    /// How often a standby looks for a leader; a leader renews its lease as often, or more often
    /// if the lease is too short for that.
    pub fn check_interval(&self) -> Duration {
        self.config.check_interval
    }

    /// Ends [`run`](Self::run), which gives the role up first.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Tries to lead; true if it does. Never waits for another leader.
    ///
    /// Lock and lease are taken on one session. If it dies in between, the server takes both back:
    /// there is no row of a leader that holds nothing.
    ///
    /// A leader whose lease has run out while its session still holds the lock is presumed dead,
    /// with something between it and the server that keeps the session alive. Its session is ended,
    /// and the lock tried once more. That needs the same user or `pg_signal_backend`; a refusal is
    /// logged and the answer is false.
    pub async fn try_become_leader(&self) -> Result<bool, CatalogError> {
        let mut held = self.held.lock().await;
        if held.is_some() {
            return self.validate(&mut held).await.map(|()| true);
        }
        let lease = self.config.lease;
        let mut session = LeaderSession::open(&self.pool, &self.role, lease).await?;
        let mut locked = session.try_lock(&self.role).await?;
        if !locked && self.evicted_zombie(&mut session).await? {
            locked = session.try_lock(&self.role).await?;
        }
        if !locked {
            // A failing goodbye changes nothing: it held nothing.
            drop(session.close().await);
            return Ok(false);
        }
        let asked = Instant::now();
        let epoch = session
            .take(&self.role, &self.node_id, self.address.as_deref())
            .await?;
        info!(role = %self.role, group = self.role.group(), node = %self.node_id, %epoch, "leadership gained");
        *held = Some(Held { session, epoch });
        self.trust.extend(asked, lease);
        self.term.send_replace(Some(epoch));
        Ok(true)
    }

    /// Asks the server, on the session that took the lock, whether it still holds it. If not, or
    /// if there is no answer, this process leads no more, and the error says why. Nothing to do
    /// for a standby.
    pub async fn validate_lock_held(&self) -> Result<(), CatalogError> {
        let mut held = self.held.lock().await;
        self.validate(&mut held).await
    }

    /// Says something on the session, so that nobody on the way takes it for dead. It proves
    /// nothing about the lock; nothing to do for a standby.
    pub async fn keepalive(&self) -> Result<(), CatalogError> {
        let mut held = self.held.lock().await;
        let Some(leading) = held.as_mut() else {
            return Ok(());
        };
        let answer = leading.session.ping().await;
        answer.inspect_err(|_| self.step_down(&mut held))
    }

    /// Proves the lock and extends the lease, as one step on one session: nobody can put another
    /// session into its place in between. Nothing to do for a standby.
    pub async fn refresh_lease(&self) -> Result<(), CatalogError> {
        let mut held = self.held.lock().await;
        let Some(leading) = held.as_mut() else {
            return Ok(());
        };
        let asked = Instant::now();
        let renewed = leading.session.renew(&self.role, leading.epoch).await;
        self.confirmed(&mut held, asked, renewed)
    }

    /// Gives the role up and wakes standbys. Nothing to do for a standby.
    pub async fn release_leadership(&self) -> Result<(), CatalogError> {
        let mut held = self.held.lock().await;
        let Some(Held { mut session, epoch }) = held.take() else {
            return Ok(());
        };
        // Whoever asks from now on hears no: another may lead before the answer is here.
        self.ended();
        session.release(&self.role, epoch).await?;
        info!(role = %self.role, group = self.role.group(), %epoch, "leadership released");
        session.close().await
    }

    /// Whether somebody leads whose lease is alive and whose session holds the lock.
    pub async fn check_leader_health(&self) -> Result<bool, CatalogError> {
        let leader = self.get_leader().await?;
        Ok(leader.is_some_and(|leader| leader.is_healthy()))
    }

    /// The leader, or the last one that did not say goodbye.
    pub async fn get_leader(&self) -> Result<Option<LeaderInfo>, CatalogError> {
        let read = async {
            let acquired = self.pool.acquire().await;
            let mut connection = acquired.map_err(|source| CatalogError::Database {
                doing: "looking for the leader",
                source,
            })?;
            leaders::leader(&mut connection, &self.role).await
        };
        timeout(LOOK, read)
            .await
            .unwrap_or(Err(CatalogError::Timeout(LOOK)))
    }

    pub(super) fn bus(&self) -> Option<&PgNotifyBus> {
        self.bus.as_deref()
    }

    /// Whether there is a session with a lock, trusted or not.
    pub(super) fn holds(&self) -> bool {
        self.term.borrow().is_some()
    }

    pub(super) fn refresh_interval(&self) -> Duration {
        self.config.within_lease(self.config.check_interval)
    }

    pub(super) fn keepalive_interval(&self) -> Duration {
        self.config.keepalive_interval
    }

    pub(super) fn stopped(&self) -> impl Future<Output = ()> {
        self.stop.cancelled()
    }

    /// Runs a step to its end; none if it was told to stop before.
    pub(super) async fn until_stopped<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        self.stop.run_until_cancelled(step).await
    }

    async fn validate(&self, held: &mut Option<Held>) -> Result<(), CatalogError> {
        let Some(leading) = held.as_mut() else {
            return Ok(());
        };
        let asked = Instant::now();
        let holds = leading.session.holds(&self.role).await;
        self.confirmed(held, asked, holds)
    }

    /// Draws the conclusion from an answer about the lock.
    fn confirmed(
        &self,
        held: &mut Option<Held>,
        asked: Instant,
        answer: Result<bool, CatalogError>,
    ) -> Result<(), CatalogError> {
        match answer {
            Ok(true) => {
                self.trust.extend(asked, self.config.lease);
                Ok(())
            }
            Ok(false) => {
                self.step_down(held);
                Err(CatalogError::LeadershipLost(self.role.name()))
            }
            Err(error) => {
                self.step_down(held);
                Err(error)
            }
        }
    }

    /// Leads no more; the session ends with it, so that the lock cannot stay behind.
    fn step_down(&self, held: &mut Option<Held>) {
        self.ended();
        if let Some(Held { epoch, .. }) = held.take() {
            warn!(role = %self.role, group = self.role.group(), %epoch, "leadership lost");
        }
    }

    fn ended(&self) {
        self.trust.close();
        self.term.send_replace(None);
    }

    async fn evicted_zombie(&self, session: &mut LeaderSession) -> Result<bool, CatalogError> {
        match session.preempt(&self.role).await? {
            Preemption::NoZombie => Ok(false),
            Preemption::Evicted {
                node_id,
                backend_pid,
            } => {
                warn!(role = %self.role, group = self.role.group(), leader = node_id, backend_pid,
                      "evicted a leader whose lease had run out");
                Ok(true)
            }
            Preemption::Refused { epoch, reason } => {
                if self.stubborn.swap(epoch.0, Ordering::Relaxed) == epoch.0 {
                    debug!(role = %self.role, %epoch, reason, "the former leader's session is still there");
                } else {
                    warn!(role = %self.role, group = self.role.group(), %epoch, reason,
                          "a leader whose lease has run out keeps the lock and could not be evicted");
                }
                Ok(false)
            }
        }
    }
}

impl fmt::Debug for LeaderElection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderElection")
            .field("node_id", &self.node_id)
            .field("role", &self.role)
            .field("config", &self.config)
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}
