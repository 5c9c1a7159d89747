//! Every caller's share: a bucket that fills again at a steady rate. Pure but for the lock.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How many callers are remembered; whoever was away long enough has a full bucket anyway.
const MOST_CALLERS: usize = 10_000;
/// A caller may ask this many seconds' worth at once.
const BURST_SECONDS: f64 = 2.0;

/// Counts the requests of each caller.
#[derive(Debug)]
pub(crate) struct Rates {
    per_second: u32,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at: Instant,
}

impl Rates {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            buckets: Mutex::default(),
        }
    }

    pub(crate) fn per_second(&self) -> u32 {
        self.per_second
    }

    /// Whether the caller may ask once more now; otherwise when it may.
    pub(crate) fn take(&self, caller: &str, now: Instant) -> Result<(), Duration> {
        let rate = f64::from(self.per_second);
        let full = rate * BURST_SECONDS;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST_CALLERS && !buckets.contains_key(caller) {
            buckets.retain(|_, bucket| bucket.filled(rate, full, now) < full);
            if buckets.len() >= MOST_CALLERS {
                // So many at once, none of them idle: whoever is new waits.
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = buckets.entry(caller.to_owned()).or_insert(Bucket {
            level: full,
            at: now,
        });
        let level = bucket.filled(rate, full, now);
        if level < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - level) / rate));
        }
        *bucket = Bucket {
            level: level - 1.0,
            at: now,
        };
        Ok(())
    }
}

impl Bucket {
    fn filled(self, rate: f64, full: f64, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + since * rate).min(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_a_share_of_its_own_which_comes_back() {
        let rates = Rates::new(10);
        let start = Instant::now();
        let taken = |caller: &str, at: Instant| {
            (0..100)
                .take_while(|_| rates.take(caller, at).is_ok())
                .count()
        };
        assert_eq!(taken("ana", start), 20);
        assert_eq!(taken("tom", start), 20);
        let wait = rates.take("ana", start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        assert_eq!(taken("ana", start + wait), 1);
        assert_eq!(taken("ana", start + Duration::from_mins(1)), 20);
    }

    #[test]
    fn memory_is_bounded_and_the_idle_make_room() {
        let rates = Rates::new(1);
        let start = Instant::now();
        for caller in 0..MOST_CALLERS {
            rates.take(&caller.to_string(), start).unwrap();
        }
        assert!(rates.take("new", start).is_err());
        let later = start + Duration::from_secs(5);
        assert!(rates.take("new", later).is_ok());
        assert_eq!(rates.buckets.lock().unwrap().len(), 1);
    }
}
