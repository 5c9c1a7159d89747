//! Ctrl-C. Most commands simply end; one that watches an operation says first how to find the
//! operation again, because the operation goes on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio_util::sync::CancellationToken;

use crate::error::CliError;

/// Whether Ctrl-C was pressed, and whether somebody has something to say about it.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    pressed: CancellationToken,
    listeners: Arc<AtomicUsize>,
}

/// Held by whoever ends by itself after Ctrl-C, while it does so.
#[derive(Debug)]
pub struct Listener {
    pressed: CancellationToken,
    listeners: Arc<AtomicUsize>,
}

impl Interrupt {
    /// From now on a command that is interrupted is not dropped but told.
    pub fn listen(&self) -> Listener {
        self.listeners.fetch_add(1, Ordering::SeqCst);
        Listener {
            pressed: self.pressed.clone(),
            listeners: Arc::clone(&self.listeners),
        }
    }

    /// Runs a command until it ends or is interrupted. `pressed` resolves each time it is called
    /// when the operator presses Ctrl-C; the second time ends even a listener.
    pub(crate) async fn guard<T>(
        &self,
        command: impl Future<Output = Result<T, CliError>>,
        pressed: impl AsyncFn(),
    ) -> Result<T, CliError> {
        let mut command = std::pin::pin!(command);
        tokio::select! {
            biased;
            result = &mut command => return result,
            () = pressed() => {}
        }
        if self.listeners.load(Ordering::SeqCst) == 0 {
            return Err(CliError::Interrupted);
        }
        self.pressed.cancel();
        tokio::select! {
            biased;
            result = &mut command => result,
            () = pressed() => Err(CliError::Interrupted),
        }
    }
}

impl Listener {
    /// Resolves when Ctrl-C is pressed.
    pub async fn pressed(&self) {
        self.pressed.cancelled().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.listeners.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_command_that_does_not_listen_is_dropped() {
        let result = Interrupt::default()
            .guard(pending::<Result<(), _>>(), || ready(()))
            .await;
        assert!(matches!(result, Err(CliError::Interrupted)));
    }

    #[tokio::test]
    async fn a_listener_gets_to_say_goodbye() {
        let interrupt = Interrupt::default();
        let command = async {
            let listener = interrupt.listen();
            listener.pressed().await;
            Ok("goodbye")
        };
        // Pressed once the command has had its first turn, and never again.
        let times = AtomicUsize::new(0);
        let once = async || {
            if times.fetch_add(1, Ordering::SeqCst) > 0 {
                pending::<()>().await;
            }
        };
        assert_eq!(interrupt.guard(command, once).await.unwrap(), "goodbye");
    }

    #[tokio::test]
    async fn the_second_time_ends_a_listener_too() {
        let interrupt = Interrupt::default();
        let command = async {
            let _listener = interrupt.listen();
            pending::<Result<(), CliError>>().await
        };
        let result = interrupt.guard(command, || ready(())).await;
        assert!(matches!(result, Err(CliError::Interrupted)));
    }

    #[tokio::test]
    async fn who_stops_listening_is_dropped_again() {
        let interrupt = Interrupt::default();
        drop(interrupt.listen());
        let result = interrupt
            .guard(pending::<Result<(), _>>(), || ready(()))
            .await;
        assert!(matches!(result, Err(CliError::Interrupted)));
    }
}
