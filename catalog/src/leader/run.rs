//! The loop of an election: who does what when.

use std::{error::Error, time::Duration};

use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{LeaderElection, RELEASED, Subscription, bus::Heard};
use crate::CatalogError;

/// What it is time for.
enum Turn {
    /// Give the role up and end.
    Stop,
    /// Leader: is the lock still ours?
    Validate,
    /// Leader: say something.
    Keepalive,
    /// Leader: extend the lease.
    Refresh,
    /// Standby: does somebody lead?
    Check,
    /// Standby: somebody gave the role up.
    Released,
}

/// When the next of each is due.
struct Cadences {
    validate: Interval,
    keepalive: Interval,
    refresh: Interval,
    check: Interval,
    released: Option<Subscription>,
}

impl LeaderElection {
    /// Contends for the role and looks after it, until [`stop`](Self::stop); then gives it up.
    ///
    /// - A leader validates its lock every [`lock_validate_interval`](Self::lock_validate_interval),
    ///   so that even a long lease notices a lost lock soon.
    /// - A leader renews its lease every [`check_interval`](Self::check_interval), and sooner if
    ///   the lease needs it.
    /// - A leader says something every keep-alive interval.
    /// - A standby looks every [`check_interval`](Self::check_interval) whether somebody leads, and
    ///   at once when a leader says goodbye.
    ///
    /// Cancel-safe: dropping it ends nothing that a later call would not find out.
    pub async fn run(&self) {
        let mut cadences = Cadences::of(self);
        let mut failing = false;
        loop {
            let turn = self.next(&mut cadences).await;
            // A server that does not answer must not hold up the end of the process.
            let Some(outcome) = self.until_stopped(self.apply(turn)).await else {
                break;
            };
            match outcome {
                Ok(()) if failing => {
                    info!(role = %self.role(), "the election goes on");
                    failing = false;
                }
                Ok(()) => {}
                Err(error) => {
                    if !failing {
                        let error: &dyn Error = &error;
                        warn!(role = %self.role(), error, "the election is disturbed");
                        // The lock of a session that broke is free, so whoever had it tries first,
                        // once; after that, at intervals.
                        cadences.check.reset_immediately();
                    }
                    failing = true;
                }
            }
        }
        if let Err(error) = self.release_leadership().await {
            let error: &dyn Error = &error;
            warn!(role = %self.role(), error, "leadership was not given up in good order");
        }
    }

    async fn next(&self, cadences: &mut Cadences) -> Turn {
        let leads = self.holds();
        tokio::select! {
            biased;
            () = self.stopped() => Turn::Stop,
            _ = cadences.validate.tick(), if leads => Turn::Validate,
            _ = cadences.refresh.tick(), if leads => Turn::Refresh,
            _ = cadences.keepalive.tick(), if leads => Turn::Keepalive,
            () = released(self, cadences.released.as_mut()), if !leads => Turn::Released,
            _ = cadences.check.tick(), if !leads => Turn::Check,
        }
    }

    async fn apply(&self, turn: Turn) -> Result<(), CatalogError> {
        match turn {
            Turn::Stop => Ok(()),
            Turn::Validate => self.validate_lock_held().await,
            Turn::Keepalive => self.keepalive().await,
            Turn::Refresh => self.refresh_lease().await,
            Turn::Check => self.lead_if_nobody_does().await,
            Turn::Released => self.try_become_leader().await.map(drop),
        }
    }

    async fn lead_if_nobody_does(&self) -> Result<(), CatalogError> {
        if !self.check_leader_health().await? {
            self.try_become_leader().await?;
        }
        Ok(())
    }
}

impl Cadences {
    fn of(election: &LeaderElection) -> Self {
        Self {
            validate: every(election.lock_validate_interval()),
            keepalive: every(election.keepalive_interval()),
            refresh: every(election.refresh_interval()),
            check: every(election.check_interval()),
            released: election.bus().map(|bus| bus.subscribe(RELEASED)),
        }
    }
}

/// Returns when this very role was given up, or may have been while nobody listened.
async fn released(election: &LeaderElection, notices: Option<&mut Subscription>) {
    let Some(notices) = notices else {
        return std::future::pending().await;
    };
    loop {
        match notices.next().await {
            Heard::Missed => return,
            Heard::Notice(payload) => {
                let payload: Option<serde_json::Value> = serde_json::from_str(&payload).ok();
                let says = |key, expected: &str| {
                    let said = payload
                        .as_ref()
                        .and_then(|payload| payload.get(key)?.as_str());
                    said == Some(expected)
                };
                let role = election.role();
                if says("role", role.name()) && says("group", role.group()) {
                    return;
                }
            }
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
