//! Two looks at a pipeline: does it catch up, fall behind, or stand still? Pure.

use tide_model::{PipelineState, fleet::PipelineView};
use time::Duration;

/// What changed between two looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Trend {
    lag_rows_per_second: f64,
    stalled: bool,
}

impl Trend {
    /// Compares an earlier look with a later one.
    pub(super) fn between(before: &PipelineView, after: &PipelineView, apart: Duration) -> Self {
        let seconds = apart.as_seconds_f64();
        let rows = (after.lag_rows - before.lag_rows) as f64;
        let waited = before.lag_rows > 0 && after.lag_rows > 0;
        // A new owner starts where the old one ended; give it its time. A state that is not
        // healthy says more than that nothing moves.
        let same_owner = after.owner.is_some() && before.epoch == after.epoch;
        let says_it_runs = after.state == PipelineState::Running.as_str();
        Self {
            lag_rows_per_second: if seconds > 0.0 { rows / seconds } else { 0.0 },
            stalled: waited
                && same_owner
                && says_it_runs
                && before.last_change_id == after.last_change_id
                && after.lag_seconds >= seconds,
        }
    }

    /// Negative is catching up.
    pub(super) fn lag_rows_per_second(self) -> f64 {
        self.lag_rows_per_second
    }

    /// Whether messages waited all the time and none was delivered.
    pub(super) fn is_stalled(self) -> bool {
        self.stalled
    }
}
