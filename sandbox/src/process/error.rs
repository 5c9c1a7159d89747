//! What can go wrong with a process.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

use nix::{errno::Errno, sys::signal::Signal};

use crate::{leftovers::LeftoversError, wait::TimedOut};

/// Why a process could not be started, signalled or waited for.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Its log could not be opened or read.
    #[error("could not use the log {} of {name}", path.display())]
    Log {
        /// The process.
        name: String,
        /// The log file.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// The program could not be started.
    #[error("could not start {name} ({})", program.display())]
    Spawn {
        /// The process.
        name: String,
        /// The program.
        program: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The child could not be recorded; it was killed again.
    #[error("could not record {name}")]
    Record {
        /// The process.
        name: String,
        /// Why.
        #[source]
        source: LeftoversError,
    },
    /// A signal was refused.
    #[error("could not send {signal} to {name}")]
    Signal {
        /// The process.
        name: String,
        /// The signal.
        signal: Signal,
        /// What the system answered.
        #[source]
        source: Errno,
    },
    /// It was signalled, or its log waited for, after it had ended.
    #[error("{name} has ended: {status}; its last words:\n{tail}")]
    Ended {
        /// The process.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        tail: String,
    },
    /// It could not be waited for.
    #[error("could not wait for {name}")]
    Wait {
        /// The process.
        name: String,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// It did not end in time.
    #[error("{name} did not end within {within:?}; its last words:\n{tail}")]
    StillRunning {
        /// The process.
        name: String,
        /// The deadline.
        within: Duration,
        /// The end of its log.
        tail: String,
    },
    /// Its log did not show the pattern in time.
    #[error("{name} did not say it; its last words:\n{tail}")]
    Silent {
        /// The process.
        name: String,
        /// The end of its log.
        tail: String,
        /// What was waited for.
        #[source]
        source: TimedOut,
    },
}
