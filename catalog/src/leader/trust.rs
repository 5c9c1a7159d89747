//! How long a leader may believe that it still is one.
//!
//! As with the locks of pipelines: the server starts to count the lease when it has answered, so
//! later than the moment at which it was asked. Trust until "asked + lease − margin" ends before
//! anybody else can get the lock. The monotonic clock is used throughout.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// A window that closes by itself. Opened and closed by whoever holds the session; read by all.
#[derive(Debug)]
pub(super) struct Trust {
    made: Instant,
    /// End of the window, nanoseconds after `made`; 0 while there is none.
    until: AtomicU64,
}

impl Trust {
    /// A closed window.
    pub(super) fn closed() -> Self {
        Self {
            made: Instant::now(),
            until: AtomicU64::new(0),
        }
    }

    /// Open for what is left of a lease that was asked for at `asked`; never shortens it.
    pub(super) fn extend(&self, asked: Instant, lease: Duration) {
        // The margin covers scheduling delays between the question and the act that it permits.
        let until = asked + lease.mul_f64(5.0 / 6.0);
        let nanos = until.saturating_duration_since(self.made).as_nanos() as u64;
        self.until.fetch_max(nanos, Ordering::SeqCst);
    }

    /// Closes it until the next extension.
    pub(super) fn close(&self) {
        self.until.store(0, Ordering::SeqCst);
    }

    /// Whether it is open at `now`.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        let nanos = self.until.load(Ordering::SeqCst);
        now.saturating_duration_since(self.made) < Duration::from_nanos(nanos)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn it_closes_by_itself_before_the_lease_ends() {
        let trust = Trust::closed();
        assert!(!trust.is_open(Instant::now()));
        trust.extend(Instant::now(), LEASE);
        advance(Duration::from_secs(2)).await;
        assert!(trust.is_open(Instant::now()));
        advance(Duration::from_millis(600)).await;
        assert!(!trust.is_open(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_to_an_early_question_never_shortens_it() {
        let trust = Trust::closed();
        let early = Instant::now();
        advance(Duration::from_secs(1)).await;
        trust.extend(Instant::now(), LEASE);
        trust.extend(early, LEASE);
        advance(Duration::from_secs(2)).await;
        assert!(trust.is_open(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_be_closed_and_opened_again() {
        let trust = Trust::closed();
        trust.extend(Instant::now(), LEASE);
        trust.close();
        assert!(!trust.is_open(Instant::now()));
        trust.extend(Instant::now(), LEASE);
        assert!(trust.is_open(Instant::now()));
    }
}
