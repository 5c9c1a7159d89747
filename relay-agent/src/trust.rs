//! How long this agent may believe that it still holds its locks.
//!
//! The server ends a lock session that was silent for the lease. It starts counting when it has
//! answered, so later than the moment at which we *sent* the question. An owner that trusts its
//! locks until "sent + lease − margin" therefore stops before they can be granted to anybody else.
//! Time is counted on the [boot clock](crate::boot_clock), which goes on while the machine is
//! suspended, so a node that wakes up after its lease does not believe for a moment that it holds
//! anything; a wall clock that jumps changes nothing. (The scheme is
//! the one of lease-based leadership, Gray and Cheriton 1989, with the server as lease holder.)
//!
//! When the window lapses the owner pauses. If the server then answers on the same session, the
//! locks were held all along and the window opens again; if the session is gone, it is revoked for
//! good.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::boot_clock::Moment;

/// The trust window of one lock session. Clones see the same window.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    window: Arc<Window>,
}

#[derive(Debug)]
struct Window {
    opened: Moment,
    /// End of the window, nanoseconds after `opened`.
    until: AtomicU64,
    revoked: CancellationToken,
}

/// The session is gone, and with it everything that was held through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Revoked;

impl Trust {
    /// A window that is open until `until`.
    pub(crate) fn new(now: Moment, until: Moment) -> Self {
        let window = Window {
            opened: now,
            until: AtomicU64::new(0),
            revoked: CancellationToken::new(),
        };
        let trust = Self {
            window: Arc::new(window),
        };
        trust.extend(until);
        trust
    }

    /// Keeps the window open until `until`; never shortens it.
    pub(crate) fn extend(&self, until: Moment) {
        let nanos = until.since(self.window.opened).as_nanos() as u64;
        self.window.until.fetch_max(nanos, Ordering::SeqCst);
    }

    /// Ends it for good.
    pub(crate) fn revoke(&self) {
        self.window.revoked.cancel();
    }

    /// Whether publishing is permitted at `now`.
    pub(crate) fn is_open(&self, now: Moment) -> bool {
        !self.window.revoked.is_cancelled() && now.since(self.window.opened) < self.length()
    }

    /// Returns when the window is closed, be it for a while or for good. Cancel-safe.
    pub(crate) async fn lapsed(&self) {
        // Timers stand still while the machine is suspended, so they cannot be left alone with it.
        const LOOK: Duration = Duration::from_millis(50);
        loop {
            let now = Moment::now();
            if !self.is_open(now) {
                return;
            }
            let left = self.length().saturating_sub(now.since(self.window.opened));
            tokio::select! {
                () = self.window.revoked.cancelled() => return,
                () = sleep_until(now.awake + left.min(LOOK)) => {}
            }
        }
    }

    /// Returns when the session is gone. Cancel-safe.
    pub(crate) async fn revoked(&self) {
        self.window.revoked.cancelled().await;
    }

    /// Waits until the window is open. Cancel-safe.
    pub(crate) async fn opened(&self) -> Result<(), Revoked> {
        // Extensions come with the pings, a few a second; polling for them spares every worker a
        // wake-up on every ping in the normal case, in which the window never closes.
        const LOOK: Duration = Duration::from_millis(10);
        loop {
            if self.window.revoked.is_cancelled() {
                return Err(Revoked);
            }
            if self.is_open(Moment::now()) {
                return Ok(());
            }
            tokio::select! {
                () = self.window.revoked.cancelled() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    /// How long after it was opened the window ends.
    fn length(&self) -> Duration {
        Duration::from_nanos(self.window.until.load(Ordering::SeqCst))
    }
}

/// What is left of a lease for trusting: the margin covers scheduling delays between the check and
/// the act that it permits.
pub(crate) fn trusted_for(lease: Duration) -> Duration {
    lease.mul_f64(5.0 / 6.0)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn lapses_without_pings_and_opens_again_with_one() {
        let start = Moment::now();
        let trust = Trust::new(start, start + SECOND);
        assert!(trust.is_open(start));
        trust.lapsed().await;
        let slept = Moment::now().since(start);
        assert!(slept >= SECOND && slept < 2 * SECOND, "{slept:?}");
        assert!(!trust.is_open(Moment::now()));
        trust.extend(start + 3 * SECOND);
        assert_eq!(trust.opened().await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_to_an_early_question_never_shortens_it() {
        let start = Moment::now();
        let trust = Trust::new(start, start + 3 * SECOND);
        trust.extend(start + SECOND);
        assert!(trust.is_open(start + 2 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn revocation_is_final() {
        let start = Moment::now();
        let trust = Trust::new(start, start + SECOND);
        trust.revoke();
        trust.extend(start + 9 * SECOND);
        trust.lapsed().await;
        assert!(!trust.is_open(start));
        assert_eq!(trust.opened().await, Err(Revoked));
    }

    #[test]
    fn a_machine_that_was_suspended_trusts_nothing() {
        let start = Moment {
            awake: Instant::now(),
            suspended: Duration::ZERO,
        };
        let trust = Trust::new(start, start + 3 * SECOND);
        let napped = |seconds| Moment {
            awake: start.awake + SECOND,
            suspended: seconds * SECOND,
        };
        assert!(trust.is_open(napped(0)));
        assert!(trust.is_open(napped(1)), "a nap within the window");
        assert!(!trust.is_open(napped(2)), "as long as the window");
        assert!(!trust.is_open(napped(36_000)));
        // An answer to a question that was asked after it woke up counts from then on.
        trust.extend(napped(36_000) + 3 * SECOND);
        assert!(trust.is_open(napped(36_000)));
    }

    #[test]
    fn trust_ends_before_the_lease() {
        assert!(trusted_for(3 * SECOND) < 3 * SECOND);
    }
}
