//! What answers that go on have in common.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt as _, stream};
use metrics::gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::status;
use crate::{fleet::Stopping, leadership::Leadership, metrics::WATCHERS};

/// An answer that goes on. It is pulled: nothing is prepared before the client has room for it.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How many watches may be open.
const MAX_WATCHES: usize = 1_000;

/// Counts and bounds the open watches.
#[derive(Clone)]
pub(super) struct Watches {
    free: Arc<Semaphore>,
}

/// One open watch; dropping it closes it.
pub(super) struct Watch {
    _permit: OwnedSemaphorePermit,
}

impl Watches {
    pub(super) fn new() -> Self {
        Self {
            free: Arc::new(Semaphore::new(MAX_WATCHES)),
        }
    }

    /// Opens one more, if it fits.
    pub(super) fn open(&self) -> Result<Watch, Status> {
        let permit = Arc::clone(&self.free)
            .try_acquire_owned()
            .map_err(|_| status::too_many_watches(MAX_WATCHES))?;
        gauge!(WATCHERS).increment(1.0);
        Ok(Watch { _permit: permit })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        gauge!(WATCHERS).decrement(1.0);
    }
}

/// When answers that go on have to end.
#[derive(Clone)]
pub(super) struct Ends {
    pub(super) stop: CancellationToken,
    pub(super) leadership: Leadership,
}

impl Ends {
    /// Returns the reason when the time has come. Cancel-safe.
    pub(super) async fn reached(&self) -> Status {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => status::stopping(Stopping),
            deposed = self.leadership.deposed() => status::not_leading(&deposed),
        }
    }
}

/// Ends an answer with `UNAVAILABLE` when the process ends or another control plane takes over, so
/// that clients can tell that from an answer that is complete.
pub(super) fn until_end<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    end: impl Future<Output = Status> + Send + 'static,
) -> Answers<T> {
    let begin = Some((Box::pin(answers), Box::pin(end)));
    Box::pin(stream::unfold(begin, |state| async {
        let (mut answers, mut end) = state?;
        tokio::select! {
            biased;
            status = &mut end => Some((Err(status), None)),
            answer = answers.next() => Some((answer?, Some((answers, end)))),
        }
    }))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    async fn stopped(stop: CancellationToken) -> Status {
        stop.cancelled().await;
        status::stopping(Stopping)
    }

    #[tokio::test]
    async fn an_answer_that_is_complete_just_ends() {
        let answers = stream::iter([Ok(1), Ok(2)]);
        let got: Vec<_> = until_end(answers, stopped(CancellationToken::new()))
            .collect()
            .await;
        assert_eq!(got.len(), 2);
        assert!(got.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn a_stop_ends_an_answer_and_says_so() {
        let stop = CancellationToken::new();
        let answers = stream::iter([Ok(1)]).chain(stream::pending());
        let mut answers = until_end(answers, stopped(stop.clone()));
        assert_eq!(answers.next().await.unwrap().unwrap(), 1);
        stop.cancel();
        let status = answers.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(answers.next().await.is_none());
    }
}
