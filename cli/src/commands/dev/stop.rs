//! When to stop: Ctrl-C, SIGTERM, or a terminal that was closed.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    error::CliError,
    interrupt::{Interrupt, Listener},
};

/// Everything that may ask us to stop.
#[derive(Debug)]
pub(super) struct Stop {
    interrupt: Listener,
    terminate: Signal,
    hang_up: Signal,
}

impl Stop {
    /// From now on these signals do not end the process by themselves.
    pub(super) fn listen(interrupt: &Interrupt) -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(|error| CliError::io("listen for signals", error));
        Ok(Self {
            interrupt: interrupt.listen(),
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Resolves when it is time to stop.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            () = self.interrupt.pressed() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }

    /// Runs work to its end, or drops it and returns nothing when it is time to stop.
    pub(super) async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.asked() => None,
            done = work => Some(done),
        }
    }
}
