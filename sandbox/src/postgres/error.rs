//! What can go wrong with a throw-away cluster.

use std::{io, path::PathBuf};

use nix::{errno::Errno, sys::signal::Signal};

use crate::{home::HomeError, leftovers::LeftoversError, ports::PortError};

/// Why a cluster could not be made, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No server is installed where we looked.
    #[error(
        "no PostgreSQL server binaries; looked in {searched}; install them \
         (apt-get install postgresql) or set TIDE_PG_BIN to their directory"
    )]
    NoBinaries {
        /// The places, in order.
        searched: String,
    },
    /// We are root, and PostgreSQL refuses to run as root.
    #[error("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")]
    NoAccount,
    /// The user database could not be read.
    #[error("could not look up the user that runs the server")]
    Account(#[source] Errno),
    /// There is no place for templates.
    #[error("no place for cluster templates")]
    Home(#[source] HomeError),
    /// The scratch directory failed.
    #[error("no scratch directory for the cluster")]
    Scratch(#[source] LeftoversError),
    /// No port is free.
    #[error("no port for the cluster")]
    Port(#[source] PortError),
    /// A file or directory could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// A program of PostgreSQL could not be started.
    #[error("could not run {}", program.display())]
    Run {
        /// Which.
        program: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// A program of PostgreSQL failed.
    #[error("{} failed:\n{output}", program.display())]
    Failed {
        /// Which.
        program: PathBuf,
        /// What it said.
        output: String,
    },
    /// The server ended while it was starting.
    #[error("the server ended while starting; the end of its log:\n{log}")]
    Died {
        /// The end of its log.
        log: String,
    },
    /// The server did not get ready in time.
    #[error("the server was not ready in time; the end of its log:\n{log}")]
    NotReady {
        /// The end of its log.
        log: String,
    },
    /// The server did not stop in time.
    #[error("the server did not stop in time; the end of its log:\n{log}")]
    NotStopped {
        /// The end of its log.
        log: String,
    },
    /// The server could not be waited for.
    #[error("could not wait for the server")]
    Wait(#[source] io::Error),
    /// The server could not be signalled.
    #[error("could not send {signal} to the server")]
    Signal {
        /// The signal.
        signal: Signal,
        /// What the system answered.
        #[source]
        source: Errno,
    },
    /// A statement of ours failed.
    #[error("{doing} failed")]
    Execute {
        /// What for.
        doing: &'static str,
        /// What the server answered.
        #[source]
        source: sqlx::Error,
    },
}
