//! A server whose lock table is full: says which pipelines have to wait, and asks again later.

use std::{collections::BTreeSet, time::Duration};

use metrics::gauge;
use tide_daemon::backoff::Backoff;
use tide_model::UnitName;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::metrics as names;

/// Shortest and longest time until pipelines that found no room are asked for again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// So many of them are named in the log.
const NAMED: usize = 10;

/// Pipelines that could not be locked for want of room. What is locked stays locked.
#[derive(Debug)]
pub(crate) struct Crowding {
    waiting: BTreeSet<UnitName>,
    again: Instant,
    backoff: Backoff,
}

impl Crowding {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            waiting: BTreeSet::new(),
            again: now,
            backoff: Backoff::new(AGAIN.0, AGAIN.1),
        }
    }

    /// Those of `pipelines` that the server may be asked for now.
    pub(crate) fn admitted(&self, pipelines: &[UnitName], now: Instant) -> Vec<UnitName> {
        let admitted = |name: &&UnitName| now >= self.again || !self.waiting.contains(*name);
        pipelines.iter().filter(admitted).cloned().collect()
    }

    /// What became of those that were asked for: `full` found no room.
    pub(crate) fn note(&mut self, asked: &[UnitName], full: &[UnitName], now: Instant) {
        let before = self.waiting.len();
        for name in asked {
            self.waiting.remove(name);
        }
        self.waiting.extend(full.iter().cloned());
        gauge!(names::UNLOCKABLE_PIPELINES).set(self.waiting.len() as f64);
        if !full.is_empty() {
            self.again = now + self.backoff.next();
        }
        match (before, self.waiting.len()) {
            (0, 0) => {}
            (_, 0) => {
                self.backoff.reset();
                info!("every pipeline has found room in the server's lock table");
            }
            (before, waiting) if before != waiting => {
                let first: Vec<&str> = self
                    .waiting
                    .iter()
                    .take(NAMED)
                    .map(UnitName::as_str)
                    .collect();
                warn!(
                    waiting,
                    pipelines = first.join(", "),
                    hint = "raise max_locks_per_transaction on the server",
                    "the server's lock table is full: these pipelines wait, what runs goes on"
                );
            }
            (_, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_found_no_room_is_asked_for_again_later_and_the_rest_at_once() {
        let now = Instant::now();
        let names: Vec<UnitName> = ["a", "b", "c"].map(|name| name.parse().unwrap()).into();
        let mut crowding = Crowding::new(now);
        assert_eq!(crowding.admitted(&names, now), names);
        crowding.note(&names[..2], &names[1..2], now);
        assert_eq!(
            crowding.admitted(&names, now),
            [names[0].clone(), names[2].clone()]
        );
        let later = now + AGAIN.1;
        assert_eq!(crowding.admitted(&names, later), names);
        crowding.note(&names, &[], later);
        assert_eq!(crowding.admitted(&names, now), names, "there is room");
    }
}
