//! Performs what the [ownership machine](crate::ownership) decides, and tells it what came of it.
//!
//! One task. [`Coordinator::next`] waits for the next thing to happen and changes nothing, so
//! dropping it loses nothing; [`Coordinator::apply`] changes things and waits for nobody. What
//! takes time (discovery, the lock session, workers) runs in tasks of its own that answer over a
//! bounded channel.

mod chore;
mod handover;
mod look;
mod session;
mod workers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tide_catalog::{
    CatalogError,
    listener::{Handshake, Notice},
    lock_session::Home,
    offsets::Claim,
};
use tide_daemon::backoff::Backoff;
use tide_model::{AgentName, HandoverKind, Incarnation, OperationId, UnitName};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::chore::Chore;
use crate::{
    config::Config,
    discovery::{Discovery, Runnable},
    gauge::{Gauge, Gauges},
    health::Board,
    locks::{self, Command, Established, Identity, OpenError, SessionEnd},
    orders::{Line, Orders},
    ownership::{Effect, Event, Ownership, WorkerEnd},
    preparation::Request,
    trust::Trust,
    worker::Services,
};

/// How often the agent writes that it is there.
const BEAT: Duration = Duration::from_secs(5);
/// One look at the fleet may take this long.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(15);
/// Notices that come together are answered by one look.
const DEBOUNCE: Duration = Duration::from_millis(2);

/// Parts that the coordinator is built from.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) services: Services,
    pub(crate) gauges: Gauges,
    pub(crate) board: Board,
    pub(crate) notices: mpsc::Receiver<Notice>,
    pub(crate) gone: mpsc::Receiver<AgentName>,
    pub(crate) nudges: mpsc::Receiver<()>,
    pub(crate) neighbour: watch::Sender<Option<AgentName>>,
    pub(crate) preparations: mpsc::Sender<Request>,
    pub(crate) reports: watch::Sender<Option<Incarnation>>,
    pub(crate) soft: CancellationToken,
}

/// What happens to the coordinator.
enum Happening {
    Notice(Notice),
    Gone,
    Nudge,
    Look,
    Beat,
    Answer(Answer),
    Shutdown,
}

/// What its tasks answer.
enum Answer {
    Session(Result<(Established, Box<locks::Task>), OpenError>),
    SessionEnded(Incarnation, SessionEnd),
    /// Whether it counted us out, and what it found.
    Discovered(bool, Result<Box<Discovery>, CatalogError>),
    Acquired(
        Incarnation,
        Vec<UnitName>,
        Option<Result<Vec<Claim>, CatalogError>>,
    ),
    WorkerEnded(UnitName, Incarnation, WorkerEnd),
    Released(Incarnation, Vec<UnitName>),
    /// A successor has had its time to make ready.
    Overdue,
    Beaten,
}

struct Running {
    stop: CancellationToken,
    /// Ends it in the middle of whatever it does.
    abort: CancellationToken,
    gauge: Arc<Gauge>,
    orders: Line,
}

struct Session {
    incarnation: Incarnation,
    trust: Trust,
    commands: mpsc::Sender<Command>,
}

/// Waits for a server that has no room for another session at the moment, or that answered before
/// and went away, and says so once.
pub(crate) struct Patience {
    said: bool,
    /// It has answered: what it is called and who we are there is right.
    reached: bool,
    backoff: Backoff,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            said: false,
            reached: false,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
        }
    }
}

impl Patience {
    /// With a server that has answered before.
    pub(crate) fn reached() -> Self {
        Self {
            reached: true,
            ..Self::default()
        }
    }

    /// Waits a little after an error that will pass; any other is given back.
    pub(crate) async fn bear(
        &mut self,
        error: CatalogError,
        soft: &CancellationToken,
    ) -> Result<(), CatalogError> {
        self.reached |= matches!(error, CatalogError::Database { .. });
        let passes = error.is_busy() || (self.reached && error.is_transient());
        if !passes {
            return Err(error);
        }
        if !self.said {
            warn!(
                error = &error as &dyn std::error::Error,
                hint = error.hint(),
                "waiting for PostgreSQL"
            );
            self.said = true;
        }
        tokio::select! {
            () = sleep(self.backoff.next()) => Ok(()),
            () = soft.cancelled() => Err(error),
        }
    }
}

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("an agent named {name} is running in group {group}")]
    NameTaken {
        name: AgentName,
        group: tide_model::GroupName,
    },
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

pub(crate) struct Coordinator {
    parts: Parts,
    ownership: Ownership,
    session: Option<Session>,
    running: BTreeMap<UnitName, Running>,
    specs: BTreeMap<UnitName, Arc<Runnable>>,
    /// What operators want, as it was last seen.
    orders: BTreeMap<UnitName, Orders>,
    claims: BTreeMap<UnitName, Claim>,
    /// Why pipelines that are to go are to go.
    departures: BTreeMap<UnitName, HandoverKind>,
    /// What is being released because a newer epoch exists.
    fenced: BTreeSet<UnitName>,
    /// Since when workers that have ended delivered nothing.
    quiet: BTreeMap<UnitName, Instant>,
    tasks: JoinSet<()>,
    answers: mpsc::Receiver<Answer>,
    answer: mpsc::Sender<Answer>,
    looking: Chore,
    beating: Chore,
    leaving: Leaving,
    acknowledged: i64,
    drains: Vec<OperationId>,
    /// Pipelines go a few at a time: who has left makes room for the next.
    paced: bool,
    /// It ends for good.
    retiring: bool,
    failures: Backoff,
    discovery_failing: bool,
    /// Agents that holds name and nobody knows, as it was said.
    strangers: BTreeSet<AgentName>,
    /// What is to come to us and needs a look first.
    unseen: Vec<Handshake>,
    /// The server of the newest lock session.
    home: Option<Home>,
    /// Why there is no lock session, as it was said.
    complaint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// Looking who could take over.
    Looking,
    /// Giving everything away.
    Yes,
}

impl Coordinator {
    /// Opens the first session. A name that stays taken for longer than a dead session can last
    /// belongs to a living agent.
    pub(crate) async fn start(parts: Parts) -> Result<Self, StartError> {
        let config = &parts.config;
        let deadline = Instant::now() + config.lease + Duration::from_secs(2);
        let mut patience = Patience::reached();
        let first = loop {
            match locks::open(&config.server, &parts.identity, config.lease).await {
                Ok(first) => break first,
                Err(OpenError::Catalog(error)) => patience.bear(error, &parts.soft).await?,
                Err(OpenError::NameTaken(name)) if Instant::now() > deadline => {
                    return Err(StartError::NameTaken {
                        name,
                        group: config.group.clone(),
                    });
                }
                Err(OpenError::NameTaken(name)) => {
                    debug!(agent = %name, "name is taken; waiting for a dead session to end");
                    tokio::select! {
                        () = sleep(Duration::from_millis(100)) => {}
                        () = parts.soft.cancelled() => {
                            return Err(StartError::NameTaken { name, group: config.group.clone() });
                        }
                    }
                }
            }
        };
        let (answer, answers) = mpsc::channel(256);
        let now = Instant::now();
        let mut coordinator = Self {
            ownership: Ownership::new(parts.identity.name.clone()),
            session: None,
            running: BTreeMap::new(),
            specs: BTreeMap::new(),
            orders: BTreeMap::new(),
            claims: BTreeMap::new(),
            departures: BTreeMap::new(),
            fenced: BTreeSet::new(),
            quiet: BTreeMap::new(),
            tasks: JoinSet::new(),
            answers,
            answer,
            looking: Chore::new(now),
            beating: Chore::new(now + BEAT),
            leaving: Leaving::No,
            acknowledged: 0,
            drains: Vec::new(),
            paced: false,
            retiring: false,
            failures: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
            discovery_failing: false,
            strangers: BTreeSet::new(),
            unseen: Vec::new(),
            home: None,
            complaint: None,
            parts,
        };
        coordinator.session_up(first);
        Ok(coordinator)
    }

    /// Runs until everything is given away after a shutdown was asked for.
    pub(crate) async fn run(mut self) {
        while !self.ownership.has_left() {
            let happening = self.next().await;
            self.apply(happening);
            while let Some(ended) = self.tasks.try_join_next() {
                if let Err(error) = ended {
                    error!(
                        error = &error as &dyn std::error::Error,
                        "a task of the coordinator panicked"
                    );
                }
            }
        }
        self.finish().await;
    }

    async fn next(&mut self) -> Happening {
        let leaving = self.leaving != Leaving::No;
        tokio::select! {
            biased;
            () = self.parts.soft.cancelled(), if !leaving => Happening::Shutdown,
            Some(answer) = self.answers.recv() => Happening::Answer(answer),
            Some(_) = self.parts.gone.recv() => Happening::Gone,
            Some(notice) = self.parts.notices.recv() => Happening::Notice(notice),
            Some(()) = self.parts.nudges.recv() => Happening::Nudge,
            () = due(&self.looking) => Happening::Look,
            () = due(&self.beating) => Happening::Beat,
        }
    }

    fn apply(&mut self, happening: Happening) {
        match happening {
            Happening::Shutdown => {
                info!(
                    owned = self.ownership.owned(),
                    "shutting down: handing everything over"
                );
                self.parts.board.draining();
                self.leaving = Leaving::Looking;
                self.look_in(Duration::ZERO);
            }
            Happening::Gone | Happening::Nudge => self.look_in(Duration::ZERO),
            Happening::Notice(notice) => self.noticed(notice),
            Happening::Look => self.look(),
            Happening::Beat => self.beat(),
            Happening::Answer(answer) => self.answered(answer),
        }
    }

    fn noticed(&mut self, notice: Notice) {
        let ours = |group: &tide_model::GroupName| *group == self.parts.config.group;
        match notice {
            Notice::Config => self.look_in(DEBOUNCE),
            Notice::Reconnected => {
                // What ended the listening session may have ended the other one too.
                self.prove_session();
                self.look_in(DEBOUNCE);
            }
            Notice::Intent(group) | Notice::Joined(group, _) if ours(&group) => {
                self.look_in(DEBOUNCE);
            }
            Notice::Gone(group, agent) if ours(&group) => {
                if agent == self.parts.config.name {
                    self.prove_session();
                }
                self.look_in(Duration::ZERO);
            }
            Notice::Released(group, to, pipelines)
                if ours(&group) && to == self.parts.config.name =>
            {
                self.step(Event::Offered(pipelines));
            }
            Notice::Prepare(handshake)
                if ours(&handshake.group) && handshake.to == self.parts.config.name =>
            {
                self.asked_to_make_ready(handshake);
            }
            Notice::Ready(handshake)
                if ours(&handshake.group) && handshake.to == self.parts.config.name =>
            {
                self.step(Event::Ready(handshake.from, handshake.pipelines));
            }
            Notice::Intent(_)
            | Notice::Joined(..)
            | Notice::Gone(..)
            | Notice::Released(..)
            | Notice::Prepare(_)
            | Notice::Ready(_) => {}
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Session(Ok(session)) => self.session_up(session),
            Answer::Session(Err(error)) => {
                self.no_session(&error);
                let delay = self.failures.next();
                self.open_session(delay);
            }
            Answer::SessionEnded(incarnation, end) => self.session_ended(incarnation, &end),
            Answer::Discovered(leaving, discovered) => self.discovered(leaving, discovered),
            Answer::Acquired(incarnation, asked, claims) => {
                self.acquired(incarnation, asked, claims);
            }
            Answer::WorkerEnded(pipeline, incarnation, end) => {
                self.worker_ended(pipeline, incarnation, end);
            }
            Answer::Released(incarnation, pipelines) => self.released(incarnation, pipelines),
            Answer::Overdue => self.step(Event::Overdue),
            Answer::Beaten => self.beating.done(Instant::now()),
        }
    }

    /// Whether an answer belongs to the session that stands now.
    fn is_current(&self, incarnation: Incarnation) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.incarnation == incarnation)
    }

    fn step(&mut self, event: Event) {
        let effects = self.ownership.step(event, Instant::now());
        let mut releases = Vec::new();
        let mut successors: BTreeMap<AgentName, Vec<UnitName>> = BTreeMap::new();
        for effect in effects {
            match effect {
                Effect::Acquire(pipelines) => self.acquire(pipelines),
                Effect::Start(pipeline, _) => self.start_worker(pipeline),
                Effect::Prepare(pipeline, to) => successors.entry(to).or_default().push(pipeline),
                Effect::Stop(pipeline) => {
                    if let Some(running) = self.running.get(&pipeline) {
                        running.stop.cancel();
                    }
                }
                Effect::Release(pipeline, to) => releases.push((pipeline, to)),
                Effect::LookAgainIn(delay) => self.look_in(delay),
            }
        }
        if !successors.is_empty() {
            self.ask(successors);
        }
        if !releases.is_empty() {
            self.release(releases);
        }
    }
}

async fn due(chore: &Chore) {
    match chore.due() {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
