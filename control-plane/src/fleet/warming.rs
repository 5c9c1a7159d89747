//! How much of the fleet has told what it does, and whether that is enough to plan by.
//!
//! A control plane that has just started knows what PostgreSQL knows, and of each agent nothing more
//! until it has reported. It shows that, and makes no plans: a plan by half of a picture moves the
//! wrong things. Agents that never report must not forbid plans forever, so the warm-up ends by itself.
//! Pure.

use tide_model::fleet::Coverage;
use time::{Duration, OffsetDateTime};

use super::state::FleetState;

/// This part of the live agents must have told everything.
const ENOUGH: f64 = 0.9;

/// From the start until enough is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Warming {
    at_most: Duration,
    /// Who is silent by then is silent. None once enough was known.
    until: Option<OffsetDateTime>,
}

impl Warming {
    /// Begins now, for at most this long.
    pub(crate) fn new(at_most: Duration, now: OffsetDateTime) -> Self {
        Self {
            at_most,
            until: Some(now + at_most),
        }
    }

    /// Begins anew: agents report to the active control plane only, so whoever becomes that knows as
    /// little as after a start.
    pub(super) fn restart(&mut self, now: OffsetDateTime) {
        self.until = Some(now + self.at_most);
    }

    /// What is known now. Once it was enough, it stays so: who falls silent later is seen to.
    pub(super) fn coverage(&mut self, state: &FleetState, now: OffsetDateTime) -> Coverage {
        let alive = state.database_view().agents.iter().filter(|row| row.alive);
        let (mut agents, mut told) = (0, 0);
        for row in alive {
            agents += 1;
            told += u32::from(state.has_told(&row.name));
        }
        let mut coverage = Coverage {
            agents,
            told,
            warming: false,
        };
        if coverage.share() >= ENOUGH || self.until.is_some_and(|until| now >= until) {
            self.until = None;
        }
        coverage.warming = self.until.is_some();
        coverage
    }
}
