//! How much may go when, and what the sink's answers mean for that: the one place that knows the
//! circuit breaker and the rate limit. Both are pure; here they meet the clock and the metrics.
//!
//! How long to wait after a failure is [`Backoff`](tide_daemon::backoff::Backoff)'s, and what
//! becomes of a refused message the delivery's.

mod breaker;
mod bucket;

use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
use tide_model::Policy;
use tokio::time::Instant;

use self::{
    breaker::{Breaker, Circuit},
    bucket::Bucket,
};
use super::{Context, SinkError, info, warn};
use crate::metrics as names;

/// One worker's breaker and bucket. They end with the worker: a successor finds out by itself.
pub(super) struct Pace {
    breaker: Breaker,
    bucket: Option<Bucket>,
    circuit: Gauge,
    waits: Counter,
}

impl Pace {
    pub(super) fn new(policy: &Policy, context: &Context) -> Self {
        let label = context.pipeline.to_string();
        let pace = Self {
            breaker: Breaker::new(policy.breaker_failures),
            bucket: policy
                .rate_limit
                .map(|limit| Bucket::new(limit, Instant::now())),
            circuit: gauge!(names::CIRCUIT_STATE, "pipeline" => label.clone()),
            waits: counter!(names::RATE_LIMIT_WAITS, "pipeline" => label),
        };
        pace.show();
        pace
    }

    /// Permits an attempt with so many of the `wanted` messages, at least one, or says how long to
    /// wait for that.
    pub(super) fn permit(&mut self, wanted: usize) -> Result<usize, Duration> {
        let wanted = wanted.min(self.breaker.most());
        let permitted = match &mut self.bucket {
            None => wanted,
            Some(bucket) => bucket
                .take(Instant::now(), wanted)
                .inspect_err(|_| self.waits.increment(1))?,
        };
        self.breaker.begin();
        self.show();
        Ok(permitted)
    }

    /// So many of the permitted messages were not for the sink: they cost it nothing.
    pub(super) fn give_back(&mut self, messages: usize) {
        if let Some(bucket) = &mut self.bucket {
            bucket.give_back(messages);
        }
    }

    /// The sink has taken everything.
    pub(super) fn delivered(&mut self, context: &Context) {
        let was = self.breaker.circuit();
        self.breaker.answered();
        self.changed(was, context);
    }

    /// The sink has not taken everything. Says so in the error if that opens the circuit.
    pub(super) fn failed(&mut self, error: SinkError, context: &Context) -> SinkError {
        let was = self.breaker.circuit();
        if error.delivered() > 0 {
            self.breaker.answered();
        }
        match &error {
            // It works, and knows what it wants.
            SinkError::Rejected { .. } | SinkError::Gone { .. } | SinkError::Fenced { .. } => {
                self.breaker.answered();
            }
            SinkError::Transient { .. } | SinkError::Misconfigured { .. } => self.breaker.failed(),
        }
        self.changed(was, context);
        if self.breaker.circuit() == Circuit::Open {
            error.and("the circuit is open: one message at a time is tried")
        } else {
            error
        }
    }

    /// Logs what operators want to know: a circuit that opens or closes, not each of its probes.
    fn changed(&self, was: Circuit, context: &Context) {
        match (was, self.breaker.circuit()) {
            (Circuit::Closed, Circuit::Open) => {
                warn!(pipeline.id = %context.pipeline, "circuit opened");
            }
            (Circuit::Open | Circuit::HalfOpen, Circuit::Closed) => {
                info!(pipeline.id = %context.pipeline, "circuit closed");
            }
            _ => {}
        }
        self.show();
    }

    fn show(&self) {
        self.circuit.set(f64::from(self.breaker.circuit() as u8));
    }
}

impl Drop for Pace {
    /// Whoever owns the pipeline next has a circuit of its own.
    fn drop(&mut self) {
        self.circuit.set(0.0);
    }
}
