//! What an agent says next, so that what is urgent never waits for what is not.
//!
//! Three lanes: ownership and state leave at once; reasons that change while the state does not, as
//! they do with every attempt of a sink that fails, leave together after `REASONS_AFTER`; lags
//! leave at the interval that the control plane asks for. What waits is not a queue but the
//! difference between what was told and what is: however long nobody listens, it is as large as the
//! number of pipelines, and only the newest value of each is ever sent.

use std::{collections::BTreeMap, time::Duration};

use super::{LagReport, OwnershipDigest, PipelineReport, PipelineReports, ReportMessage};
use crate::UnitName;

/// How long a reason may wait for others.
const REASONS_AFTER: Duration = Duration::from_millis(250);
/// A message holds about this many bytes of pipelines at most.
const CHUNK_BYTES: usize = 256 << 10;
/// What a pipeline takes on the wire besides its name and its reason, at most.
const FIXED_BYTES: usize = 64;

/// How often to speak, as the control plane asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Something at least this often.
    pub heartbeat: Duration,
    /// Lags at most this often.
    pub lag: Duration,
}

/// Which messages the other side understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// All of them.
    Chunked,
    /// None of chunks and lags: snapshots come in one piece, and lags as changes.
    Whole,
}

/// What was told so far, and when. Moments are distances from a start that the caller chooses.
#[derive(Debug, Clone)]
pub struct Lanes {
    /// What the other side knows; none until it was told everything.
    told: Option<PipelineReports>,
    dialect: Dialect,
    pace: Pace,
    spoke_at: Duration,
    lag_at: Duration,
    /// Since when a reason waits.
    reason_since: Option<Duration>,
}

impl Lanes {
    /// Nothing was told yet. Lags are first due within the interval, at a point that `phase`, from 0
    /// to 1, says, so that agents which began together do not go on together.
    pub fn new(dialect: Dialect, pace: Pace, now: Duration, phase: f64) -> Self {
        Self {
            told: None,
            dialect,
            pace,
            spoke_at: now,
            lag_at: now + pace.lag.mul_f64(phase.clamp(0.0, 1.0)),
            reason_since: None,
        }
    }

    /// How often it speaks.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// The other side still knows what it was told before: `known` is that.
    pub fn resume(&mut self, known: PipelineReports) {
        self.told = Some(known);
    }

    /// What the other side knows, for a later [`resume`](Self::resume).
    pub fn told(&self) -> Option<&PipelineReports> {
        self.told.as_ref()
    }

    /// Everything at once, in chunks; what was waiting is in it.
    pub fn snapshot(&mut self, current: &PipelineReports, now: Duration) -> Vec<ReportMessage> {
        let messages = match self.dialect {
            Dialect::Whole => vec![ReportMessage::Snapshot(current.clone())],
            Dialect::Chunked => {
                let chunks = chunks(current.iter()).into_iter();
                let end = ReportMessage::SnapshotEnd {
                    count: current.len() as u64,
                    digest: OwnershipDigest::of(current),
                };
                chunks
                    .map(ReportMessage::SnapshotChunk)
                    .chain([end])
                    .collect()
            }
        };
        self.told = Some(current.clone());
        self.spoke_at = now;
        self.reason_since = None;
        messages
    }

    /// What is due now, of what changed since it was told; nothing before a snapshot but heartbeats.
    pub fn due(&mut self, current: &PipelineReports, now: Duration) -> Vec<ReportMessage> {
        let mut messages = Vec::new();
        if let Some(told) = &mut self.told {
            let removed: Vec<UnitName> = told
                .extract_if(.., |name, _| !current.contains_key(name))
                .map(|(name, _)| name)
                .collect();
            let mut changed = PipelineReports::new();
            let mut reasons = PipelineReports::new();
            let mut lags = BTreeMap::new();
            for (name, report) in current {
                match told.get(name) {
                    Some(old) if (old.epoch, old.state) != (report.epoch, report.state) => {
                        changed.insert(name.clone(), report.clone());
                    }
                    None => drop(changed.insert(name.clone(), report.clone())),
                    Some(old) if old.reason != report.reason => {
                        reasons.insert(name.clone(), report.clone());
                    }
                    Some(old) if old.lag() != report.lag() => {
                        lags.insert(name.clone(), report.lag());
                    }
                    Some(_) => {}
                }
            }
            if reasons.is_empty() {
                self.reason_since = None;
            } else {
                let since = *self.reason_since.get_or_insert(now);
                if now >= since + REASONS_AFTER || !changed.is_empty() {
                    changed.append(&mut reasons);
                    self.reason_since = None;
                }
            }
            told.extend(
                changed
                    .iter()
                    .map(|(name, report)| (name.clone(), report.clone())),
            );
            let mut removed = Some(removed).filter(|removed| !removed.is_empty());
            for changed in chunks(changed.iter()) {
                let removed = removed.take().unwrap_or_default();
                messages.push(ReportMessage::Delta { changed, removed });
            }
            if let Some(removed) = removed {
                let changed = PipelineReports::new();
                messages.push(ReportMessage::Delta { changed, removed });
            }
            if now >= self.lag_at {
                self.lag_at = now + self.pace.lag;
                for (name, lag) in &lags {
                    if let Some(report) = told.get_mut(name) {
                        report.set_lag(*lag);
                    }
                }
                if !lags.is_empty() {
                    messages.push(self.dialect.lag(lags, current));
                }
            }
        }
        if messages.is_empty() && now >= self.spoke_at + self.pace.heartbeat {
            let digest = self.told.as_ref().map(OwnershipDigest::of);
            messages.push(ReportMessage::Heartbeat { digest });
        }
        if !messages.is_empty() {
            self.spoke_at = now;
        }
        messages
    }
}

impl Dialect {
    fn lag(self, lags: BTreeMap<UnitName, LagReport>, current: &PipelineReports) -> ReportMessage {
        match self {
            Self::Chunked => ReportMessage::Lag(lags),
            Self::Whole => {
                let behind = current.iter().filter(|(name, _)| lags.contains_key(*name));
                ReportMessage::Delta {
                    changed: behind
                        .map(|(name, one)| (name.clone(), one.clone()))
                        .collect(),
                    removed: Vec::new(),
                }
            }
        }
    }
}

/// Parts that fit into a message each; none for nothing.
fn chunks<'a>(
    pipelines: impl Iterator<Item = (&'a UnitName, &'a PipelineReport)>,
) -> Vec<PipelineReports> {
    let mut chunks: Vec<PipelineReports> = Vec::new();
    let mut room = 0;
    for (name, report) in pipelines {
        let reason = report.reason.as_ref().map_or(0, String::len);
        let bytes = FIXED_BYTES + name.as_str().len() + reason;
        if room < bytes || chunks.is_empty() {
            chunks.push(PipelineReports::new());
            room = CHUNK_BYTES;
        }
        room = room.saturating_sub(bytes);
        if let Some(chunk) = chunks.last_mut() {
            chunk.insert(name.clone(), report.clone());
        }
    }
    chunks
}

#[cfg(test)]
mod tests;
