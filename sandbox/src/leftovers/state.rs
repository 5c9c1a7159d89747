//! The state file of a scratch directory: whose it is and what runs in it.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::proc::Identity;

const FILE: &str = "state.json";

/// How a recorded child is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// At once, by SIGKILL.
    Kill,
    /// By SIGQUIT, and by SIGKILL only if that does not help: PostgreSQL then gives its shared
    /// memory back.
    Quit,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Child {
    #[serde(flatten)]
    pub(super) identity: Identity,
    pub(super) ending: Ending,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// For people who look around; liveness is decided by the lock.
    pub(super) owner: Option<Identity>,
    pub(super) boot: String,
    pub(super) children: Vec<Child>,
}

impl Ending {
    pub(super) fn signal(self) -> Signal {
        match self {
            Self::Kill => Signal::SIGKILL,
            Self::Quit => Signal::SIGQUIT,
        }
    }
}

impl State {
    pub(super) fn new(owner: u32, boot: String) -> Self {
        Self {
            owner: Identity::of(owner),
            boot,
            children: Vec::new(),
        }
    }

    /// Replaces the state file whole, so that a sweeper never reads half of one.
    pub(super) fn save(&self, directory: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.persist(directory.join(FILE))?;
        Ok(())
    }

    pub(super) fn load(directory: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(directory.join(FILE))?)?)
    }
}
