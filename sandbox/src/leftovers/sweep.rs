//! Ending what dead owners left running and removing their directories.

use std::{
    convert::Infallible,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;

use super::{OWNER_LOCK, state::State};
use crate::{proc, wait};

/// How long a child may take over the polite signal, and over the final one.
const GRACE: Duration = Duration::from_secs(5);

/// What a sweep removed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Directories of dead owners that were removed.
    pub directories: Vec<PathBuf>,
    /// Ids of their children that were still running and were ended.
    pub processes: Vec<u32>,
}

/// Never fails: one directory that resists must not keep everybody from starting.
pub(super) async fn sweep(area: &Path) -> Swept {
    let mut swept = Swept::default();
    let Ok(entries) = fs::read_dir(area) else {
        return swept;
    };
    for directory in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if !directory.is_dir() {
            continue;
        }
        // Directories are made under the lock that we hold: one without an owner's lock is one
        // whose removal was interrupted. Making the lock here would get in the way of a removal.
        let lock = match File::open(directory.join(OWNER_LOCK)) {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => continue,
        };
        if lock.is_some_and(|lock| lock.try_lock().is_err()) {
            continue;
        }
        if let Ok(state) = State::load(&directory) {
            swept.processes.extend(end_children(&state).await);
        }
        if fs::remove_dir_all(&directory).is_ok() {
            swept.directories.push(directory);
        }
    }
    swept
}

async fn end_children(state: &State) -> Vec<u32> {
    // After a reboot the recorded ids and start times mean nothing.
    if state.boot != proc::boot_id() {
        return Vec::new();
    }
    let mut ended = Vec::new();
    for child in state
        .children
        .iter()
        .filter(|child| child.identity.is_alive())
    {
        let identity = child.identity;
        for signal in [child.ending.signal(), Signal::SIGKILL] {
            // A stopped process takes any signal but SIGKILL only once it goes on.
            let signalled = identity
                .signal(signal)
                .and_then(|()| identity.signal(Signal::SIGCONT));
            let gone = wait::eventually(GRACE, "a leftover to end", async || {
                Ok::<_, Infallible>((!identity.is_alive()).then_some(()))
            });
            if signalled.is_ok() && gone.await.is_ok() {
                ended.push(identity.pid);
                break;
            }
        }
    }
    ended
}
