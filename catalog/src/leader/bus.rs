//! One listening session for many listeners.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{
    PgPool,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{CatalogError, connection::CONNECT_TIMEOUT, error::Doing};

/// Notices that wait for one listener; one that is slower has missed some, and is told so.
const WAITING: usize = 64;
/// The pause before the session is opened again.
const PAUSE: Duration = Duration::from_millis(500);

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A notice and its payload.
    Notice(String),
    /// Something may have been said while nobody listened: look for yourself.
    Missed,
}

/// Passes the notices of a few channels on to whoever subscribed to them, over one session.
///
/// Somebody has to [`run`](Self::run) it. A notice that is lost costs time, never correctness.
#[derive(Debug)]
pub struct PgNotifyBus {
    pool: PgPool,
    channels: BTreeMap<&'static str, broadcast::Sender<Heard>>,
}

/// One listener's end of a channel.
#[derive(Debug)]
pub struct Subscription {
    /// None if the bus does not carry the channel.
    notices: Option<broadcast::Receiver<Heard>>,
}

impl PgNotifyBus {
    /// Carries these channels, on a session opened like those of `pool` but not one of them.
    pub fn new(pool: &PgPool, channels: &[&'static str]) -> Self {
        let options = (*pool.connect_options()).clone();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_lazy_with(options);
        let channels = channels
            .iter()
            .map(|channel| (*channel, broadcast::Sender::new(WAITING)))
            .collect();
        Self { pool, channels }
    }

    /// Hears what is said on a channel from now on; nothing ever if the bus does not carry it.
    pub fn subscribe(&self, channel: &str) -> Subscription {
        let notices = self.channels.get(channel);
        Subscription {
            notices: notices.map(broadcast::Sender::subscribe),
        }
    }

    /// Listens until the token is cancelled, and again whenever the session breaks.
    pub async fn run(&self, stop: CancellationToken) {
        let mut deaf = false;
        while !stop.is_cancelled() {
            let heard = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                heard = self.listen(&mut deaf) => heard,
            };
            if let Err(error) = heard
                && !deaf
            {
                let error: &dyn std::error::Error = &error;
                warn!(
                    error,
                    "notices of other leaders are not heard, looking at intervals"
                );
                deaf = true;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(PAUSE) => {}
            }
        }
    }

    async fn listen(&self, deaf: &mut bool) -> Result<(), CatalogError> {
        let opened = async {
            let mut listener = PgListener::connect_with(&self.pool).await?;
            listener.listen_all(self.channels.keys().copied()).await?;
            Ok(listener)
        };
        let mut listener = timeout(CONNECT_TIMEOUT, opened)
            .await
            .map_err(|_| CatalogError::Timeout(CONNECT_TIMEOUT))?
            .doing("listening")?;
        if *deaf {
            info!("notices of other leaders are heard again");
            *deaf = false;
        }
        self.missed();
        loop {
            match listener.try_recv().await.doing("listening")? {
                Some(notice) => self.pass_on(notice.channel(), notice.payload()),
                // The session broke; the next call opens another one.
                None => self.missed(),
            }
        }
    }

    fn missed(&self) {
        for channel in self.channels.values() {
            // Nobody listening is no error.
            drop(channel.send(Heard::Missed));
        }
    }

    fn pass_on(&self, channel: &str, payload: &str) {
        if let Some(channel) = self.channels.get(channel) {
            drop(channel.send(Heard::Notice(payload.to_owned())));
        }
    }
}

impl Subscription {
    /// The next notice. Cancel-safe.
    pub async fn next(&mut self) -> Heard {
        let Some(notices) = &mut self.notices else {
            return std::future::pending().await;
        };
        match notices.recv().await {
            Ok(heard) => heard,
            Err(RecvError::Lagged(_)) => Heard::Missed,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
