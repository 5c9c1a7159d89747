//! How patient an election is.

use std::time::Duration;

/// Cadences of an election; the default suits a role that others wait for.
#[derive(Debug, Clone)]
pub struct LeaderConfig {
    /// The server ends the leader's session after this much silence, and others take the leader
    /// for dead when its row was not renewed for as long.
    pub lease: Duration,
    /// How often the leader asks whether the lock is still its own.
    pub lock_validate_interval: Duration,
    /// How often a standby looks for a leader, and a leader renews its lease.
    pub check_interval: Duration,
    /// How often the leader says something, whatever else it does, so that nobody on the way takes
    /// the connection for dead.
    pub keepalive_interval: Duration,
}

impl Default for LeaderConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(3),
            lock_validate_interval: Duration::from_secs(1),
            check_interval: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(30),
        }
    }
}

impl LeaderConfig {
    /// The usual cadences for a lease.
    pub fn with_lease(lease: Duration) -> Self {
        let third = lease / 3;
        let usual = Self::default();
        Self {
            lease,
            lock_validate_interval: usual.lock_validate_interval.min(third),
            check_interval: third,
            ..usual
        }
    }

    /// A lease that is asked for less often than this runs out in between.
    pub(super) fn within_lease(&self, interval: Duration) -> Duration {
        interval.min(self.lease / 3).max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_never_asks_too_seldom_for_its_lease() {
        let config = LeaderConfig {
            lease: Duration::from_secs(3),
            check_interval: Duration::from_mins(5),
            ..LeaderConfig::default()
        };
        let renewed = config.within_lease(config.check_interval);
        assert_eq!(renewed, Duration::from_secs(1));
    }

    #[test]
    fn a_long_lease_still_notices_a_lost_lock_soon() {
        let config = LeaderConfig::with_lease(Duration::from_mins(1));
        assert_eq!(config.lock_validate_interval, Duration::from_secs(1));
        assert_eq!(config.check_interval, Duration::from_secs(20));
    }
}
