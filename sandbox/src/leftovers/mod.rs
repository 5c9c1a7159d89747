//! Temporary directories and the processes that run in them, gone for good even after `kill -9`.
//!
//! A [`Scratch`] is a temporary directory with a state file that says which process owns it and
//! which children were started in it. Dropping it removes it. If its owner died without that, the
//! next [`Scratch::create`] of the same user sweeps: it kills the recorded children that still run
//! (the same id *and* the same start time) and removes the directory.
//!
//! An owner lives as long as it holds the lock on its directory's `owner.lock`; the kernel lets go
//! of it at death. Owners are compared by that lock and not by id alone, because ids are reused.
//!
//! # Example
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> anyhow::Result<()> {
//! let scratch = tide_sandbox::leftovers::Scratch::create("example").await?;
//! let logs = scratch.directory("logs")?;
//! assert!(logs.is_dir());
//! # Ok(()) }
//! ```

mod state;
mod sweep;

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use uuid::Uuid;

use self::state::{Child, State};
use crate::{
    home::{self, HomeError},
    proc::{self, Identity},
};

pub use self::{state::Ending, sweep::Swept};

/// Where scratch directories live inside the sandbox's home.
const AREA: &str = "runs";
/// Where those live that somebody wanted to keep.
const KEPT: &str = "kept";
/// Held by the owner for as long as it lives.
const OWNER_LOCK: &str = "owner.lock";

/// Why a scratch directory could not be made, kept or swept.
#[derive(Debug, thiserror::Error)]
pub enum LeftoversError {
    /// There is no place for scratch directories.
    #[error("no place for scratch directories")]
    Home(#[source] HomeError),
    /// A file or directory in it could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// What was being written.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// The other processes that create or sweep could not be waited for.
    #[error("could not lock the scratch directories")]
    Lock(#[source] io::Error),
}

/// A temporary directory that remembers what runs in it; removed when its last clone is dropped.
#[derive(Debug, Clone)]
pub struct Scratch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    state: Mutex<State>,
    next: AtomicU32,
    _owner: File,
}

/// Removes what dead owners left behind, and says what that was.
///
/// [`Scratch::create`] does this first; call it to clean up without starting anything.
pub async fn sweep() -> Result<Swept, LeftoversError> {
    let area = home::area(AREA).map_err(LeftoversError::Home)?;
    let _turn = turn(&area).await?;
    Ok(sweep::sweep(&area).await)
}

impl Scratch {
    /// Sweeps what dead owners left, then makes a directory for this process.
    ///
    /// The label becomes part of the directory's name, for people who look around.
    pub async fn create(label: &str) -> Result<Self, LeftoversError> {
        let area = home::area(AREA).map_err(LeftoversError::Home)?;
        // Between making the directory and locking it a sweeper would take it for a leftover.
        let _turn = turn(&area).await?;
        sweep::sweep(&area).await;
        Self::create_in(&area, label)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Makes a new subdirectory, named after `name` and unlike every earlier one.
    pub fn directory(&self, name: &str) -> Result<PathBuf, LeftoversError> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let path = self.0.path.join(format!("{name}-{number}"));
        DirBuilder::new()
            .mode(home::passage_mode())
            .create(&path)
            .map_err(|source| LeftoversError::Write {
                path: path.clone(),
                source,
            })?;
        Ok(path)
    }

    /// Records a child, so that it is ended should this process die first.
    ///
    /// Call it right after the child was started and before it is waited for. A child that has
    /// already gone is not recorded.
    pub fn adopt(&self, pid: u32, ending: Ending) -> Result<(), LeftoversError> {
        let Some(identity) = Identity::of(pid) else {
            return Ok(());
        };
        self.change(|state| state.children.push(Child { identity, ending }))
    }

    /// Forgets a child that has ended.
    pub fn disown(&self, pid: u32) -> Result<(), LeftoversError> {
        self.change(|state| state.children.retain(|child| child.identity.pid != pid))
    }

    /// Moves the directory to where no sweep looks, and returns its new place.
    ///
    /// Everything that runs in it must have ended. For this and every other clone
    /// [`path`](Self::path) names nothing from now on.
    pub fn keep(self) -> Result<PathBuf, LeftoversError> {
        let area = home::area(KEPT).map_err(LeftoversError::Home)?;
        let kept = area.join(self.path().file_name().unwrap_or_default());
        fs::rename(self.path(), &kept).map_err(|source| LeftoversError::Write {
            path: kept.clone(),
            source,
        })?;
        // For people it would mean nothing.
        let _ = fs::remove_file(kept.join(OWNER_LOCK));
        Ok(kept)
    }

    fn create_in(area: &Path, label: &str) -> Result<Self, LeftoversError> {
        let unique = Uuid::new_v4().simple().to_string();
        let path = area.join(format!("{label}-{}", &unique[..8]));
        let failed = |path: &Path, source| LeftoversError::Write {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .mode(home::passage_mode())
            .create(&path)
            .map_err(|source| failed(&path, source))?;
        let lock_path = path.join(OWNER_LOCK);
        let owner = home::lock_file(&lock_path).map_err(|source| failed(&lock_path, source))?;
        owner.lock().map_err(LeftoversError::Lock)?;
        let state = State::new(std::process::id(), proc::boot_id());
        let inner = Inner {
            path,
            state: Mutex::new(state),
            next: AtomicU32::new(1),
            _owner: owner,
        };
        let scratch = Self(Arc::new(inner));
        scratch.change(|_| {})?;
        Ok(scratch)
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> Result<(), LeftoversError> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state
            .save(&self.0.path)
            .map_err(|source| LeftoversError::Write {
                path: self.0.path.clone(),
                source,
            })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a directory, its lock last: until then no sweeper takes an interest in it.
///
/// What cannot be removed is removed by a later sweep, for the lock ends with its owner.
fn remove(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name() != OWNER_LOCK) {
        let path = entry.path();
        let _ = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
    }
    let _ = fs::remove_dir_all(directory);
}

/// Waits until no other process creates or sweeps.
async fn turn(area: &Path) -> Result<File, LeftoversError> {
    let path = area.with_extension("lock");
    let locked = tokio::task::spawn_blocking(move || {
        let file = home::lock_file(&path)?;
        file.lock().map(|()| file)
    });
    locked
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(LeftoversError::Lock)
}

#[cfg(test)]
mod tests;
