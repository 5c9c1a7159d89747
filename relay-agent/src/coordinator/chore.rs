//! Something done again and again, one at a time, and once more if it was asked for meanwhile.

use std::time::Duration;

use tokio::time::Instant;

/// When the next run is due, and whether one is under way.
#[derive(Debug)]
pub(super) struct Chore {
    due: Instant,
    running: bool,
    asked_meanwhile: bool,
}

impl Chore {
    /// First due at `due`.
    pub(super) fn new(due: Instant) -> Self {
        Self {
            due,
            running: false,
            asked_meanwhile: false,
        }
    }

    /// When to begin; none while it is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.running).then_some(self.due)
    }

    /// Asks for a run by `when` at the latest. What happens during a run may have come too late
    /// for it, so it is followed by another.
    pub(super) fn ask(&mut self, when: Instant) {
        self.asked_meanwhile |= self.running;
        self.due = self.due.min(when);
    }

    /// Begins a run, unless one is under way; without further asking the next is due after `every`.
    pub(super) fn begin(&mut self, now: Instant, every: Duration) -> bool {
        if self.running {
            self.asked_meanwhile = true;
            return false;
        }
        self.running = true;
        self.asked_meanwhile = false;
        self.due = now + every;
        true
    }

    /// The run is over.
    pub(super) fn done(&mut self, now: Instant) {
        self.running = false;
        if std::mem::take(&mut self.asked_meanwhile) {
            self.due = self.due.min(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(30);

    #[test]
    fn is_due_at_the_earliest_time_asked_for() {
        let now = Instant::now();
        let mut chore = Chore::new(now + EVERY);
        chore.ask(now + EVERY * 2);
        assert_eq!(chore.due(), Some(now + EVERY));
        chore.ask(now);
        assert_eq!(chore.due(), Some(now));
    }

    #[test]
    fn runs_again_at_once_when_asked_while_it_runs() {
        let now = Instant::now();
        let mut chore = Chore::new(now);
        assert!(chore.begin(now, EVERY));
        assert_eq!(chore.due(), None);
        chore.ask(now + EVERY);
        chore.done(now);
        assert_eq!(chore.due(), Some(now));
        assert!(chore.begin(now, EVERY));
        assert!(!chore.begin(now, EVERY), "one at a time");
        chore.done(now);
        assert!(chore.begin(now, EVERY));
        chore.done(now);
        assert_eq!(chore.due(), Some(now + EVERY));
    }
}
