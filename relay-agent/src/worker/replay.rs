//! Delivers dead letters again when an operator asks for it: between pages, some at a time, so that
//! nothing new waits long; in the order in which they were refused; under the pipeline's epoch.
//!
//! A letter goes when it is delivered. One that is refused again stays, with more attempts, and the
//! next one has its turn, as in a page.

use std::time::Duration;

use tide_catalog::{
    CatalogError,
    dead_letters::{Letter, letters_to_replay},
    messages::{Message, PageLimits},
};
use tide_daemon::backoff::Backoff;
use tokio::time::{Instant, sleep_until};

use super::{
    Interrupt, Meters, RETRY, Sink, debug,
    deliver::{Broken, Delivery, Load},
};

/// Most letters between two pages.
const CHUNK: usize = 100;
/// No further letter between two pages once they hold so many bytes.
const CHUNK_BYTES: usize = 4 << 20;
/// A replay with a rate comes by about this often.
const BEATS_PER_SECOND: f64 = 10.0;

/// No letter waits longer for its turn, whatever the rate.
const LONGEST: Duration = Duration::from_hours(24);

/// How far the replays are.
#[derive(Debug, Default)]
pub(super) struct Replaying {
    /// Everything up to this replay is done.
    done: i64,
    /// Not before this moment.
    due: Option<Instant>,
    /// Letters at hand that were refused again. They stay, although everything up to them is done:
    /// whoever has asked for one of them meanwhile has asked for another attempt.
    kept: Vec<i64>,
}

impl Replaying {
    fn wants(&self, newest: Option<i64>) -> Option<i64> {
        newest.filter(|newest| *newest > self.done)
    }

    /// A letter was refused again.
    pub(super) fn keep(&mut self, letter: i64) {
        self.kept.push(letter);
    }

    /// Those of the letters that were delivered.
    pub(super) fn delivered(&self, letters: &[Letter]) -> Vec<i64> {
        let ids = letters.iter().map(|letter| letter.id);
        ids.filter(|id| !self.kept.contains(id)).collect()
    }

    /// Returns when there are letters to deliver, if `newest` is the newest replay that we know.
    /// Cancel-safe.
    pub(super) async fn due(&self, newest: Option<i64>) {
        match (self.wants(newest), self.due) {
            (Some(_), Some(due)) => sleep_until(due).await,
            (Some(_), None) => {}
            (None, _) => std::future::pending().await,
        }
    }
}

/// How many letters go at once, and how long the next ones wait, at this rate a second.
fn pace(rate: Option<f64>) -> (usize, impl Fn(usize) -> Duration) {
    let chunk = rate.map_or(CHUNK, |rate| {
        ((rate / BEATS_PER_SECOND).ceil() as usize).clamp(1, CHUNK)
    });
    let rest = move |letters: usize| {
        rate.map_or(Duration::ZERO, |rate| {
            Duration::try_from_secs_f64(letters as f64 / rate)
                .unwrap_or(LONGEST)
                .min(LONGEST)
        })
    };
    (chunk, rest)
}

impl<S: Sink> Delivery<'_, S> {
    /// Delivers the next letters, if there are any and it is time.
    pub(super) async fn replay(&mut self, meters: &Meters) -> Result<(), Interrupt> {
        let Some(newest) = self.replaying.wants(self.status.orders.replay()) else {
            return Ok(());
        };
        if self.replaying.due.is_some_and(|due| due > Instant::now()) {
            return Ok(());
        }
        let mut letters = match self.letters().await {
            Ok(letters) => letters,
            Err(error) => {
                debug!(
                    error = &error as &dyn std::error::Error,
                    "could not read letters to deliver again"
                );
                let mut backoff = Backoff::new(RETRY.0, RETRY.1);
                return self.database_failed(&error, &mut backoff).await;
            }
        };
        let Some(first) = letters.first() else {
            // What was asked for after this look comes with a higher number.
            self.replaying.done = newest;
            self.replaying.due = None;
            return Ok(());
        };
        let (chunk, rest) = pace(first.rate);
        letters.truncate(chunk);
        self.replaying.kept.clear();
        self.parking.begin_letters();
        let begun = Instant::now();
        let messages: Vec<Message> = letters
            .iter()
            .map(|letter| letter.message.clone())
            .collect();
        let load = Load::Letters(&letters, &messages);
        let delivered = match self.load(load, meters).await {
            Ok(()) => letters.len(),
            Err(Broken {
                delivered,
                interrupt,
            }) => {
                if interrupt == Interrupt::Stop {
                    self.settle(load, delivered).await?;
                }
                return Err(interrupt);
            }
        };
        self.settle(load, delivered).await?;
        let replayed = self.replaying.delivered(&letters[..delivered]).len();
        meters.replay_delivered.increment(replayed as u64);
        self.stored = false;
        self.replaying.due = Some(begun + rest(delivered));
        Ok(())
    }

    async fn letters(&self) -> Result<Vec<Letter>, CatalogError> {
        let mut connection =
            self.services
                .pool
                .acquire()
                .await
                .map_err(|source| CatalogError::Database {
                    doing: "reading letters to deliver again",
                    source,
                })?;
        letters_to_replay(
            &mut connection,
            &self.context.group,
            &self.context.pipeline,
            PageLimits {
                messages: CHUNK,
                bytes: CHUNK_BYTES,
            },
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_whatever_it_is() {
        for rate in [0.1, 1.0, 7.0, 50.0, 100_000.0] {
            let (chunk, rest) = pace(Some(rate));
            assert!((1..=CHUNK).contains(&chunk), "{rate}");
            let a_second = chunk as f64 / rest(chunk).as_secs_f64();
            assert!(
                (a_second - rate).abs() / rate < 0.001,
                "{a_second} for {rate}"
            );
        }
        let (chunk, rest) = pace(None);
        assert_eq!((chunk, rest(chunk)), (CHUNK, Duration::ZERO));
        assert_eq!(pace(Some(f64::MIN_POSITIVE)).1(1), LONGEST);
    }
}
