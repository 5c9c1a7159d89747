//! The rate limit of one pipeline: a token bucket on the monotonic clock. Every message of every
//! attempt takes a token, because it is attempts that a sink has to bear.

use std::time::Duration;

use tide_model::RateLimit;
use tokio::time::Instant;

/// A batch waits until about this share of a second's tokens is there, instead of leaving with
/// every single one.
const BEATS_PER_SECOND: f64 = 10.0;

/// Tokens, at most a burst of them.
#[derive(Debug)]
pub(super) struct Bucket {
    limit: RateLimit,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(limit: RateLimit, now: Instant) -> Self {
        Self {
            limit,
            tokens: f64::from(limit.burst),
            filled: now,
        }
    }

    /// Takes up to `wanted` tokens, at least one, or says how long to wait for them.
    pub(super) fn take(&mut self, now: Instant, wanted: usize) -> Result<usize, Duration> {
        let rate = f64::from(self.limit.per_second);
        let burst = f64::from(self.limit.burst);
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min(burst);
        self.filled = now;
        let beat = (rate / BEATS_PER_SECOND).ceil().clamp(1.0, burst);
        let enough = (wanted as f64).min(beat);
        // What is lacking by the error of a sum, or comes within a nanosecond, is not waited for.
        let slack = 1e-6 + rate * 1e-9;
        if self.tokens + slack < enough {
            return Err(Duration::from_secs_f64((enough - self.tokens) / rate));
        }
        let taken = wanted.min((self.tokens + slack) as usize);
        self.tokens = (self.tokens - taken as f64).max(0.0);
        Ok(taken)
    }

    /// Puts tokens back that were taken for nothing.
    pub(super) fn give_back(&mut self, tokens: usize) {
        self.tokens = (self.tokens + tokens as f64).min(f64::from(self.limit.burst));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(per_second: u32, burst: u32) -> RateLimit {
        RateLimit { per_second, burst }
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limit(100, 30), start);
        assert_eq!(bucket.take(start, 1_000), Ok(30));
        assert_eq!(bucket.take(start, 1_000), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(start, 2), Err(Duration::from_millis(20)));
        let later = start + Duration::from_millis(100);
        assert_eq!(bucket.take(later, 1_000), Ok(10));
        // An hour of silence saves no more than a burst.
        let much_later = later + Duration::from_hours(1);
        assert_eq!(bucket.take(much_later, 1_000), Ok(30));
    }

    #[test]
    fn whoever_waits_as_told_gets_some_at_rates_finer_than_a_clock() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limit(140_191, 8_713), start);
        assert_eq!(bucket.take(start, 3_451), Ok(3_451));
        let wait = bucket.take(start, 6_792).unwrap_err();
        assert_eq!(bucket.take(start + wait, 6_792), Ok(6_792));
    }

    #[test]
    fn what_was_taken_for_nothing_can_be_taken_again() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limit(100, 30), start);
        assert_eq!(bucket.take(start, 30), Ok(30));
        bucket.give_back(12);
        assert_eq!(bucket.take(start, 30), Ok(12));
        bucket.give_back(1_000);
        assert_eq!(bucket.take(start, 1_000), Ok(30));
    }

    #[test]
    fn one_a_second_is_one_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limit(1, 1), start);
        assert_eq!(bucket.take(start, 5), Ok(1));
        assert_eq!(bucket.take(start, 5), Err(Duration::from_secs(1)));
        assert_eq!(bucket.take(start + Duration::from_secs(1), 5), Ok(1));
    }

    proptest! {
        #[test]
        fn never_more_than_a_burst_and_the_rate_and_whoever_waits_as_told_gets_some(
            per_second in 1_u32..1_000_000,
            burst in 1_u32..1_000_000,
            wants in prop::collection::vec((1_usize..10_000, 0_u64..2_000), 1..60),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::new(limit(per_second, burst), start);
            let mut taken = 0;
            for (wanted, idle) in wants {
                now += Duration::from_millis(idle);
                let some = match bucket.take(now, wanted) {
                    Ok(some) => some,
                    Err(wait) => {
                        now += wait;
                        let some = bucket.take(now, wanted);
                        prop_assert!(some.is_ok(), "{some:?} after {wait:?}");
                        some.unwrap()
                    }
                };
                prop_assert!((1..=wanted).contains(&some));
                taken += some;
                let most = f64::from(burst) + (now - start).as_secs_f64() * f64::from(per_second);
                prop_assert!(taken as f64 <= most + 1.0, "{taken} of {most}");
            }
        }
    }
}
