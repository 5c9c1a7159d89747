//! From start to exit code.
//!
//! ```text
//!           first signal, or a task failed             everything finished
//! running ─────────────────────────────────▶ stopping ─────────────────────▶ exit 0 or 1
//!                                                │
//!                                                │ second signal, or the shutdown timeout passed
//!                                                ▼
//!                                             giving up ───────────────────▶ exit 3
//! ```
//!
//! Tasks watch two tokens. When [`soft`](Lifecycle::soft) is cancelled they finish what they have
//! in hand and end. When [`hard`](Lifecycle::hard) is cancelled they drop it and end; what they
//! leave behind is what a crash would have left.

use std::{
    error::Error,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// After the hard token, tasks have this long to notice.
const GIVE_UP_AFTER: Duration = Duration::from_secs(1);

/// How a process ended; its number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything finished, as asked.
    Clean = 0,
    /// 1: it could not start, or a part of it failed.
    Failed = 1,
    /// 2: its flags, environment or configuration file make no sense.
    Usage = 2,
    /// 3: the shutdown timeout passed or a second signal came before everything had finished.
    Forced = 3,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Signals, tokens and tasks of one process. Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle {
    shutdown: Shutdown,
    tracker: TaskTracker,
    /// Aborts the signal handling together with the last clone.
    _supervisor: Arc<JoinSet<()>>,
}

#[derive(Clone)]
struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    failed: Arc<AtomicBool>,
}

impl Lifecycle {
    /// Takes over SIGTERM and SIGINT. `shutdown_timeout` counts from the moment that the soft
    /// token is cancelled. Must be called inside a runtime.
    pub fn start(shutdown_timeout: Duration) -> Self {
        let (tx, rx) = mpsc::channel(2);
        let mut lifecycle = JoinSet::new();
        for (kind, name) in [
            (SignalKind::terminate(), "SIGTERM"),
            (SignalKind::interrupt(), "SIGINT"),
        ] {
            let mut signals = signal(kind).expect("both signals may be handled by a process");
            let tx = tx.clone();
            lifecycle.spawn(async move {
                while signals.recv().await.is_some() && tx.send(name).await.is_ok() {}
            });
        }
        Self::supervised(shutdown_timeout, rx, lifecycle)
    }

    fn supervised(
        shutdown_timeout: Duration,
        signals: mpsc::Receiver<&'static str>,
        mut supervisor: JoinSet<()>,
    ) -> Self {
        let shutdown = Shutdown {
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            failed: Arc::default(),
        };
        supervisor.spawn(supervise(shutdown.clone(), shutdown_timeout, signals));
        Self {
            shutdown,
            tracker: TaskTracker::new(),
            _supervisor: Arc::new(supervisor),
        }
    }

    /// Cancelled when the process should finish what it has in hand and end.
    pub fn soft(&self) -> CancellationToken {
        self.shutdown.soft.clone()
    }

    /// Cancelled when the process must end now.
    pub fn hard(&self) -> CancellationToken {
        self.shutdown.hard.clone()
    }

    /// Owns the tasks that [`finish`](Self::finish) waits for.
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Runs a part of the process that lives as long as the process. An error or a panic in it
    /// brings the whole process down in good order, with [`Exit::Failed`].
    pub fn spawn<E>(
        &self,
        part: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
    {
        let guard = PanicGuard {
            part,
            lifecycle: self.shutdown.clone(),
        };
        self.tracker.spawn(async move {
            if let Err(error) = task.await {
                let error: Box<dyn Error + Send + Sync> = error.into();
                error!(
                    part,
                    error = &*error as &dyn Error,
                    "a part of the process failed"
                );
                guard.lifecycle.fail();
            }
        });
    }

    /// Says that something failed without which the process is useless: it ends in good order, and
    /// its exit code is [`Exit::Failed`].
    pub fn fail(&self, error: &(dyn Error + 'static)) {
        error!(error, "the process cannot go on");
        self.shutdown.fail();
    }

    /// Begins to end the process as the first signal would; for a process whose work is done.
    pub fn stop(&self) {
        self.shutdown.soft.cancel();
    }

    /// Waits for the soft token and then for every task, and says how it went. [`Exit::Forced`]
    /// wins over [`Exit::Failed`]: something may be left behind.
    pub async fn finish(&self) -> Exit {
        self.shutdown.soft.cancelled().await;
        self.tracker.close();
        tokio::select! {
            biased;
            () = self.shutdown.hard.cancelled() => {
                if timeout(GIVE_UP_AFTER, self.tracker.wait()).await.is_err() {
                    warn!(tasks = self.tracker.len(), "tasks were abandoned");
                }
                Exit::Forced
            }
            () = self.tracker.wait() => {
                if self.shutdown.failed.load(Ordering::Relaxed) {
                    Exit::Failed
                } else {
                    Exit::Clean
                }
            }
        }
    }
}

impl Shutdown {
    fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.soft.cancel();
    }
}

/// Sees a panic of the task that owns it, which the tracker would swallow.
struct PanicGuard {
    part: &'static str,
    lifecycle: Shutdown,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!(part = self.part, "a part of the process panicked");
            self.lifecycle.fail();
        }
    }
}

async fn supervise(
    shutdown: Shutdown,
    shutdown_timeout: Duration,
    mut signals: mpsc::Receiver<&'static str>,
) {
    tokio::select! {
        biased;
        () = shutdown.soft.cancelled() => {}
        Some(signal) = signals.recv() => info!(signal, "shutdown began"),
    }
    shutdown.soft.cancel();
    tokio::select! {
        biased;
        () = shutdown.hard.cancelled() => {}
        Some(signal) = signals.recv() => warn!(signal, "a second signal came, giving up"),
        () = sleep(shutdown_timeout) => {
            warn!(?shutdown_timeout, "the shutdown timeout passed, giving up");
        }
    }
    shutdown.hard.cancel();
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn start() -> (Lifecycle, mpsc::Sender<&'static str>) {
        let (tx, rx) = mpsc::channel(2);
        (Lifecycle::supervised(TIMEOUT, rx, JoinSet::new()), tx)
    }

    /// A task that needs `duration` to finish after the soft token, and watches the hard one.
    async fn worker(lifecycle: Lifecycle, duration: Duration) -> Result<(), std::io::Error> {
        lifecycle.soft().cancelled().await;
        let hard = lifecycle.hard();
        tokio::select! {
            () = sleep(duration) => {}
            () = hard.cancelled() => {}
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_signal_lets_tasks_finish() {
        let (lifecycle, signals) = start();
        lifecycle.spawn("worker", worker(lifecycle.clone(), Duration::from_secs(29)));
        signals.send("SIGTERM").await.unwrap();
        assert_eq!(lifecycle.finish().await, Exit::Clean);
        assert!(!lifecycle.hard().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_signal_gives_up_at_once() {
        let (lifecycle, signals) = start();
        lifecycle.spawn("worker", worker(lifecycle.clone(), Duration::from_secs(20)));
        let began = Instant::now();
        signals.send("SIGINT").await.unwrap();
        signals.send("SIGINT").await.unwrap();
        assert_eq!(lifecycle.finish().await, Exit::Forced);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeout_gives_up() {
        let (lifecycle, signals) = start();
        lifecycle.spawn("worker", worker(lifecycle.clone(), Duration::from_mins(1)));
        let began = Instant::now();
        signals.send("SIGTERM").await.unwrap();
        assert_eq!(lifecycle.finish().await, Exit::Forced);
        assert_eq!(began.elapsed(), TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_both_tokens_is_abandoned() {
        let (lifecycle, signals) = start();
        lifecycle.tracker().spawn(std::future::pending::<()>());
        let began = Instant::now();
        signals.send("SIGTERM").await.unwrap();
        assert_eq!(lifecycle.finish().await, Exit::Forced);
        assert_eq!(began.elapsed(), TIMEOUT + GIVE_UP_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_task_ends_the_process_in_good_order() {
        let (lifecycle, _signals) = start();
        lifecycle.spawn("worker", worker(lifecycle.clone(), Duration::from_secs(5)));
        lifecycle.spawn("broken", async { Err("the disk is full") });
        let began = Instant::now();
        assert_eq!(lifecycle.finish().await, Exit::Failed);
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure() {
        let (lifecycle, _signals) = start();
        lifecycle.spawn::<std::io::Error>("broken", async { panic!("on purpose") });
        assert_eq!(lifecycle.finish().await, Exit::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeout_also_bounds_a_failure() {
        let (lifecycle, _signals) = start();
        lifecycle.spawn("worker", worker(lifecycle.clone(), Duration::from_mins(1)));
        lifecycle.fail(&std::io::Error::other("no more"));
        assert_eq!(lifecycle.finish().await, Exit::Forced);
    }

    #[tokio::test]
    async fn real_signals_arrive() {
        let lifecycle = Lifecycle::start(TIMEOUT);
        let killed = std::process::Command::new("kill")
            .args(["-TERM", &std::process::id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        assert_eq!(lifecycle.finish().await, Exit::Clean);
    }
}
