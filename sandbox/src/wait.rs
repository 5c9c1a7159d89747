//! Waiting for a condition under a deadline: the only waiting that tests may do.

use std::{fmt::Display, time::Duration};

use tokio::time::{Instant, sleep_until, timeout_at};

/// The pause between two attempts.
const POLL: Duration = Duration::from_millis(3);

/// The condition did not come true in time.
#[derive(Debug, thiserror::Error)]
#[error("waited {within:?} for {what}, in vain; last seen: {last}")]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub within: Duration,
    /// What the last attempt that said anything said.
    pub last: String,
}

/// Tries until an attempt answers `Ok(Some(_))`, every few milliseconds, for at most `within`.
///
/// `Ok(None)` means "not yet"; so does an error, whose text is kept: the failure names it as the
/// last thing seen. Return what you see as the error (`Err(format!("{n} of 10 delivered"))`) and a
/// timeout explains itself. An attempt still under way at the deadline is dropped. There is always
/// at least one attempt.
pub async fn eventually<T, E, F>(
    within: Duration,
    what: impl Display,
    mut attempt: F,
) -> Result<T, TimedOut>
where
    E: Display,
    F: AsyncFnMut() -> Result<Option<T>, E>,
{
    let deadline = Instant::now() + within;
    let mut last = String::from("nothing");
    loop {
        match timeout_at(deadline, attempt()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => last = format!("{error:#}"),
            Err(_) => last.push_str(" (and the last attempt did not answer)"),
        }
        let next = Instant::now() + POLL;
        if next >= deadline {
            return Err(TimedOut {
                what: what.to_string(),
                within,
                last,
            });
        }
        sleep_until(next).await;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_value_ends_the_wait() {
        let mut attempts = 0;
        let got = eventually(Duration::from_secs(1), "three attempts", async || {
            attempts += 1;
            Ok::<_, Infallible>((attempts == 3).then_some(attempts))
        })
        .await;
        assert_eq!(got.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_tells_what_was_seen_last() {
        let mut attempts = 0;
        let error = eventually(Duration::from_millis(10), "ten deliveries", async || {
            attempts += 1;
            if attempts == 1 {
                Err("4 of 10 delivered")
            } else {
                Ok(None::<()>)
            }
        })
        .await
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "waited 10ms for ten deliveries, in vain; last seen: 4 of 10 delivered"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_hangs_is_bounded_by_the_deadline() {
        let error = eventually(Duration::from_millis(10), "an answer", async || {
            std::future::pending::<Result<Option<()>, Infallible>>().await
        })
        .await
        .unwrap_err();
        assert!(error.to_string().contains("did not answer"), "{error}");
    }
}
