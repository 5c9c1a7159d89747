//! How long to wait before the next try.

use std::time::Duration;

/// Exponential delays with jitter: each is drawn from the upper half of a span that doubles from
/// `initial` up to `max`, so that many clients which failed together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    span: Duration,
}

impl Backoff {
    /// Starts with delays between `initial / 2` and `initial`, and ends with `max / 2` to `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial: initial.min(max),
            max,
            span: initial.min(max),
        }
    }

    /// The delay before the next try; the one after it is about twice as long.
    #[expect(
        clippy::should_implement_trait,
        reason = "a backoff never ends, so an iterator's Option would only be in the way"
    )]
    pub fn next(&mut self) -> Duration {
        self.delay(rand::random())
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.span = self.initial;
    }

    /// `fraction` is in `0.0..1.0`.
    fn delay(&mut self, fraction: f64) -> Duration {
        let delay = self.span.mul_f64(f64::midpoint(fraction, 1.0));
        self.span = self.span.saturating_mul(2).min(self.max);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn doubles_up_to_the_maximum() {
        let mut backoff = Backoff::new(100 * MS, 500 * MS);
        let longest: Vec<_> = (0..5).map(|_| backoff.delay(1.0)).collect();
        assert_eq!(longest, [100 * MS, 200 * MS, 400 * MS, 500 * MS, 500 * MS]);
    }

    #[test]
    fn jitter_takes_away_half_at_most() {
        let mut backoff = Backoff::new(100 * MS, 100 * MS);
        assert_eq!(backoff.delay(0.0), 50 * MS);
        for _ in 0..1_000 {
            let delay = backoff.next();
            assert!((50 * MS..=100 * MS).contains(&delay), "{delay:?}");
        }
    }

    #[test]
    fn a_reset_begins_anew() {
        let mut backoff = Backoff::new(100 * MS, 10_000 * MS);
        for _ in 0..5 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= 100 * MS);
    }

    #[test]
    fn an_initial_above_the_maximum_is_cut() {
        let mut backoff = Backoff::new(1_000 * MS, 100 * MS);
        assert_eq!(backoff.delay(1.0), 100 * MS);
    }
}
