//! The metrics recorder of a process, rendered for Prometheus.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Buckets of every histogram whose name ends in `_seconds`: from a hand-over in a millisecond to
/// a drain of minutes.
pub const SECONDS_BUCKETS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0,
];
/// Buckets of every other histogram: rows, messages, requests.
pub const COUNT_BUCKETS: [f64; 13] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0,
];
/// Samples are gathered into their buckets at least this often, or memory would grow with them.
pub(crate) const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The process has another recorder.
#[derive(Debug, thiserror::Error)]
#[error("could not install the metrics recorder")]
pub struct MetricsError(#[from] BuildError);

/// Reads what the process recorded. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

static INSTALLED: Mutex<Option<Metrics>> = Mutex::new(None);

impl Metrics {
    /// Installs the recorder of the process; a second call returns the first one's handle.
    ///
    /// Somebody must serve it ([`HttpServer::serve`](crate::HttpServer::serve)), which also does
    /// the upkeep.
    pub fn install() -> Result<Self, MetricsError> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = &*installed {
            return Ok(metrics.clone());
        }
        let handle = PrometheusBuilder::new()
            .set_buckets(&COUNT_BUCKETS)?
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
            .install_recorder()?;
        let metrics = Self { handle };
        *installed = Some(metrics.clone());
        Ok(metrics)
    }

    /// Everything recorded so far, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_installation_is_the_first() {
        Metrics::install().unwrap();
        let metrics = Metrics::install().unwrap();
        metrics::counter!("tide_daemon_test_total").increment(2);
        metrics::histogram!("tide_daemon_test_seconds").record(0.004);
        let text = metrics.render();
        assert!(text.contains("tide_daemon_test_total 2"), "{text}");
        assert!(
            text.contains("tide_daemon_test_seconds_bucket{le=\"0.005\"} 1"),
            "{text}"
        );
    }
}
