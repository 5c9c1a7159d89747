//! A session that notices its own end while nobody asks it anything.
//!
//! An idle connection reads nothing: that the server has ended the session is news to its holder
//! only with the next statement. Who owns something for as long as the session stands needs to
//! hear of it at once, so this one reads on between statements. The driver's listener does that
//! (`LISTEN` is not needed for it), and runs statements on the same connection.

use sqlx::{Acquire, PgConnection, PgPool, postgres::PgListener};

use crate::{CatalogError, connection::Server, error::Doing};

/// One session, statements on it, and its end as an event.
pub(crate) struct AttentiveSession {
    listener: PgListener,
    /// Closed from the first moment: the driver cannot replace a session that was lost by one
    /// that holds nothing.
    pool: PgPool,
}

impl AttentiveSession {
    pub(crate) async fn open(server: &Server) -> Result<Self, CatalogError> {
        let (mut listener, pool) = server.listener().await?;
        listener.eager_reconnect(false);
        listener.ignore_pool_close_event(true);
        // The call marks it; only the future that is not wanted yet waits for the session.
        drop(pool.close());
        Ok(Self { listener, pool })
    }

    /// For statements; fails once the session is known to have ended.
    pub(crate) async fn connection(&mut self) -> Result<&mut PgConnection, CatalogError> {
        self.listener
            .acquire()
            .await
            .doing("using a session that was lost")
    }

    /// Returns when the server, or the network, has ended the session, and says what is known of
    /// it. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> CatalogError {
        loop {
            match self.listener.try_recv().await {
                // Nobody listens on this session, but anybody may have asked it to.
                Ok(Some(_)) => {}
                Ok(None) => return CatalogError::SessionEnded,
                Err(source) => {
                    return CatalogError::Database {
                        doing: "waiting on an idle session",
                        source,
                    };
                }
            }
        }
    }

    /// Ends it in good order: what it held is free when this returns.
    pub(crate) async fn close(self) {
        drop(self.listener);
        self.pool.close().await;
    }
}
