//! The task that owns the lock session: commands in, pings in between, loss as an event.
//!
//! ```text
//!                 name is free,                  nothing to do for a
//!                 this run is registered         third of the lease
//! (none) ──▶ Opening ──────────▶ Standing ──────────────────────▶ Pinging
//!    ▲          │ refused          │   ▲ ◀──────────────────────────┘ answered: the trust window
//!    │          ▼                  │   │                              opens until asked + ⅚ lease
//!    │       waits, says why       │   └── Acquire, Release: locks, claims, stamps, unlocks, notices;
//!    │                             │       each answer is as good as a ping
//!    │                             ├── window over, no answer yet ──▶ Doubted: workers pause
//!    │                             │                                    │ answered: they go on
//!    │                             ▼                                    ▼ three leases, an error, or
//!    │                          Closing                               Lost  the end of the session
//!    │                    every lock is free                 trust is revoked for good
//!    └──────────────────────────────────────────────────────────────────┘ a new one, at once
//! ```
//!
//! Everything that touches the session goes through this one task, so a statement is never
//! interrupted half-way and the order on the wire is the order of the commands. Each successful
//! answer proves that the session stands and extends the [`Trust`] window from the moment at which
//! the question was *sent*. The server counts the lease (`idle_session_timeout`) from the moment at
//! which it has answered, which is later: nobody can get a lock before its holder has stopped.
//!
//! *Doubted* is a state of the window only; the task does not know it, and waits. A lock that
//! the agent cannot prove it does not use, and a lock that it does not use it does not give up
//! either: a server that stalls costs a pause, no failover.
//!
//! Between commands the task reads the session, so that its end is an event, and not the news of the
//! next ping: the pipelines may have a new owner a moment later.
//!
//! **When this fails**
//! - **the server ends the session (an administrator, a restart), or a statement breaks it, or gets no
//!   answer for three leases**: trust is revoked, every worker stops, a new session is opened. The server may keep the old one for what is left of its
//!   lease, so the new one may have to wait for the agent's own name; that is what the lease is for.
//! - **the process is frozen, the machine suspended, the network cut**: the server ends the session
//!   after the lease. The window was over before, on a clock that counts time asleep.
//! - **the lease is shorter than the round trip**: the server ends every session while an answer is
//!   on its way. The first quarter of a lease is remarked on, a session that ended for silence comes
//!   with the advice to raise `--lease`.
//! - **the server's lock table is full**: what is locked stays locked, the rest is named in the log
//!   and asked for again later, see [`crate::crowding`].
//! - **the server has no connection left, starts up, or refuses us**: said once per reason, with what
//!   helps; tried again with growing delays. An agent that is only starting waits for room, too, and for a
//!   server that goes away while it does; it gives up on everything else.
//! - **the address leads to a standby**: refused, because a standby's advisory locks are its own.
//! - **the address leads to another timeline or system**: said, and the pool's sessions are closed.
//!   Positions are always read again with a claim. One that was not replicated costs a repetition;
//!   messages that were not replicated went with the former server.
//! - **another session holds our name**: at a start, a second agent of one name waits for as long as
//!   a dead one could last, and then gives up; the first notices nothing. On a reconnect, it is our
//!   own former session: wait.
//! - **locking fails half-way for any other reason**: the session is given up, for nobody knows which
//!   locks it took.
//! - **a claim fails for its own reasons (rights)**: the caller gets the error, and the locks are
//!   given back.
//! - **a hand-over cannot be stamped**: it is done all the same, and counted as a crash.

use std::{future::Future, time::Duration};

use tide_catalog::{
    CatalogError,
    agents::{AgentRegistration, agent_register},
    connection::Server,
    handovers::Departure,
    lock_session::{Home, LockSession},
    offsets::{Claim, offsets_claim},
};
use tide_model::{AgentName, GroupName, HandoverKind, Incarnation, UnitName};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{debug, warn};

use crate::{
    boot_clock::Moment,
    crowding::Crowding,
    trust::{Trust, trusted_for},
};

/// Who we are on a lock session.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) group: GroupName,
    pub(crate) name: AgentName,
    /// Of this process, through all its sessions.
    pub(crate) run: uuid::Uuid,
    pub(crate) weight: u32,
    pub(crate) hostname: String,
    pub(crate) metrics_addr: Option<String>,
}

/// What can be asked of the task.
#[derive(Debug)]
pub(crate) enum Command {
    /// Lock these as far as they are free, and claim everything of them that we hold.
    Acquire(Vec<UnitName>, oneshot::Sender<Claims>),
    /// Unlock these and tell their successors.
    Release(Vec<Release>, oneshot::Sender<()>),
    /// Ask the server now whether the session stands; somebody has reason to doubt it.
    Prove,
    /// End the session in good order.
    Close(oneshot::Sender<()>),
}

/// A pipeline to be given back.
#[derive(Debug)]
pub(crate) struct Release {
    pub(crate) pipeline: UnitName,
    /// Who is to take it.
    pub(crate) to: Option<AgentName>,
    /// Why it goes; none where nobody is to take it.
    pub(crate) kind: Option<HandoverKind>,
    /// Since when nothing has been delivered.
    pub(crate) quiet_since: Instant,
}
/// What was claimed of what was asked for, or why nothing could be.
type Claims = Result<Vec<Claim>, CatalogError>;
/// One that asks for pipelines.
type Acquisition = (Vec<UnitName>, oneshot::Sender<Claims>);

/// A session that stands.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) incarnation: Incarnation,
    pub(crate) trust: Trust,
    pub(crate) home: Home,
    pub(crate) commands: mpsc::Sender<Command>,
}

/// A session that could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("another session holds the name {0}")]
    NameTaken(AgentName),
}

/// Opens a session, locks our name on it and registers this run.
pub(crate) async fn open(
    server: &Server,
    identity: &Identity,
    lease: Duration,
) -> Result<(Established, Box<Task>), OpenError> {
    let mut session = LockSession::open(server, &identity.group, lease).await?;
    if !session.lock_name(&identity.name).await? {
        return Err(OpenError::NameTaken(identity.name.clone()));
    }
    let incarnation = Incarnation(uuid::Uuid::now_v7());
    let registration = AgentRegistration {
        group: identity.group.clone(),
        name: identity.name.clone(),
        incarnation,
        run: identity.run,
        backend_pid: session.backend_pid(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: identity.hostname.clone(),
        process_id: std::process::id(),
        metrics_addr: identity.metrics_addr.clone(),
        weight: identity.weight,
        lease,
    };
    // Before others hear of us and hand over.
    session.rehearse(&identity.name, incarnation).await?;
    agent_register(session.connection().await?, &registration).await?;
    let asked = Moment::now();
    session.ping().await?;
    warn_of_a_short_lease(Moment::now().since(asked), lease);
    let trust = Trust::new(asked, asked + trusted_for(lease));
    let (commands, inbox) = mpsc::channel(64);
    let established = Established {
        incarnation,
        trust: trust.clone(),
        home: session.home(),
        commands,
    };
    let task = Task {
        session,
        identity: identity.clone(),
        incarnation,
        lease,
        trust,
        inbox: Inbox {
            commands: inbox,
            put_back: None,
        },
        crowding: Crowding::new(asked.awake),
    };
    Ok((established, Box::new(task)))
}

/// Owns the session. [`Task::run`] ends when the session does.
pub(crate) struct Task {
    session: LockSession,
    identity: Identity,
    incarnation: Incarnation,
    lease: Duration,
    trust: Trust,
    inbox: Inbox,
    crowding: Crowding,
}

/// The commands that wait for their turn.
struct Inbox {
    commands: mpsc::Receiver<Command>,
    /// Taken out, but not yet its turn.
    put_back: Option<Box<Command>>,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// We closed it.
    Closed,
    /// It broke.
    Lost(CatalogError),
}

impl Task {
    pub(crate) async fn run(mut self) -> SessionEnd {
        let end = self.serve().await;
        self.trust.revoke();
        match end {
            Ok(done) => {
                // A failing goodbye frees the locks all the same.
                drop(timeout(self.lease, self.session.close()).await);
                // Nobody waits for it when the coordinator is gone.
                done.send(()).unwrap_or_default();
                SessionEnd::Closed
            }
            Err(error) => SessionEnd::Lost(error),
        }
    }

    async fn serve(&mut self) -> Result<oneshot::Sender<()>, CatalogError> {
        let mut pings = interval(self.lease / 3);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let command = tokio::select! {
                biased;
                // Whatever is asked of a session that is gone fails with it.
                error = self.session.ended() => return Err(error),
                command = self.inbox.next() => command,
                _ = pings.tick() => Some(Command::Prove),
            };
            match command {
                Some(Command::Prove) => {
                    let patience = self.patience();
                    let asked = Moment::now();
                    answered(patience, self.session.ping()).await?;
                    self.extend(asked);
                }
                Some(Command::Acquire(pipelines, reply)) => {
                    let asked = self.inbox.acquisitions_with((pipelines, reply));
                    let pipelines: Vec<UnitName> = asked
                        .iter()
                        .flat_map(|(pipelines, _)| pipelines.iter().cloned())
                        .collect();
                    share_out(self.acquire(&pipelines).await?, asked);
                }
                Some(Command::Release(pipelines, reply)) => {
                    let (pipelines, replies) = self.inbox.releases_with(pipelines, reply);
                    self.release(pipelines).await?;
                    for reply in replies {
                        reply.send(()).unwrap_or_default();
                    }
                }
                Some(Command::Close(reply)) => return Ok(reply),
                // The coordinator is gone; so is the reason for this session.
                None => return Ok(oneshot::channel().0),
            }
        }
    }

    /// The outer error ends the session; the inner one is about these pipelines only.
    async fn acquire(&mut self, pipelines: &[UnitName]) -> Result<Claims, CatalogError> {
        let patience = self.patience();
        let asked = Moment::now();
        // A failure half-way leaves locks that nobody knows of, so only a new session is certain.
        let admitted = self.crowding.admitted(pipelines, asked.awake);
        let attempt = answered(patience, self.session.attempt(&admitted)).await?;
        self.crowding.note(&admitted, &attempt.full, asked.awake);
        self.extend(asked);
        let held: Vec<UnitName> = pipelines
            .iter()
            .filter(|name| self.session.held().contains(*name))
            .cloned()
            .collect();
        if held.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let Identity { group, name, .. } = &self.identity;
        let claim = offsets_claim(
            self.session.connection().await?,
            group,
            name,
            self.incarnation,
            &held,
        );
        let claims = match answered(patience, claim).await {
            Ok(claims) => claims,
            Err(error) if breaks_session(&error) => return Err(error),
            Err(error) => {
                answered(patience, self.session.unlock(&held)).await?;
                return Ok(Err(error));
            }
        };
        // Deleted while we locked it: nothing to own.
        let gone: Vec<UnitName> = held
            .into_iter()
            .filter(|name| !claims.iter().any(|claim| claim.pipeline == *name))
            .collect();
        if !gone.is_empty() {
            answered(patience, self.session.unlock(&gone)).await?;
        }
        Ok(Ok(claims))
    }

    async fn release(&mut self, releases: Vec<Release>) -> Result<(), CatalogError> {
        let patience = self.patience();
        let departures: Vec<Departure> = releases
            .into_iter()
            .map(|release| Departure {
                quiet: release.quiet_since.elapsed(),
                pipeline: release.pipeline,
                kind: release.kind,
                to: release.to,
            })
            .collect();
        let asked = Moment::now();
        let Identity { name, .. } = &self.identity;
        let release = self.session.release(name, self.incarnation, &departures);
        if let Some(reason) = answered(patience, release).await? {
            debug!(reason, "could not stamp a hand-over");
        }
        self.extend(asked);
        Ok(())
    }

    fn extend(&self, asked: Moment) {
        self.trust.extend(asked + trusted_for(self.lease));
    }

    /// A stalled server costs a pause, not the session; one that is silent for this long is gone.
    fn patience(&self) -> Duration {
        self.lease * 3
    }
}

impl Inbox {
    /// Cancel-safe.
    async fn next(&mut self) -> Option<Command> {
        match self.put_back.take() {
            Some(command) => Some(*command),
            None => self.commands.recv().await,
        }
    }

    /// This one, and those that came while the session was busy: owners give pipelines away one by
    /// one, as their workers finish, and one statement for all of them keeps up where one for each
    /// falls behind. What another kind of command separates is not joined, so the order stands.
    fn acquisitions_with(&mut self, first: Acquisition) -> Vec<Acquisition> {
        let mut asked = vec![first];
        while self.put_back.is_none() {
            match self.commands.try_recv() {
                Ok(Command::Acquire(pipelines, reply)) => asked.push((pipelines, reply)),
                Ok(other) => self.put_back = Some(Box::new(other)),
                Err(_) => break,
            }
        }
        asked
    }

    /// The same for what is given away.
    fn releases_with(
        &mut self,
        mut pipelines: Vec<Release>,
        reply: oneshot::Sender<()>,
    ) -> (Vec<Release>, Vec<oneshot::Sender<()>>) {
        let mut replies = vec![reply];
        while self.put_back.is_none() {
            match self.commands.try_recv() {
                Ok(Command::Release(more, reply)) => {
                    pipelines.extend(more);
                    replies.push(reply);
                }
                Ok(other) => self.put_back = Some(Box::new(other)),
                Err(_) => break,
            }
        }
        (pipelines, replies)
    }
}

/// Answers everybody who asked. One of them hears of an error; to the others it means that they got
/// nothing, which makes them look again.
fn share_out(claims: Claims, asked: Vec<Acquisition>) {
    let (mut claims, mut error) = match claims {
        Ok(claims) => (claims, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    for (pipelines, reply) in asked {
        let (theirs, rest) = claims
            .into_iter()
            .partition(|claim| pipelines.contains(&claim.pipeline));
        claims = rest;
        // Nobody waits for it when the coordinator is gone.
        drop(reply.send(error.take().map_or(Ok(theirs), Err)));
    }
}

/// Pings are a third of the lease apart, and the window that an answer opens began when the question
/// was sent: with a round trip of half the lease it is over before the next answer comes.
fn warn_of_a_short_lease(round_trip: Duration, lease: Duration) {
    if round_trip > lease / 4 {
        warn!(
            ?round_trip,
            ?lease,
            hint = "raise --lease to at least ten round trips, or find out why PostgreSQL answers so slowly",
            "the lease is short for this network: publishing will pause, and locks may be lost"
        );
    }
}

async fn answered<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, CatalogError>>,
) -> Result<T, CatalogError> {
    timeout(patience, answer)
        .await
        .unwrap_or(Err(CatalogError::Timeout(patience)))
}

/// Whether the session is unusable after this error, as opposed to the statement only.
fn breaks_session(error: &CatalogError) -> bool {
    match error {
        CatalogError::Database { source, .. } => source.as_database_error().is_none_or(|error| {
            // 57P0x: the server ended the session (shutdown, pg_terminate_backend, idle timeout).
            error
                .code()
                .is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
        }),
        CatalogError::Timeout(_) | CatalogError::Connect { .. } | CatalogError::SessionEnded => {
            true
        }
        _ => false,
    }
}
