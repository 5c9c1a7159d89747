//! The clock that trust is measured on: it goes on while the machine is suspended.
//!
//! Linux's monotonic clock, which timers and deadlines use, stands still while a laptop sleeps or a
//! virtual machine is suspended. The server's lease does not. So a [`Moment`] also holds for how
//! long the machine had been suspended by then (`CLOCK_BOOTTIME` − `CLOCK_MONOTONIC`), and what is
//! between two of them is what anybody outside would have measured. The wall clock is in neither: it
//! may jump as it likes.

use std::{ops::Add, time::Duration};

use tokio::time::Instant;

/// A point in time, on this machine, since it booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// As timers see it.
    pub(crate) awake: Instant,
    /// How long the machine had been suspended by then.
    pub(crate) suspended: Duration,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            awake: Instant::now(),
            suspended: suspended(),
        }
    }

    /// What has passed since `earlier`, sleep included; zero if nothing has.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        let awake = self.awake.saturating_duration_since(earlier.awake);
        awake + self.suspended.saturating_sub(earlier.suspended)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    /// The moment after this much time awake.
    fn add(self, duration: Duration) -> Self {
        Self {
            awake: self.awake + duration,
            ..self
        }
    }
}

/// A thread that loses the processor between the two readings sees a difference that is none, and
/// a question that seems to have been asked later is trusted for longer: such readings are repeated.
#[cfg(target_os = "linux")]
fn suspended() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    const UNDISTURBED: Duration = Duration::from_micros(100);
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    let mut least = Duration::MAX;
    for _ in 0..8 {
        let before = read(ClockId::Monotonic);
        let since_boot = read(ClockId::Boottime);
        least = least.min(since_boot.saturating_sub(before));
        if read(ClockId::Monotonic).saturating_sub(before) < UNDISTURBED {
            break;
        }
    }
    least
}

/// Elsewhere the monotonic clock is all there is.
#[cfg(not(target_os = "linux"))]
fn suspended() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_asleep_counts_as_much_as_time_awake() {
        let awake = Instant::now();
        let hour = Duration::from_hours(1);
        let before = Moment {
            awake,
            suspended: hour,
        };
        let after = Moment {
            awake: awake + Duration::from_secs(1),
            suspended: hour * 3,
        };
        assert_eq!(after.since(before), hour * 2 + Duration::from_secs(1));
        assert_eq!(before.since(after), Duration::ZERO);
    }

    #[test]
    fn a_machine_that_is_awake_sleeps_no_longer() {
        let (one, two) = (suspended(), suspended());
        assert!(
            one.abs_diff(two) < Duration::from_secs(1),
            "{one:?} {two:?}"
        );
    }
}
