//! The circuit breaker of one pipeline.
//!
//! ```text
//!            failures in a row                 the delay is over
//!   closed ───────────────────▶ open ─────────────────────────────▶ half-open
//!     ▲                          ▲                                     │   │
//!     │                          └───────────── fails ─────────────────┘   │
//!     └──────────────────── the sink takes, or refuses, a message ─────────┘
//! ```
//!
//! While it is closed a batch goes as it is; while it is half-open ONE message goes, so that a sink
//! that is about to come back is not met with a batch by everybody, and what a failing attempt may
//! repeat downstream is one message. How long it is open is for the retries to say: they grow, are
//! spread, and know what the sink asked for.

/// What the breaker does; the numbers are those of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Circuit {
    /// Everything goes.
    Closed = 0,
    /// One message is on its way.
    HalfOpen = 1,
    /// Nothing goes.
    Open = 2,
}

/// Counts failures in a row.
#[derive(Debug)]
pub(super) struct Breaker {
    /// So many open it; none never do.
    threshold: Option<u32>,
    failures: u32,
    circuit: Circuit,
}

impl Breaker {
    pub(super) fn new(threshold: Option<u32>) -> Self {
        Self {
            threshold,
            failures: 0,
            circuit: Circuit::Closed,
        }
    }

    pub(super) fn circuit(&self) -> Circuit {
        self.circuit
    }

    /// How many messages the next attempt may hold at most.
    pub(super) fn most(&self) -> usize {
        match self.circuit {
            Circuit::Closed => usize::MAX,
            Circuit::Open | Circuit::HalfOpen => 1,
        }
    }

    /// An attempt is about to be made.
    pub(super) fn begin(&mut self) {
        if self.circuit == Circuit::Open {
            self.circuit = Circuit::HalfOpen;
        }
    }

    /// The sink has taken or refused a message: it works.
    pub(super) fn answered(&mut self) {
        self.failures = 0;
        self.circuit = Circuit::Closed;
    }

    /// The sink did neither.
    pub(super) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        if self
            .threshold
            .is_some_and(|threshold| self.failures >= threshold)
        {
            self.circuit = Circuit::Open;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Begins an attempt and says how many messages it may hold.
    fn attempt(breaker: &mut Breaker) -> usize {
        let most = breaker.most();
        breaker.begin();
        most
    }

    #[test]
    fn opens_after_so_many_failures_in_a_row_and_probes_with_one_message() {
        let mut breaker = Breaker::new(Some(3));
        for _ in 0..2 {
            assert_eq!(attempt(&mut breaker), usize::MAX);
            breaker.failed();
            assert_eq!(breaker.circuit(), Circuit::Closed);
        }
        breaker.failed();
        assert_eq!(breaker.circuit(), Circuit::Open);
        // Every attempt from here on is a probe.
        for _ in 0..4 {
            assert_eq!(attempt(&mut breaker), 1);
            assert_eq!(breaker.circuit(), Circuit::HalfOpen);
            breaker.failed();
            assert_eq!(breaker.circuit(), Circuit::Open);
        }
        assert_eq!(attempt(&mut breaker), 1);
        breaker.answered();
        assert_eq!(breaker.circuit(), Circuit::Closed);
        assert_eq!(attempt(&mut breaker), usize::MAX);
    }

    #[test]
    fn an_answer_begins_the_count_anew() {
        let mut breaker = Breaker::new(Some(2));
        for _ in 0..5 {
            breaker.failed();
            breaker.answered();
        }
        assert_eq!(breaker.circuit(), Circuit::Closed);
    }

    #[test]
    fn a_probe_that_was_dropped_is_made_again() {
        let mut breaker = Breaker::new(Some(1));
        breaker.failed();
        assert_eq!(attempt(&mut breaker), 1);
        // Neither answer nor failure: the locks could not be proven meanwhile.
        assert_eq!(attempt(&mut breaker), 1);
    }

    #[test]
    fn without_a_threshold_it_never_opens() {
        let mut breaker = Breaker::new(None);
        for _ in 0..100 {
            breaker.failed();
        }
        assert_eq!(attempt(&mut breaker), usize::MAX);
    }
}
