//! Sessions with the catalog. Every wait has a deadline, and a session whose last statement did
//! not come to an end is closed rather than used again.

use std::{future::Future, time::Duration};

use sqlx::{Connection as _, PgConnection, Postgres, pool::PoolConnection};
use tide_catalog::{CatalogError, PgPool, connection::Server, fleet};
use tide_model::{GroupName, fleet::DatabaseView};
use tokio::time::timeout;

/// More callers than this wait for one another; operators are few.
const MAX_SESSIONS: u32 = 8;
/// Beyond this the database counts as away.
const SESSION_WITHIN: Duration = Duration::from_secs(3);
/// One statement must be done within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// One read of the whole fleet, however large, must be done within this.
const VIEW_WITHIN: Duration = Duration::from_mins(1);

/// The catalog of one group. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Database {
    server: Server,
    group: GroupName,
    pool: PgPool,
}

impl Database {
    /// Connects when it is first asked for something.
    pub(crate) fn new(server: Server, group: GroupName) -> Self {
        let pool = server.pool(MAX_SESSIONS);
        Self {
            server,
            group,
            pool,
        }
    }

    /// The group.
    pub(crate) fn group(&self) -> &GroupName {
        &self.group
    }

    /// The server, for sessions that are not pooled.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// The sessions, for an election that says itself how to use them.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A session that answered a moment ago.
    pub(crate) async fn session(&self) -> Result<Session, CatalogError> {
        // A restart of the server breaks every idle session at once; each is found out here, so
        // that no command fails for it.
        timeout(SESSION_WITHIN, async {
            loop {
                let connection = self
                    .pool
                    .acquire()
                    .await
                    .map_err(|source| self.away(source))?;
                let mut session = Session {
                    connection,
                    idle: false,
                };
                if session.connection.ping().await.is_ok() {
                    return Ok(session);
                }
            }
        })
        .await
        .unwrap_or(Err(CatalogError::Timeout(SESSION_WITHIN)))
    }

    /// Reads everything about the group.
    pub(crate) async fn view(&self) -> Result<DatabaseView, CatalogError> {
        let mut session = self.session().await?;
        let view = session.view(&self.group).await?;
        session.done();
        Ok(view)
    }

    fn away(&self, source: sqlx::Error) -> CatalogError {
        CatalogError::Connect {
            server: self.server.label(),
            source,
        }
    }
}

/// One session. Dropping it closes it, unless [`done`](Self::done) says that nothing is under way.
pub(crate) struct Session {
    connection: PoolConnection<Postgres>,
    idle: bool,
}

impl Session {
    /// For statements; wait for them with [`answer`].
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Reads everything about a group.
    pub(crate) async fn view(&mut self, group: &GroupName) -> Result<DatabaseView, CatalogError> {
        patiently(fleet::large_database_view(&mut self.connection, group)).await
    }

    /// Gives the session back to whoever needs one next.
    pub(crate) fn done(mut self) {
        self.idle = true;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.idle {
            self.connection.close_on_drop();
        }
    }
}

/// Waits for a statement, but not forever.
pub(crate) async fn answer<T>(
    statement: impl Future<Output = Result<T, CatalogError>>,
) -> Result<T, CatalogError> {
    timeout(ANSWER_WITHIN, statement)
        .await
        .unwrap_or(Err(CatalogError::Timeout(ANSWER_WITHIN)))
}

/// As [`answer`], for what reads the whole fleet.
pub(crate) async fn patiently<T>(
    reading: impl Future<Output = Result<T, CatalogError>>,
) -> Result<T, CatalogError> {
    timeout(VIEW_WITHIN, reading)
        .await
        .unwrap_or(Err(CatalogError::Timeout(VIEW_WITHIN)))
}
