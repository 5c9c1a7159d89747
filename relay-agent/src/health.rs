//! What `/health`, `/livez` and `/readyz` say.
//!
//! - `/livez`: the coordinator makes progress. Restart the process if not.
//! - `/readyz`: the lock session is trusted, the fleet has been looked at, and we are not leaving.
//!   A standby that owns nothing is ready.
//! - `/health`: as `/readyz`, and at least one pipeline is owned and all of them are healthy.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics::gauge;
use serde_json::json;
use tide_daemon::http::{Health, Probes};
use tide_model::{UnitName, report::PipelineReport};
use tokio::time::Instant;

use crate::{
    boot_clock::Moment, gauge::Gauges, metrics as names, trust::Trust, wakeup::WakeupHandle,
};

/// A coordinator that has not beaten for this long hangs; it beats every five seconds.
const HUNG_AFTER: Duration = Duration::from_mins(1);

/// Where the coordinator notes what the probes answer from. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    notes: Arc<Mutex<Notes>>,
}

#[derive(Debug)]
struct Notes {
    trust: Option<Trust>,
    discovered: bool,
    draining: bool,
    owned: usize,
    beaten: Instant,
}

impl Board {
    pub(crate) fn new() -> Self {
        let notes = Notes {
            trust: None,
            discovered: false,
            draining: false,
            owned: 0,
            beaten: Instant::now(),
        };
        Self {
            notes: Arc::new(Mutex::new(notes)),
        }
    }

    pub(crate) fn session(&self, trust: Option<Trust>) {
        self.lock().trust = trust;
    }

    pub(crate) fn discovered(&self) {
        self.lock().discovered = true;
    }

    pub(crate) fn draining(&self) {
        self.lock().draining = true;
    }

    pub(crate) fn owned(&self, owned: usize) {
        let mut notes = self.lock();
        notes.owned = owned;
        notes.beaten = Instant::now();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The probes of a running agent.
pub(crate) struct AgentProbes {
    pub(crate) board: Board,
    pub(crate) gauges: Gauges,
    pub(crate) wakeups: WakeupHandle,
    /// Pipelines whose lag was shown, so that it does not stand still after they went away.
    pub(crate) shown: Mutex<BTreeSet<UnitName>>,
}

impl Probes for AgentProbes {
    fn live(&self) -> Health {
        let silent = self.board.lock().beaten.elapsed();
        if silent < HUNG_AFTER {
            Health::ok()
        } else {
            Health::failing(format!(
                "the coordinator has done nothing for {} s",
                silent.as_secs()
            ))
        }
    }

    fn ready(&self) -> Health {
        let notes = self.board.lock();
        if notes.draining {
            return Health::failing("shutting down");
        }
        match &notes.trust {
            None => Health::failing("no lock session with PostgreSQL"),
            Some(trust) if !trust.is_open(Moment::now()) => {
                Health::failing("PostgreSQL has not confirmed the lock session lately")
            }
            Some(_) if !notes.discovered => Health::failing("the fleet has not been looked at yet"),
            Some(_) => Health::ok(),
        }
    }

    fn health(&self) -> Health {
        let ready = self.ready();
        if !ready.ok {
            return ready;
        }
        let owned = self.board.lock().owned;
        if owned == 0 {
            return Health::failing("this agent owns no pipeline");
        }
        let reports = self.gauges.reports(&self.wakeups);
        let troubled: Vec<_> = reports
            .iter()
            .filter(|(_, report)| !report.state.is_healthy())
            .map(|(name, report)| json!({"pipeline": name, "state": report.state, "reason": report.reason}))
            .collect();
        Health {
            ok: troubled.is_empty(),
            body: json!({
                "status": if troubled.is_empty() { "ok" } else { "failing" },
                "owned": owned,
                "unhealthy": troubled,
            }),
        }
    }

    fn record_gauges(&self) {
        let reports = self.gauges.reports(&self.wakeups);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.iter().filter(|name| !reports.contains_key(*name)) {
            record(gone, false, 0.0, 0.0);
        }
        shown.retain(|name| reports.contains_key(name));
        for (
            name,
            PipelineReport {
                state,
                lag_rows,
                lag_seconds,
                ..
            },
        ) in &reports
        {
            record(name, state.is_healthy(), *lag_rows as f64, *lag_seconds);
            shown.insert(name.clone());
        }
    }
}

fn record(pipeline: &UnitName, healthy: bool, rows: f64, seconds: f64) {
    let label = pipeline.to_string();
    gauge!(names::PIPELINE_HEALTHY, "pipeline" => label.clone()).set(f64::from(u8::from(healthy)));
    gauge!(names::CONSUMER_LAG, "pipeline" => label.clone()).set(rows);
    gauge!(names::CONSUMER_LAG_SECONDS, "pipeline" => label).set(seconds);
}
