//! The pure half: what agents' streams and the database say, reduced to one view.
//!
//! **Whose words count.** An agent may have several streams for a moment: it restarted, it
//! reconnected, or an old run of it came back from a freeze. The stream that counts is one of the
//! incarnation that the database names, and among equals the one that connected last. Words on the
//! others are heard and forgotten. When another stream begins to count it is asked for a snapshot,
//! because a delta means nothing without what it is a delta to.
//!
//! **Sequences.** Within a stream, a message whose number is not above the last one is dropped; a
//! gap is closed by a snapshot. So any duplication and any reordering ends in the same state once
//! the newest snapshot has arrived.
//!
//! **Silence.** When a stream breaks, its last report stays, ages and becomes stale; a goodbye
//! takes it away at once.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use tide_model::{
    AgentName, Incarnation,
    fleet::{DatabaseView, FleetView},
    report::{AgentIdentity, AgentReport, ReportMessage},
};
use time::OffsetDateTime;

/// One stream of one agent; later connections have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(pub(crate) u64);

/// What a message did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Applied {
    /// Whether watchers see something else now.
    pub(crate) changed: bool,
    /// Whether something was missed that only a snapshot can tell.
    pub(crate) needs_snapshot: bool,
}

/// Everything that is known about one group.
#[derive(Debug, Clone)]
pub(crate) struct FleetState {
    database: Arc<DatabaseView>,
    streams: BTreeMap<StreamId, Stream>,
    /// The stream that counts, by agent.
    speakers: BTreeMap<AgentName, StreamId>,
    /// What the speakers said, and the last words of those who went silent.
    reports: BTreeMap<AgentName, AgentReport>,
}

#[derive(Debug, Clone)]
struct Stream {
    agent: AgentName,
    incarnation: Incarnation,
    /// The newest message heard.
    sequence: u64,
    /// Whether a snapshot and everything since was heard.
    complete: bool,
}

impl FleetState {
    /// Nobody has reported yet.
    pub(crate) fn new(database: Arc<DatabaseView>) -> Self {
        Self {
            database,
            streams: BTreeMap::new(),
            speakers: BTreeMap::new(),
            reports: BTreeMap::new(),
        }
    }

    /// A stream began with a hello, which is its message number 1. Returns the streams that it
    /// replaces: earlier ones of the same run.
    pub(crate) fn connect(
        &mut self,
        stream: StreamId,
        identity: AgentIdentity,
        now: OffsetDateTime,
    ) -> Vec<StreamId> {
        let same_run = |other: &Stream| {
            other.agent == identity.name && other.incarnation == identity.incarnation
        };
        let replaced: Vec<StreamId> = self
            .streams
            .extract_if(..stream, |_, other| same_run(other))
            .map(|(id, _)| id)
            .collect();
        let agent = identity.name;
        self.streams.insert(
            stream,
            Stream {
                agent: agent.clone(),
                incarnation: identity.incarnation,
                sequence: 1,
                complete: false,
            },
        );
        self.elect(now);
        // Already the hello is a sign of life.
        if self.speakers.get(&agent) == Some(&stream)
            && let Some(report) = self.reports.get_mut(&agent)
        {
            report.received_at = report.received_at.max(now);
        }
        replaced
    }

    /// A message arrived on a stream. Late, repeated and displaced words change nothing.
    pub(crate) fn apply(
        &mut self,
        stream: StreamId,
        sequence: u64,
        message: ReportMessage,
        now: OffsetDateTime,
    ) -> Applied {
        let Some(heard) = self.streams.get_mut(&stream) else {
            return Applied::default();
        };
        if sequence <= heard.sequence {
            return Applied::default();
        }
        if sequence != heard.sequence + 1 {
            heard.complete = false;
        }
        heard.sequence = sequence;
        let counts = self.speakers.get(&heard.agent) == Some(&stream);
        let Some(report) = self.reports.get_mut(&heard.agent).filter(|_| counts) else {
            // Should it begin to count later, it is asked for a snapshot then.
            return Applied::default();
        };
        report.sequence = sequence;
        report.received_at = report.received_at.max(now);
        let changed = match message {
            ReportMessage::Heartbeat => false,
            ReportMessage::Snapshot(pipelines) => {
                heard.complete = true;
                let changed = report.pipelines != pipelines;
                report.pipelines = pipelines;
                changed
            }
            ReportMessage::Delta { changed, removed } => {
                report.pipelines.extend(changed);
                for pipeline in &removed {
                    report.pipelines.remove(pipeline);
                }
                true
            }
            ReportMessage::Goodbye => {
                let agent = heard.agent.clone();
                self.reports.remove(&agent);
                self.streams.remove(&stream);
                self.elect(now);
                return Applied {
                    changed: true,
                    needs_snapshot: false,
                };
            }
        };
        Applied {
            changed,
            needs_snapshot: !heard.complete,
        }
    }

    /// A stream ended, in whatever way.
    pub(crate) fn disconnect(&mut self, stream: StreamId, now: OffsetDateTime) {
        if self.streams.remove(&stream).is_some() {
            self.elect(now);
        }
    }

    /// The database was read anew; `begun_after` is the newest stream that existed when the read
    /// began. Returns the streams that it displaces: an agent registers each run before it
    /// connects, so a stream that is older than the read and not of the run that the database
    /// names belongs to a run that is over.
    pub(crate) fn database(
        &mut self,
        database: Arc<DatabaseView>,
        begun_after: StreamId,
        now: OffsetDateTime,
    ) -> Vec<StreamId> {
        self.database = database;
        let named = named_incarnations(&self.database);
        let displaced: Vec<StreamId> = self
            .streams
            .extract_if(..=begun_after, |_, stream| {
                named
                    .get(&stream.agent)
                    .is_some_and(|incarnation| *incarnation != stream.incarnation)
            })
            .map(|(id, _)| id)
            .collect();
        self.elect(now);
        self.reports.retain(|agent, report| {
            self.speakers.contains_key(agent) || named.get(agent) == Some(&report.incarnation)
        });
        displaced
    }

    /// Streams that count and have to be asked for a snapshot.
    pub(crate) fn wanting_snapshot(&self) -> impl Iterator<Item = StreamId> {
        let wants = |id: &&StreamId| self.streams.get(id).is_some_and(|stream| !stream.complete);
        self.speakers.values().filter(wants).copied()
    }

    /// What the database said last.
    pub(crate) fn database_view(&self) -> &Arc<DatabaseView> {
        &self.database
    }

    /// The fleet as operators see it.
    pub(crate) fn view(&self, now: OffsetDateTime) -> FleetView {
        FleetView::build(&self.database, &self.reports, now)
    }

    /// Finds out whose words count. A new speaker begins with nothing said, unless it is the same
    /// run on another stream.
    fn elect(&mut self, now: OffsetDateTime) {
        let named = named_incarnations(&self.database);
        let mut elected: BTreeMap<AgentName, (bool, StreamId)> = BTreeMap::new();
        for (id, stream) in &self.streams {
            let rank = (named.get(&stream.agent) == Some(&stream.incarnation), *id);
            match elected.entry(stream.agent.clone()) {
                Entry::Vacant(entry) => drop(entry.insert(rank)),
                Entry::Occupied(mut entry) => {
                    let best = rank.max(*entry.get());
                    entry.insert(best);
                }
            }
        }
        for (agent, (_, id)) in &elected {
            if self.speakers.get(agent) == Some(id) {
                continue;
            }
            let Some(stream) = self.streams.get_mut(id) else {
                continue;
            };
            stream.complete = false;
            let known = self.reports.get(agent);
            if known.is_none_or(|report| report.incarnation != stream.incarnation) {
                let silent = AgentReport {
                    incarnation: stream.incarnation,
                    sequence: stream.sequence,
                    received_at: now,
                    pipelines: BTreeMap::new(),
                };
                self.reports.insert(agent.clone(), silent);
            }
        }
        self.speakers = elected
            .into_iter()
            .map(|(agent, (_, id))| (agent, id))
            .collect();
    }
}

fn named_incarnations(database: &DatabaseView) -> BTreeMap<AgentName, Incarnation> {
    database
        .agents
        .iter()
        .map(|row| (row.name.clone(), row.incarnation))
        .collect()
}
