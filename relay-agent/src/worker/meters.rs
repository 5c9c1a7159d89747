//! What one worker counts.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

use super::{Context, Instant, Progress, Sink, SinkError};
use crate::metrics as names;

/// Handles to this pipeline's metrics, looked up once.
pub(super) struct Meters {
    delivered: Counter,
    pub(super) dead_lettered: Counter,
    filtered: Counter,
    pub(super) replay_delivered: Counter,
    pub(super) replay_refused: Counter,
    failures: [Counter; 4],
    duration: Histogram,
}

impl Meters {
    pub(super) fn new<S: Sink>(context: &Context) -> Self {
        let pipeline = context.pipeline.to_string();
        let labels = [("pipeline", pipeline.clone()), ("sink", S::KIND.to_owned())];
        let failure = |reason: &'static str| {
            counter!(
                names::DELIVERY_FAILURES, "pipeline" => pipeline.clone(), "sink" => S::KIND, "reason" => reason
            )
        };
        let replayed = |outcome: &'static str| counter!(names::LETTERS_REPLAYED, "pipeline" => pipeline.clone(), "outcome" => outcome);
        Self {
            replay_delivered: replayed("delivered"),
            replay_refused: replayed("refused"),
            delivered: counter!(names::MESSAGES_DELIVERED, &labels),
            dead_lettered: counter!(names::MESSAGES_DEAD_LETTERED, &labels),
            filtered: counter!(names::MESSAGES_FILTERED, &labels),
            failures: [
                failure("transient"),
                failure("rejected"),
                failure("misconfigured"),
                failure("gone"),
            ],
            duration: histogram!(names::DELIVERY_DURATION, "sink" => S::KIND),
        }
    }

    /// The first `done` messages of a batch are done. Returns how many of them the sink has.
    pub(super) fn passed(&self, progress: &Progress, done: usize, started: Instant) -> usize {
        let sent = progress.sent(done);
        self.filtered(done - sent);
        if sent > 0 {
            self.delivered.increment(sent as u64);
            let took: Duration = started.elapsed();
            self.duration.record(took);
        }
        sent
    }

    /// Messages that the pipeline's transforms keep from the sink.
    pub(super) fn filtered(&self, messages: usize) {
        self.filtered.increment(messages as u64);
    }

    pub(super) fn failed(&self, error: &SinkError) {
        let index = match error {
            // Counted with the writes that the catalog itself refuses.
            SinkError::Fenced { .. } => return,
            SinkError::Transient { .. } => 0,
            SinkError::Rejected { .. } => 1,
            SinkError::Misconfigured { .. } => 2,
            SinkError::Gone { .. } => 3,
        };
        self.failures[index].increment(1);
    }
}
