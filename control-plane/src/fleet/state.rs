//! The pure half: what agents' streams and the database say, reduced to what counts.
//!
//! **Whose words count.** An agent may have several streams for a moment: it restarted, it
//! reconnected, or an old run of it came back from a freeze. The stream that counts is one of the
//! incarnation that the database names, and among equals the one that connected last. Words on the
//! others are heard and forgotten. When another stream begins to count it is asked for a snapshot,
//! because a delta means nothing without what it is a delta to; unless the same run proves by a digest
//! that what is known of it is what it told.
//!
//! **Sequences.** Within a stream, a message whose number is not above the last one is dropped; a
//! gap is closed by a snapshot. So any duplication and any reordering ends in the same state once
//! the newest snapshot has arrived. Of a pipeline, a report under a lower epoch than is known is
//! dropped.
//!
//! **Silence.** When a stream breaks, its last report stays, ages and becomes stale; a goodbye
//! takes it away at once.
//!
//! What changed is gathered ([`Dirty`]), so that views need not be made from everything each time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tide_model::{
    AgentName, Incarnation, UnitName,
    fleet::DatabaseView,
    report::{AgentIdentity, AgentReport, OwnershipDigest, PipelineReports, ReportMessage},
};
use time::OffsetDateTime;

use super::{
    claims::Claims,
    dirty::{Applied, Dirty},
};

/// No agent runs more; whatever an agent says, no more is kept of it.
const MOST_PIPELINES: usize = 100_000;

/// One stream of one agent; later connections have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(pub(crate) u64);

/// Everything that is known about one group.
#[derive(Debug, Clone)]
pub(crate) struct FleetState {
    database: Arc<DatabaseView>,
    /// The run of each agent that the database names.
    named: BTreeMap<AgentName, Incarnation>,
    streams: BTreeMap<StreamId, Stream>,
    /// The stream that counts, by agent.
    speakers: BTreeMap<AgentName, StreamId>,
    /// What the speakers said, and the last words of those who went silent.
    reports: BTreeMap<AgentName, AgentReport>,
    claims: Claims,
    dirty: Dirty,
    /// An agent has just said what the database must show by now, and what was read does not.
    behind: bool,
}

#[derive(Debug, Clone)]
struct Stream {
    agent: AgentName,
    incarnation: Incarnation,
    /// The newest message heard.
    sequence: u64,
    /// Whether a snapshot and everything since was heard.
    complete: bool,
    /// Chunks whose end has not come.
    chunks: Option<PipelineReports>,
}

impl FleetState {
    /// Nobody has reported yet.
    pub(crate) fn new(database: Arc<DatabaseView>) -> Self {
        let named = named_incarnations(&database);
        Self {
            claims: Claims::new(&database),
            database,
            named,
            streams: BTreeMap::new(),
            speakers: BTreeMap::new(),
            reports: BTreeMap::new(),
            dirty: Dirty::default(),
            behind: false,
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
                chunks: None,
            },
        );
        self.elect(&agent, now);
        // Already the hello is a sign of life.
        if self.speakers.get(&agent) == Some(&stream)
            && let Some(report) = self.reports.get_mut(&agent)
        {
            report.received_at = report.received_at.max(now);
        }
        self.dirty.urgent = true;
        self.dirty.agents.insert(agent);
        replaced
    }

    /// The agent of a stream that has just begun told this much earlier, by its own account. Whether
    /// that is exactly what is known; then it goes on from there.
    pub(crate) fn resume(&mut self, stream: StreamId, told: OwnershipDigest) -> bool {
        let Some(heard) = self.streams.get_mut(&stream) else {
            return false;
        };
        let counts = self.speakers.get(&heard.agent) == Some(&stream);
        let known = self.reports.get(&heard.agent).filter(|report| {
            // A report that never was complete has sequence 0: an empty one proves nothing.
            counts && report.complete && report.incarnation == heard.incarnation
        });
        heard.complete = known.is_some_and(|report| OwnershipDigest::of(&report.pipelines) == told);
        heard.complete
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
            heard.chunks = None;
        }
        heard.sequence = sequence;
        let agent = heard.agent.clone();
        let counts = self.speakers.get(&agent) == Some(&stream);
        let Some(report) = self.reports.get_mut(&agent).filter(|_| counts) else {
            // Should it begin to count later, it is asked for a snapshot then.
            heard.chunks = None;
            return Applied::default();
        };
        report.sequence = sequence;
        report.received_at = report.received_at.max(now);
        self.dirty.agents.insert(agent.clone());
        let chunks = heard.chunks.take();
        let changed = match message {
            ReportMessage::Heartbeat { digest } => {
                if digest.is_some_and(|told| OwnershipDigest::of(&report.pipelines) != told) {
                    heard.complete = false;
                }
                false
            }
            ReportMessage::Snapshot(pipelines) => {
                heard.complete = true;
                report.complete = true;
                self.replace(&agent, pipelines)
            }
            ReportMessage::SnapshotChunk(chunk) => {
                let mut chunks = chunks.unwrap_or_default();
                chunks.extend(chunk);
                heard.chunks = Some(chunks).filter(|chunks| chunks.len() <= MOST_PIPELINES);
                // Whether it is whole is not known before its end.
                return Applied::default();
            }
            ReportMessage::SnapshotEnd { count, digest } => {
                let all = chunks.unwrap_or_default();
                if all.len() as u64 == count && OwnershipDigest::of(&all) == digest {
                    heard.complete = true;
                    report.complete = true;
                    self.replace(&agent, all)
                } else {
                    heard.complete = false;
                    false
                }
            }
            ReportMessage::Delta { changed, removed } => {
                self.merge(&agent, changed, &removed);
                true
            }
            ReportMessage::Lag(lags) => {
                for (name, lag) in lags {
                    if let Some(known) = report.pipelines.get_mut(&name) {
                        known.set_lag(lag);
                        self.dirty.pipelines.insert(name);
                    }
                }
                true
            }
            ReportMessage::Goodbye => {
                self.forget(&agent);
                self.streams.remove(&stream);
                self.elect(&agent, now);
                return Applied {
                    changed: true,
                    needs_snapshot: false,
                };
            }
        };
        Applied {
            changed,
            needs_snapshot: self
                .streams
                .get(&stream)
                .is_some_and(|heard| !heard.complete),
        }
    }

    /// A stream ended, in whatever way.
    pub(crate) fn disconnect(&mut self, stream: StreamId, now: OffsetDateTime) {
        if let Some(ended) = self.streams.remove(&stream) {
            self.elect(&ended.agent, now);
            self.dirty.agents.insert(ended.agent);
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
        let heard: BTreeMap<&AgentName, &PipelineReports> = self
            .speakers
            .keys()
            .filter_map(|agent| Some((agent, &self.reports.get(agent)?.pipelines)))
            .collect();
        self.claims.database(&self.database, &database, &heard);
        self.database = database;
        let former = std::mem::replace(&mut self.named, named_incarnations(&self.database));
        let named = &self.named;
        let displaced: Vec<(StreamId, Stream)> = self
            .streams
            .extract_if(..=begun_after, |_, stream| {
                named
                    .get(&stream.agent)
                    .is_some_and(|incarnation| *incarnation != stream.incarnation)
            })
            .collect();
        let renamed = self
            .named
            .iter()
            .filter(|(agent, run)| former.get(*agent) != Some(run));
        let mut affected: BTreeSet<AgentName> = renamed.map(|(agent, _)| agent.clone()).collect();
        affected.extend(displaced.iter().map(|(_, stream)| stream.agent.clone()));
        for agent in affected {
            self.elect(&agent, now);
        }
        let over: Vec<AgentName> = self
            .reports
            .iter()
            .filter(|(agent, report)| {
                !self.speakers.contains_key(*agent)
                    && self.named.get(*agent) != Some(&report.incarnation)
            })
            .map(|(agent, _)| agent.clone())
            .collect();
        for agent in over {
            self.forget(&agent);
        }
        self.dirty.database = true;
        displaced.into_iter().map(|(id, _)| id).collect()
    }

    /// Streams that count and have to be asked for a snapshot.
    pub(crate) fn wanting_snapshot(&self) -> impl Iterator<Item = StreamId> {
        self.speakers
            .values()
            .filter(|id| self.wants_snapshot(**id))
            .copied()
    }

    /// Whether a stream counts and has to be asked for a snapshot.
    pub(crate) fn wants_snapshot(&self, id: StreamId) -> bool {
        self.streams
            .get(&id)
            .is_some_and(|stream| !stream.complete && self.speakers.get(&stream.agent) == Some(&id))
    }

    /// The stream of an agent whose words count.
    pub(crate) fn speaker(&self, agent: &AgentName) -> Option<StreamId> {
        self.speakers.get(agent).copied()
    }

    /// Whether the database names this run of an agent.
    pub(crate) fn is_named(&self, agent: &AgentName, run: Incarnation) -> bool {
        self.named.get(agent) == Some(&run)
    }

    /// Whether an agent, on the stream that counts, has told everything that it runs.
    pub(crate) fn has_told(&self, agent: &AgentName) -> bool {
        let stream = self.speakers.get(agent).and_then(|id| self.streams.get(id));
        stream.is_some_and(|stream| stream.complete)
    }

    /// What the database said last.
    pub(crate) fn database_view(&self) -> &Arc<DatabaseView> {
        &self.database
    }

    /// What agents say.
    pub(crate) fn reports(&self) -> &BTreeMap<AgentName, AgentReport> {
        &self.reports
    }

    /// Who claims what by the agents' words alone.
    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What may look different, since this was last asked for.
    pub(crate) fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    /// Whether reading the database again would tell something new, by what agents have said since
    /// this was last asked.
    pub(crate) fn take_behind(&mut self) -> bool {
        std::mem::take(&mut self.behind)
    }

    /// What may look different, for others to add to.
    pub(super) fn dirty(&mut self) -> &mut Dirty {
        &mut self.dirty
    }

    /// Everything that an agent runs. Whether that is news.
    fn replace(&mut self, agent: &AgentName, pipelines: PipelineReports) -> bool {
        let Some(report) = self.reports.get_mut(agent) else {
            return false;
        };
        if report.pipelines == pipelines {
            return false;
        }
        let before = std::mem::replace(&mut report.pipelines, pipelines);
        let gone = before
            .keys()
            .filter(|name| !report.pipelines.contains_key(*name));
        for name in gone {
            self.claims.removed(agent, name);
        }
        for name in report.pipelines.keys() {
            self.behind |= self.claims.claimed(agent, name);
        }
        self.dirty.urgent = true;
        self.dirty
            .pipelines
            .extend(report.pipelines.keys().cloned());
        self.dirty.pipelines.extend(before.into_keys());
        true
    }

    /// What an agent says to have changed.
    fn merge(&mut self, agent: &AgentName, changed: PipelineReports, removed: &[UnitName]) {
        let Some(report) = self.reports.get_mut(agent) else {
            return;
        };
        for (name, new) in changed {
            let old = report.pipelines.get(&name);
            let too_many = old.is_none() && report.pipelines.len() >= MOST_PIPELINES;
            if too_many || old.is_some_and(|old| old.epoch > new.epoch) {
                continue;
            }
            self.dirty.urgent |= old.is_none_or(|old| {
                (old.epoch, old.state, &old.reason) != (new.epoch, new.state, &new.reason)
            });
            self.dirty.pipelines.insert(name.clone());
            self.behind |= self.claims.claimed(agent, &name);
            report.pipelines.insert(name, new);
        }
        for name in removed {
            if report.pipelines.remove(name).is_some() {
                self.behind = true;
                self.claims.removed(agent, name);
                self.dirty.urgent = true;
                self.dirty.pipelines.insert(name.clone());
            }
        }
    }

    fn forget(&mut self, agent: &AgentName) {
        if let Some(report) = self.reports.remove(agent) {
            for name in report.pipelines.keys() {
                self.claims.removed(agent, name);
            }
            self.dirty.urgent = true;
            self.dirty.pipelines.extend(report.pipelines.into_keys());
        }
        self.dirty.agents.insert(agent.clone());
    }

    /// Finds out whose words count for an agent. A new speaker begins with nothing said, unless it is
    /// the same run on another stream.
    fn elect(&mut self, agent: &AgentName, now: OffsetDateTime) {
        let named = self.named.get(agent);
        let streams = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.agent == *agent);
        let elected = streams
            .map(|(id, stream)| (named == Some(&stream.incarnation), *id))
            .max();
        let Some((_, id)) = elected else {
            if self.speakers.remove(agent).is_some() {
                self.fell_silent(agent);
            }
            return;
        };
        let former = self.speakers.insert(agent.clone(), id);
        if former == Some(id) {
            return;
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.complete = false;
        let (incarnation, sequence) = (stream.incarnation, stream.sequence);
        let known = self.reports.get(agent);
        if known.is_none_or(|report| report.incarnation != incarnation) {
            self.forget(agent);
            let silent = AgentReport {
                incarnation,
                sequence,
                received_at: now,
                complete: false,
                pipelines: PipelineReports::new(),
            };
            self.reports.insert(agent.clone(), silent);
        } else if former.is_none() {
            self.claim_again(agent);
        }
    }

    /// Last words stay, but nobody stands by them: the agent may be gone, and another may rightly run
    /// what it ran.
    fn fell_silent(&mut self, agent: &AgentName) {
        if let Some(report) = self.reports.get(agent) {
            for name in report.pipelines.keys() {
                self.claims.removed(agent, name);
                self.dirty.pipelines.insert(name.clone());
            }
        }
    }

    /// Somebody stands by the last words again.
    fn claim_again(&mut self, agent: &AgentName) {
        if let Some(report) = self.reports.get(agent) {
            for name in report.pipelines.keys() {
                self.behind |= self.claims.claimed(agent, name);
                self.dirty.pipelines.insert(name.clone());
            }
        }
    }
}

fn named_incarnations(database: &DatabaseView) -> BTreeMap<AgentName, Incarnation> {
    database
        .agents
        .iter()
        .map(|row| (row.name.clone(), row.incarnation))
        .collect()
}
