//! The task that owns the fleet's state.
//!
//! It reads the database every second and whenever somebody says that it changed, at most one read
//! at a time and never busier than half the time. Changes are published a moment after they
//! arrive, all those of the moment in one view; the larger the fleet, the longer the moment.

use std::{collections::BTreeMap, error::Error, sync::Arc, time::Duration};

use tide_catalog::CatalogError;
use tide_model::{
    AgentName,
    fleet::{DatabaseView, FleetView},
    report::{AgentIdentity, ReportMessage},
};
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    DatabaseHealth, Wake,
    link::{Down, Event},
    state::{FleetState, StreamId},
};
use crate::{database::Database, metrics};

/// How old the database's half of the view may become while the database answers.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Between two reads there is at least this.
const READ_GAP: Duration = Duration::from_millis(20);
/// A change is published within this, in a fleet of ordinary size.
const PUBLISH_WITHIN: Duration = Duration::from_millis(50);
/// Building views takes at most one part in this many of the time.
const PUBLISH_SHARE: u32 = 5;

/// The hub cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("reading the fleet panicked")]
pub(crate) struct HubError(#[from] JoinError);

/// Where the hub publishes.
pub(super) struct Outlets {
    pub(super) views: watch::Sender<Arc<FleetView>>,
    pub(super) databases: watch::Sender<Arc<DatabaseView>>,
    pub(super) health: watch::Sender<DatabaseHealth>,
}

/// State and streams of one group.
pub(super) struct Hub {
    state: FleetState,
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
    /// A request is under way; another one would say nothing new.
    asked: bool,
}

/// At most one read of the database, and when the next one is due.
struct Reading {
    task: JoinSet<Read>,
    begun_at: Instant,
    begun_after: StreamId,
    due: Instant,
    not_before: Instant,
}

type Read = Result<DatabaseView, CatalogError>;

/// When the next view is due.
struct Publishing {
    due: Option<Instant>,
    /// How long changes are gathered.
    moment: Duration,
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
        database: Database,
        events: mpsc::Receiver<Event>,
        wake: Arc<Wake>,
        outlets: Outlets,
    ) -> Self {
        let now = Instant::now();
        Self {
            state,
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
                due: Some(now),
                moment: PUBLISH_WITHIN,
            },
        }
    }

    /// Runs until the token is cancelled.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), HubError> {
        loop {
            match self.next(&stop).await {
                Turn::Stop => return Ok(()),
                Turn::Answered(read) => self.answered(read?),
                Turn::Publish => self.publish(),
                Turn::Read => self.read(),
                Turn::LookAgain => self.reading.due = self.reading.not_before,
                Turn::Nudge => self.nudge(),
                Turn::Heard(event) => self.heard(event),
            }
        }
    }

    async fn next(&mut self, stop: &CancellationToken) -> Turn {
        let reading = !self.reading.task.is_empty();
        let publish_at = self.publishing.due.unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            () = stop.cancelled() => Turn::Stop,
            Some(read) = self.reading.task.join_next() => Turn::Answered(read),
            () = sleep_until(publish_at), if self.publishing.due.is_some() => Turn::Publish,
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
        self.reading
            .task
            .spawn(async move { database.view().await });
    }

    fn answered(&mut self, read: Read) {
        let now = Instant::now();
        // An attempt that failed has waited for the server already.
        let pause = read
            .as_ref()
            .map_or(READ_GAP, |_| now - self.reading.begun_at);
        self.reading.not_before = now + pause.max(READ_GAP);
        self.reading.due = self
            .reading
            .not_before
            .max(self.reading.begun_at + READ_EVERY);
        match read {
            Ok(view) => self.took_in(Arc::new(view), now),
            Err(error) => self.note_trouble(&error, now),
        }
        // Also without an answer: what agents said has grown older.
        self.forget_gone_streams();
        self.publish_soon();
    }

    fn took_in(&mut self, view: Arc<DatabaseView>, now: Instant) {
        let utc = OffsetDateTime::now_utc();
        for stream in self
            .state
            .database(Arc::clone(&view), self.reading.begun_after, utc)
        {
            self.displace(stream);
        }
        self.ask_for_snapshots();
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
                down,
            } => self.connected(stream, identity, down),
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

    fn connected(&mut self, stream: StreamId, identity: AgentIdentity, down: mpsc::Sender<Down>) {
        let (agent, incarnation) = (identity.name.clone(), identity.incarnation);
        info!(%agent, %incarnation, version = identity.version, "agent connected");
        self.newest_stream = self.newest_stream.max(stream);
        self.streams.insert(
            stream,
            Outbound {
                agent,
                down,
                asked: false,
            },
        );
        for replaced in self
            .state
            .connect(stream, identity, OffsetDateTime::now_utc())
        {
            // No farewell, which would forbid this very run to come back.
            self.streams.remove(&replaced);
        }
        self.ask_for_snapshots();
        // The run may be newer than what was read last.
        self.wake.look_again.notify_one();
        self.publish_soon();
    }

    fn reported(&mut self, stream: StreamId, sequence: u64, message: ReportMessage) {
        let snapshot = matches!(message, ReportMessage::Snapshot(_));
        let goodbye = matches!(message, ReportMessage::Goodbye);
        let now = OffsetDateTime::now_utc();
        let applied = self.state.apply(stream, sequence, message, now);
        if let Some(outbound) = self.streams.get_mut(&stream) {
            outbound.asked &= !snapshot;
            if applied.needs_snapshot {
                outbound.ask();
            }
        }
        if applied.changed {
            self.publish_soon();
        }
        if goodbye {
            self.disconnected(stream);
        }
    }

    fn disconnected(&mut self, stream: StreamId) {
        if let Some(outbound) = self.streams.remove(&stream) {
            info!(agent = %outbound.agent, "agent disconnected");
        }
        self.state.disconnect(stream, OffsetDateTime::now_utc());
        self.ask_for_snapshots();
        self.publish_soon();
    }

    fn ask_for_snapshots(&mut self) {
        for stream in self.state.wanting_snapshot() {
            if let Some(outbound) = self.streams.get_mut(&stream) {
                outbound.ask();
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
        let due = Instant::now() + self.publishing.moment;
        self.publishing.due.get_or_insert(due);
    }

    fn publish(&mut self) {
        let began = Instant::now();
        let view = self.state.view(OffsetDateTime::now_utc());
        metrics::record_fleet(&view);
        self.outlets.views.send_if_modified(|current| {
            let changed = **current != view;
            *current = Arc::new(view);
            changed
        });
        self.publishing.moment = PUBLISH_WITHIN.max(began.elapsed() * PUBLISH_SHARE);
        self.publishing.due = None;
    }
}

impl Outbound {
    fn ask(&mut self) {
        if !self.asked {
            self.asked = self.say(Down::SnapshotRequest);
        }
    }

    /// Whether there was room for it.
    fn say(&self, word: Down) -> bool {
        self.down.try_send(word).is_ok()
    }
}
