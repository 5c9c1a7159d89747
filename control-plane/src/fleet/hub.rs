//! The task that owns the fleet's state.
//!
//! It reads the database every second and whenever somebody says that it changed, at most one read
//! at a time and never busier than half the time; where a read takes long, it takes at most a tenth of
//! the time unless something changed. Ownership and health are published a moment after they arrive,
//! all those of the moment in one view; lags with them, or some moments later.

use std::{collections::BTreeMap, error::Error, panic::resume_unwind, sync::Arc, time::Duration};

use tide_catalog::CatalogError;
use tide_model::{
    AgentName,
    fleet::DatabaseView,
    report::{AgentIdentity, OwnershipDigest, ReportMessage},
};
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    DatabaseHealth, Wake,
    admission::{Admission, Crowded},
    link::{Down, Event, Welcome},
    shown::Shown,
    state::{FleetState, StreamId},
    view::View,
};
use crate::{database::Database, leadership::Standing, metrics};

/// How old the database's half of the view may become while the database answers.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Between two reads there is at least this.
const READ_GAP: Duration = Duration::from_millis(20);
/// Reading takes at most one part in this many of the time while nothing changes.
const READ_SHARE: u32 = 10;
/// A change of ownership or health is published within this, in a fleet of ordinary size.
const PUBLISH_WITHIN: Duration = Duration::from_millis(25);
/// Everything else is published within this.
const PUBLISH_LAGS_WITHIN: Duration = Duration::from_millis(500);
/// What is silent is seen to be stale this much late at most.
const AGE_EVERY: Duration = Duration::from_secs(1);
/// Making views takes at most one part in this many of the time.
const PUBLISH_SHARE: u32 = 5;
/// Metrics are made from every view of so many pipelines, and of more this often at most.
const SMALL: usize = 1_000;
const METRICS_EVERY: Duration = Duration::from_secs(1);
/// How often lags are worth knowing.
const LAG_EVERY: Duration = Duration::from_secs(1);
/// Lags of a large fleet come less often, so that no more than this many come in a second.
const LAGS_A_SECOND: usize = 20_000;

/// The hub cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("reading the fleet panicked")]
pub(crate) struct HubError(#[from] JoinError);

/// Where the hub publishes.
pub(super) struct Outlets {
    pub(super) views: watch::Sender<Arc<View>>,
    pub(super) databases: watch::Sender<Arc<DatabaseView>>,
    pub(super) health: watch::Sender<DatabaseHealth>,
}

/// State and streams of one group.
pub(super) struct Hub {
    state: FleetState,
    shown: Shown,
    admission: Admission,
    database: Database,
    events: mpsc::Receiver<Event>,
    wake: Arc<Wake>,
    outlets: Outlets,
    streams: BTreeMap<StreamId, Outbound>,
    newest_stream: StreamId,
    reading: Reading,
    publishing: Publishing,
}

/// The way down to one agent.
struct Outbound {
    agent: AgentName,
    down: mpsc::Sender<Down>,
}

/// At most one read of the database, and when the next one is due.
struct Reading {
    task: JoinSet<Read>,
    begun_at: Instant,
    begun_after: StreamId,
    due: Instant,
    not_before: Instant,
}

/// The database, and where by it each pipeline should be.
type Read = Result<(DatabaseView, Vec<Option<AgentName>>), CatalogError>;

/// When the next view is due.
struct Publishing {
    due: Instant,
    /// Not before this: making the last one took its time.
    not_before: Instant,
    counted_at: Option<Instant>,
}

/// What happened.
enum Turn {
    Stop,
    Answered(Result<Read, JoinError>),
    Publish,
    Read,
    LookAgain,
    Nudge,
    Heard(Event),
}

impl Hub {
    pub(super) fn new(
        state: FleetState,
        shown: Shown,
        database: Database,
        events: mpsc::Receiver<Event>,
        wake: Arc<Wake>,
        outlets: Outlets,
    ) -> Self {
        let now = Instant::now();
        Self {
            state,
            shown,
            admission: Admission::default(),
            database,
            events,
            wake,
            outlets,
            streams: BTreeMap::new(),
            newest_stream: StreamId(0),
            reading: Reading {
                task: JoinSet::new(),
                begun_at: now,
                begun_after: StreamId(0),
                due: now,
                not_before: now,
            },
            publishing: Publishing {
                due: now,
                not_before: now,
                counted_at: None,
            },
        }
    }

    /// Runs until the token is cancelled.
    pub(super) async fn run(
        mut self,
        standing: watch::Receiver<Standing>,
        stop: CancellationToken,
    ) -> Result<(), HubError> {
        loop {
            match self.next(&stop).await {
                Turn::Stop => return Ok(()),
                Turn::Answered(read) => self.answered(read?),
                Turn::Publish => {
                    if matches!(*standing.borrow(), Standing::Standby(_)) {
                        self.shown.is_standby(OffsetDateTime::now_utc());
                    }
                    self.publish();
                }
                Turn::Read => self.read(),
                Turn::LookAgain => self.reading.due = self.reading.not_before,
                Turn::Nudge => self.nudge(),
                Turn::Heard(event) => self.heard(event),
            }
        }
    }

    async fn next(&mut self, stop: &CancellationToken) -> Turn {
        let reading = !self.reading.task.is_empty();
        tokio::select! {
            biased;
            () = stop.cancelled() => Turn::Stop,
            Some(read) = self.reading.task.join_next() => Turn::Answered(read),
            () = sleep_until(self.publishing.due) => Turn::Publish,
            () = sleep_until(self.reading.due), if !reading => Turn::Read,
            // While a read is under way the wish waits, because that read may have begun too early.
            () = self.wake.look_again.notified(), if !reading => Turn::LookAgain,
            () = self.wake.nudge.notified() => Turn::Nudge,
            Some(event) = self.events.recv() => Turn::Heard(event),
        }
    }

    fn read(&mut self) {
        self.reading.begun_at = Instant::now();
        self.reading.begun_after = self.newest_stream;
        let database = self.database.clone();
        self.reading.task.spawn(async move {
            let view = database.view().await?;
            // Of a large fleet this takes a while, in which the hub has other things to do.
            let with_moves = spawn_blocking(move || {
                let moves = view.moves();
                (view, moves)
            });
            match with_moves.await {
                Ok(read) => Ok(read),
                Err(error) => resume_unwind(error.into_panic()),
            }
        });
    }

    fn answered(&mut self, read: Read) {
        let now = Instant::now();
        // An attempt that failed has waited for the server already.
        let pause = read
            .as_ref()
            .map_or(READ_GAP, |_| now - self.reading.begun_at);
        self.reading.not_before = now + pause.max(READ_GAP);
        let patience = READ_EVERY.max(pause * READ_SHARE);
        self.reading.due = self
            .reading
            .not_before
            .max(self.reading.begun_at + patience);
        match read {
            Ok((view, moves)) => {
                self.shown.set_moves(moves.into());
                self.took_in(Arc::new(view), now);
            }
            Err(error) => self.note_trouble(&error, now),
        }
        // Also without an answer: what agents said has grown older.
        self.forget_gone_streams();
        self.publish_soon();
        self.admit();
    }

    fn took_in(&mut self, view: Arc<DatabaseView>, now: Instant) {
        let utc = OffsetDateTime::now_utc();
        for stream in self
            .state
            .database(Arc::clone(&view), self.reading.begun_after, utc)
        {
            self.displace(stream);
        }
        let wanting: Vec<StreamId> = self.state.wanting_snapshot().collect();
        for stream in wanting {
            self.admission.want(stream);
        }
        self.outlets.databases.send_replace(view);
        let health = DatabaseHealth {
            answered_at: now,
            tried_at: now,
            trouble: None,
        };
        let before = self.outlets.health.send_replace(health);
        if before.trouble.is_some() {
            let away = now - before.answered_at;
            info!(?away, "the database answers again");
        }
    }

    fn note_trouble(&self, error: &CatalogError, now: Instant) {
        let trouble: Arc<str> = error.to_string().into();
        self.outlets.health.send_modify(|health| {
            health.tried_at = now;
            if health.trouble.as_ref() != Some(&trouble) {
                let error: &dyn Error = error;
                warn!(
                    error,
                    "the database could not be read, serving the last view"
                );
                health.trouble = Some(trouble);
            }
        });
    }

    fn heard(&mut self, event: Event) {
        match event {
            Event::Connected {
                stream,
                identity,
                told,
                down,
            } => self.connected(stream, identity, told, down),
            Event::Reported {
                stream,
                sequence,
                message,
            } => {
                self.reported(stream, sequence, message);
            }
            Event::Disconnected { stream } => self.disconnected(stream),
        }
    }

    fn connected(
        &mut self,
        stream: StreamId,
        identity: AgentIdentity,
        told: Option<OwnershipDigest>,
        down: mpsc::Sender<Down>,
    ) {
        let (agent, incarnation) = (identity.name.clone(), identity.incarnation);
        self.newest_stream = self.newest_stream.max(stream);
        let outbound = Outbound {
            agent: agent.clone(),
            down,
        };
        if let Err(Crowded(after)) = self.admission.room() {
            outbound.say(Down::Crowded(after));
            return;
        }
        info!(%agent, %incarnation, version = identity.version, "agent connected");
        for replaced in self
            .state
            .connect(stream, identity, OffsetDateTime::now_utc())
        {
            // No farewell, which would forbid this very run to come back.
            self.streams.remove(&replaced);
            self.admission.done(replaced);
        }
        let resumed = told.is_some_and(|told| self.state.resume(stream, told));
        outbound.say(Down::Welcome(Welcome {
            resumed,
            lag_interval: lag_interval(self.state.database_view().pipelines.len()),
        }));
        self.streams.insert(stream, outbound);
        // An earlier stream of another run may count until the database is read again.
        let speaker = self.state.speaker(&agent);
        if let Some(speaker) = speaker.filter(|speaker| self.state.wants_snapshot(*speaker)) {
            self.admission.want(speaker);
        }
        if !self.state.is_named(&agent, incarnation) {
            // The run may be newer than what was read last.
            self.wake.look_again.notify_one();
        }
        self.publish_soon();
        self.admit();
    }

    fn reported(&mut self, stream: StreamId, sequence: u64, message: ReportMessage) {
        let whole = matches!(
            message,
            ReportMessage::Snapshot(_) | ReportMessage::SnapshotEnd { .. }
        );
        let goodbye = matches!(message, ReportMessage::Goodbye);
        let now = OffsetDateTime::now_utc();
        let applied = self.state.apply(stream, sequence, message, now);
        if whole {
            self.admission.done(stream);
        }
        if applied.needs_snapshot {
            self.admission.want(stream);
        }
        if whole || applied.needs_snapshot {
            self.admit();
        }
        if self.state.take_behind() {
            self.wake.look_again.notify_one();
        }
        self.publish_soon();
        if goodbye {
            self.disconnected(stream);
        }
    }

    fn disconnected(&mut self, stream: StreamId) {
        if let Some(outbound) = self.streams.remove(&stream) {
            info!(agent = %outbound.agent, "agent disconnected");
            self.state.disconnect(stream, OffsetDateTime::now_utc());
            let speaker = self.state.speaker(&outbound.agent);
            if let Some(speaker) = speaker.filter(|speaker| self.state.wants_snapshot(*speaker)) {
                self.admission.want(speaker);
            }
        }
        self.admission.done(stream);
        self.admit();
        self.publish_soon();
    }

    /// Asks whoever is next for a snapshot.
    fn admit(&mut self) {
        let now = Instant::now();
        loop {
            let still = |stream| self.state.wants_snapshot(stream);
            let Some(stream) = self.admission.next(now, still) else {
                return;
            };
            let outbound = self.streams.get(&stream);
            if !outbound.is_some_and(|outbound| outbound.say(Down::SnapshotRequest)) {
                self.admission.done(stream);
            }
        }
    }

    fn displace(&mut self, stream: StreamId) {
        if let Some(outbound) = self.streams.remove(&stream) {
            warn!(agent = %outbound.agent, "a former run of the agent was sent away");
            // If even this does not fit, dropping the sender ends the stream without a word.
            outbound.say(Down::Displaced);
        }
    }

    fn nudge(&self) {
        for outbound in self.streams.values() {
            // A full queue holds a nudge already, or belongs to an agent that does not read.
            outbound.say(Down::Nudge);
        }
    }

    /// A stream that broke while the queue was full could not say so.
    fn forget_gone_streams(&mut self) {
        let gone = |(stream, outbound): (&StreamId, &Outbound)| {
            outbound.down.is_closed().then_some(*stream)
        };
        for stream in self.streams.iter().filter_map(gone).collect::<Vec<_>>() {
            self.disconnected(stream);
        }
    }

    fn publish_soon(&mut self) {
        let dirty = self.state.dirty();
        if dirty.is_empty() {
            return;
        }
        let within = if dirty.urgent || dirty.database {
            PUBLISH_WITHIN
        } else {
            PUBLISH_LAGS_WITHIN
        };
        let due = (Instant::now() + within).max(self.publishing.not_before);
        self.publishing.due = self.publishing.due.min(due);
    }

    fn publish(&mut self) {
        let began = Instant::now();
        if self
            .shown
            .refresh(&mut self.state, OffsetDateTime::now_utc())
        {
            self.outlets
                .views
                .send_replace(Arc::new(self.shown.view().clone()));
        }
        let counted_at = self.publishing.counted_at;
        let small = self.shown.view().pipelines.iter().len() <= SMALL;
        if small || counted_at.is_none_or(|at| began >= at + METRICS_EVERY) {
            metrics::record_fleet(self.shown.view());
            self.publishing.counted_at = Some(began);
        }
        let now = Instant::now();
        self.publishing.not_before = now + (now - began) * PUBLISH_SHARE;
        // Some things change by getting older.
        self.publishing.due = (now + AGE_EVERY).max(self.publishing.not_before);
    }
}

/// How often each agent of a fleet of so many pipelines should tell its lags.
fn lag_interval(pipelines: usize) -> Duration {
    LAG_EVERY.max(Duration::from_secs_f64(
        pipelines as f64 / LAGS_A_SECOND as f64,
    ))
}

impl Outbound {
    /// Whether there was room for it.
    fn say(&self, word: Down) -> bool {
        self.down.try_send(word).is_ok()
    }
}
