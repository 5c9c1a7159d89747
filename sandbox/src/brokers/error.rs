//! What can go wrong with a broker.

use std::{error::Error as StdError, io, path::PathBuf};

use crate::{leftovers::LeftoversError, ports::PortError, process::ProcessError};

/// Why a broker could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It is not installed.
    #[error("no {program}; install it: scripts/setup.sh test, or apt-get install {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// There is no place for its files.
    #[error("no directory for the broker")]
    Directory(#[source] LeftoversError),
    /// Its files could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// No port is free.
    #[error("no port for the broker")]
    Port(#[source] PortError),
    /// Its process could not be started or signalled.
    #[error("the broker's process failed")]
    Process(#[source] ProcessError),
    /// It does not answer.
    #[error("the broker does not answer: {what}; the end of its log:\n{log}")]
    Silent {
        /// What was seen last.
        what: String,
        /// The end of its log.
        log: String,
    },
    /// It could not be asked for something.
    #[error("{doing} failed")]
    Ask {
        /// What was being done.
        doing: &'static str,
        /// What the client says.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// What it got is no delivery of Tide's.
    #[error("message {number} of {place} is wrong: {what}")]
    Malformed {
        /// The stream or queue.
        place: String,
        /// Its number there, from 0.
        number: usize,
        /// What is wrong.
        what: String,
    },
}

impl BrokerError {
    /// For `map_err`: what was being done.
    pub(super) fn ask<E: Into<Box<dyn StdError + Send + Sync>>>(
        doing: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Ask {
            doing,
            source: source.into(),
        }
    }

    /// The error and its causes in one line.
    pub(super) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        text
    }
}
