//! Opens sessions: who we are, which server is refused, and how long anything may take.

use std::{str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::time::timeout;

use crate::{CatalogError, error::Doing};

/// A new session must stand within this.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// Where the database is and how sessions to it are opened.
#[derive(Debug, Clone)]
pub struct Server {
    options: PgConnectOptions,
}

impl Server {
    /// Parses a `postgres://` URL. `application` is shown in `pg_stat_activity`.
    pub fn parse(url: &str, application: &str) -> Result<Self, CatalogError> {
        // The driver takes any scheme, and a host from the defaults where it finds none.
        if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
            let reason = "it does not begin with postgres:// or postgresql://";
            return Err(CatalogError::Url(reason.to_owned()));
        }
        let options = PgConnectOptions::from_str(url).map_err(|error| match error {
            // The URL may hold a password, so only what is wrong is repeated, never the URL.
            sqlx::Error::Configuration(reason) => CatalogError::Url(reason.to_string()),
            other => CatalogError::Url(other.to_string()),
        })?;
        // Statements are logged by the caller with what they were for, not by the driver.
        Ok(Self {
            options: options
                .application_name(application)
                .disable_statement_logging(),
        })
    }

    /// The same server, under another name in `pg_stat_activity`.
    #[must_use]
    pub fn with_application(&self, application: &str) -> Self {
        Self {
            options: self.options.clone().application_name(application),
        }
    }

    /// Adds settings that hold from the first moment of each session.
    #[must_use]
    pub fn with_settings(&self, settings: &[(&str, String)]) -> Self {
        Self {
            options: self
                .options
                .clone()
                .options(settings.iter().map(|(name, value)| (*name, value.as_str()))),
        }
    }

    /// Host, port and database, for messages. Never credentials.
    pub fn label(&self) -> String {
        format!(
            "{}:{}/{}",
            self.options.get_host(),
            self.options.get_port(),
            self.options.get_database().unwrap_or_default()
        )
    }

    /// Host and port; none of a server that is reached through a socket of the file system.
    pub fn place(&self) -> Option<(String, u16)> {
        let host = self.options.get_host();
        let local = self.options.get_socket().is_some() || host.starts_with('/');
        (!local).then(|| (host.to_owned(), self.options.get_port()))
    }

    /// The database; the server takes the user's name for one that is not named.
    pub fn database(&self) -> &str {
        self.options
            .get_database()
            .unwrap_or_else(|| self.options.get_username())
    }

    /// Opens one session.
    pub async fn connect(&self) -> Result<PgConnection, CatalogError> {
        timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&self.options))
            .await
            .map_err(|_| CatalogError::Timeout(CONNECT_TIMEOUT))?
            .map_err(|source| CatalogError::Connect {
                server: self.label(),
                source,
            })
    }

    /// Opens a session that can be waited on, in a pool of its own.
    pub(crate) async fn listener(&self) -> Result<(PgListener, PgPool), CatalogError> {
        // A pool goes on trying for as long as it may, and then forgets why it failed.
        let probe = self.connect().await?;
        // It is wanted for nothing else, and a failing goodbye closes it all the same.
        drop(probe.close().await);
        let pool = self.pool(1);
        let listener =
            PgListener::connect_with(&pool)
                .await
                .map_err(|source| CatalogError::Connect {
                    server: self.label(),
                    source,
                })?;
        Ok((listener, pool))
    }

    /// Makes a pool; sessions are opened when they are needed.
    pub fn pool(&self, max_connections: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(CONNECT_TIMEOUT)
            // Every statement copes with a broken session; asking first costs each a round trip.
            .test_before_acquire(false)
            .connect_lazy_with(self.options.clone())
    }

    /// Refuses what Tide cannot work with: unknown server versions, standbys, encodings that are not
    /// UTF-8, transaction poolers.
    pub async fn check(&self) -> Result<(), CatalogError> {
        let mut connection = self.connect().await?;
        let (version, standby, encoding) = simple_row(&mut connection).await?;
        if !(140_000..190_000).contains(&version) {
            return Err(CatalogError::ServerVersion(format!(
                "{}.{}",
                version / 10_000,
                version % 10_000
            )));
        }
        if standby {
            return Err(CatalogError::Standby);
        }
        if encoding != "UTF8" {
            return Err(CatalogError::Encoding(encoding));
        }
        self.refuse_pooler(connection).await
    }

    /// Refuses transaction poolers, and looks at nothing else.
    pub async fn check_pooler(&self) -> Result<(), CatalogError> {
        let connection = self.connect().await?;
        self.refuse_pooler(connection).await
    }

    /// Two sessions that are open at the same time never share a backend, unless something pools
    /// them. A pooler hands a server connection to the next client as soon as a transaction ends,
    /// so hold several transactions open and look whether the first session's backend turns up
    /// under another one, or changes under its feet.
    async fn refuse_pooler(&self, mut first: PgConnection) -> Result<(), CatalogError> {
        let own = backend_pid(&mut first).await?;
        let mut others = Vec::new();
        for _ in 0..3 {
            let mut other = match self.connect().await {
                Ok(other) => other,
                // Fewer free connections prove less; they are no reason to refuse the server.
                Err(error) if error.is_transient() => break,
                Err(error) => return Err(error),
            };
            raw(&mut other, "BEGIN").await?;
            if backend_pid(&mut other).await? == own {
                return Err(CatalogError::Pooler);
            }
            others.push(other);
        }
        if backend_pid(&mut first).await? != own {
            return Err(CatalogError::Pooler);
        }
        for other in others {
            // A failing goodbye changes nothing about what was found.
            drop(other.close().await);
        }
        drop(first.close().await);
        Ok(())
    }
}

/// The simple protocol, because prepared statements are the first thing that a pooler breaks, and
/// its error would hide the real one.
async fn raw(connection: &mut PgConnection, sql: &'static str) -> Result<(), CatalogError> {
    sqlx::raw_sql(sql)
        .execute(connection)
        .await
        .map(drop)
        .doing("checking the server")
}

async fn backend_pid(connection: &mut PgConnection) -> Result<i32, CatalogError> {
    use sqlx::{Executor, Row};
    let row = connection
        .fetch_one(sqlx::raw_sql("SELECT pg_backend_pid()"))
        .await
        .doing("checking for a pooler")?;
    row.try_get(0).doing("checking for a pooler")
}

/// Version, whether it is in recovery, and the database's encoding.
async fn simple_row(connection: &mut PgConnection) -> Result<(i32, bool, String), CatalogError> {
    use sqlx::{Executor, Row};
    let row = connection
        .fetch_one(sqlx::raw_sql(
            "SELECT current_setting('server_version_num')::int4, pg_is_in_recovery(), current_setting('server_encoding')",
        ))
        .await
        .doing("checking the server")?;
    Ok((
        row.try_get(0).doing("checking the server")?,
        row.try_get(1).doing("checking the server")?,
        row.try_get(2).doing("checking the server")?,
    ))
}
