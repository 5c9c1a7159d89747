//! Passes notices on, and opens the listening session again whenever it breaks.

use std::time::Duration;

use tide_catalog::{
    connection::Server,
    listener::{Listener, Notice},
};
use tide_daemon::backoff::Backoff;
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Runs until nobody is interested; `listening` is cancelled as soon as nothing more is missed.
pub(crate) async fn run(
    server: Server,
    notices: mpsc::Sender<Notice>,
    listening: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut failing = false;
    loop {
        let error = match Listener::connect(&server).await {
            Ok(mut listener) => {
                if failing {
                    info!("listening for changes again");
                }
                failing = false;
                listening.cancel();
                // Whatever was said while nobody listened is found by looking.
                if notices.send(Notice::Reconnected).await.is_err() {
                    return;
                }
                loop {
                    match listener.next().await {
                        Ok(notice) => {
                            backoff.reset();
                            if notices.send(notice).await.is_err() {
                                return;
                            }
                        }
                        Err(error) => break error,
                    }
                }
            }
            Err(error) => error,
        };
        if !failing {
            warn!(
                error = &error as &dyn std::error::Error,
                "not listening for changes; looking at intervals instead"
            );
        }
        failing = true;
        sleep(backoff.next()).await;
    }
}
