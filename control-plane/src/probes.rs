//! What this process says about itself over HTTP.

use std::time::Duration;

use metrics::gauge;
use serde_json::json;
use tide_daemon::{Health, Probes};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::FleetHandle,
    leadership::Leadership,
    metrics::{ACTIVE, DATABASE_AGE_SECONDS},
};

/// Every attempt to read the database ends well within this, also without an answer.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// Verdicts about the control plane.
///
/// A database that is away makes it neither dead nor unready: it goes on serving its last view,
/// which a restart would lose and which a load balancer should not hide. `/health` says so. A
/// standby is ready as well: it does what it is there for, and refuses requests with the address of
/// the active one.
pub(crate) struct ControlPlaneProbes {
    fleet: FleetHandle,
    leadership: Leadership,
    stop: CancellationToken,
}

impl ControlPlaneProbes {
    pub(crate) fn new(fleet: FleetHandle, leadership: Leadership, stop: CancellationToken) -> Self {
        Self {
            fleet,
            leadership,
            stop,
        }
    }

    fn database_age(&self) -> Duration {
        self.fleet.database_health().answered_at.elapsed()
    }
}

impl Probes for ControlPlaneProbes {
    fn live(&self) -> Health {
        let silent = self.fleet.database_health().tried_at.elapsed();
        if silent < STUCK_AFTER {
            Health::ok()
        } else {
            Health::failing(format!("the fleet was not looked after for {silent:.0?}"))
        }
    }

    fn ready(&self) -> Health {
        if self.stop.is_cancelled() {
            return Health::failing("stopping");
        }
        self.live()
    }

    fn health(&self) -> Health {
        let health = self.fleet.database_health();
        let age = self.database_age().as_secs_f64();
        match health.trouble {
            None => Health {
                ok: true,
                body: json!({
                    "status": "ok",
                    "database_age_seconds": age,
                    "leadership": self.leadership.describe(),
                }),
            },
            Some(trouble) => Health {
                ok: false,
                body: json!({
                    "status": "failing",
                    "reason": format!("the database does not answer: {trouble}"),
                    "database_age_seconds": age,
                    "leadership": self.leadership.describe(),
                }),
            },
        }
    }

    fn record_gauges(&self) {
        gauge!(ACTIVE).set(f64::from(u8::from(self.leadership.confirmed().is_some())));
        gauge!(DATABASE_AGE_SECONDS).set(self.database_age().as_secs_f64());
    }
}
