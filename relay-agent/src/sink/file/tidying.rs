//! Keeps files that were set aside tidy while lines are written to the next one.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tide_model::sink_spec::Rotation;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use super::archive;

/// What the thread that tidies and those who ask for it have to agree on.
#[derive(Debug, Default)]
struct Wanted {
    /// Whether somebody has asked since the thread looked last.
    again: bool,
    /// Whether there is a thread that will look again before it ends.
    at_it: bool,
}

/// One thread at most, and none while there is nothing to do.
#[derive(Debug, Default)]
pub(super) struct Tidying {
    wanted: Arc<Mutex<Wanted>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tidying {
    /// Has everything tidied that was set aside until now. Returns at once.
    pub(super) fn ask(&mut self, active: PathBuf, rotation: Rotation) {
        {
            let mut wanted = lock(&self.wanted);
            wanted.again = true;
            if wanted.at_it {
                return;
            }
            wanted.at_it = true;
        }
        let (wanted, stop) = (Arc::clone(&self.wanted), Arc::clone(&self.stop));
        self.thread = Some(spawn_blocking(move || {
            while begin(&wanted, &stop) {
                if let Err(error) = archive::tidy(&active, rotation, &stop) {
                    // Nothing is lost by it; the next file that is set aside brings another attempt.
                    warn!(
                        path = %active.display(), error = &error as &dyn std::error::Error,
                        "could not tidy up files that were set aside"
                    );
                }
            }
        }));
    }

    /// Leaves the rest to whoever opens the file next.
    pub(super) async fn close(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, which was said already.
            drop(thread.await);
        }
    }
}

impl Drop for Tidying {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether there is something to do; if not, the next one who asks has to start a thread.
fn begin(wanted: &Mutex<Wanted>, stop: &AtomicBool) -> bool {
    let mut wanted = lock(wanted);
    wanted.at_it = wanted.again && !stop.load(Ordering::Relaxed);
    wanted.again = false;
    wanted.at_it
}

fn lock(wanted: &Mutex<Wanted>) -> MutexGuard<'_, Wanted> {
    wanted.lock().unwrap_or_else(PoisonError::into_inner)
}
