//! What a preflight asks the server: settings, room, and what holds the horizon. Needs no catalog and
//! no right that not everybody has; what it may not see, it says.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{Connection as _, FromRow, PgConnection};
use time::OffsetDateTime;

use crate::{CatalogError, connection::Server, error::Doing};

/// The settings that are read, in their base units as `pg_settings` has them.
const SETTINGS: [&str; 13] = [
    "autovacuum",
    "default_transaction_read_only",
    "fsync",
    "full_page_writes",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "reserved_connections",
    "server_encoding",
    "server_version",
    "superuser_reserved_connections",
    "synchronous_commit",
    "track_counts",
];
/// As many of the oldest transactions are named.
const OLDEST: i64 = 5;

/// The server as the current user sees it.
#[derive(Debug, Clone, FromRow)]
pub struct ServerState {
    /// `server_version_num`: 170004.
    pub version: i32,
    /// Whether it is in recovery.
    pub standby: bool,
    /// Who asks.
    pub user: String,
    /// Whether that user sees what other users' sessions do.
    pub sees_all: bool,
    /// The server's clock.
    pub clock: OffsetDateTime,
    /// Sessions that count against `max_connections`.
    pub connections: i64,
    /// Entries of the shared lock table.
    pub locks: i64,
}

/// A transaction that keeps old row versions, and messages, from being removed.
#[derive(Debug, Clone, FromRow)]
pub struct OpenTransaction {
    /// Its backend.
    pub pid: i32,
    /// Its user.
    pub user: String,
    /// Its application.
    pub application: String,
    /// `active`, `idle in transaction` and so on.
    pub state: String,
    /// Its age in seconds.
    pub seconds: f64,
}

/// A transaction that waits for the second phase of its commit.
#[derive(Debug, Clone, FromRow)]
pub struct PreparedTransaction {
    /// Its identifier.
    pub gid: String,
    /// Its database.
    pub database: String,
    /// Its age in seconds.
    pub seconds: f64,
}

/// Everything that is read.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// The server.
    pub state: ServerState,
    /// Settings by name; one that this version of the server lacks is absent.
    pub settings: BTreeMap<String, String>,
    /// The oldest open transactions that hold the horizon, oldest first.
    pub open: Vec<OpenTransaction>,
    /// Prepared transactions, oldest first.
    pub prepared: Vec<PreparedTransaction>,
    /// Replication slots that nobody uses and that hold the horizon.
    pub slots: Vec<String>,
}

/// The server's clock, alone so that the answer takes no longer than it must.
pub async fn clock(connection: &mut PgConnection) -> Result<OffsetDateTime, CatalogError> {
    sqlx::query_scalar("-- preflight_clock\nSELECT clock_timestamp()")
        .fetch_one(connection)
        .await
        .doing("reading the clock")
}

/// Reads the server.
pub async fn server_facts(connection: &mut PgConnection) -> Result<ServerFacts, CatalogError> {
    let state = sqlx::query_as(
        "-- preflight_server\n\
         SELECT current_setting('server_version_num')::int4 AS version, pg_is_in_recovery() AS standby,\n\
                current_user::text AS \"user\", clock_timestamp() AS clock,\n\
                pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all,\n\
                -- Background processes have no user.\n\
                (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid IS NOT NULL) AS connections,\n\
                (SELECT count(*) FROM pg_locks l WHERE NOT l.fastpath) AS locks",
    )
    .fetch_one(&mut *connection)
    .await
    .doing("reading the server's state")?;
    let settings: Vec<(String, String)> = sqlx::query_as(
        "-- preflight_settings\nSELECT name, setting FROM pg_settings WHERE name = ANY ($1)",
    )
    .bind(SETTINGS.as_slice())
    .fetch_all(&mut *connection)
    .await
    .doing("reading the settings")?;
    let open = sqlx::query_as(
        "-- preflight_open\n\
         SELECT a.pid, coalesce(a.usename::text, '') AS \"user\", coalesce(a.application_name, '') AS application,\n\
                coalesce(a.state, '') AS state,\n\
                extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds\n\
         FROM pg_stat_activity a\n\
         WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL\n\
           AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL)\n\
         ORDER BY a.xact_start LIMIT $1",
    )
    .bind(OLDEST)
    .fetch_all(&mut *connection)
    .await
    .doing("looking at open transactions")?;
    let prepared = sqlx::query_as(
        "-- preflight_prepared\n\
         SELECT gid, database::text AS database, extract(epoch FROM clock_timestamp() - prepared)::float8 AS seconds\n\
         FROM pg_prepared_xacts ORDER BY prepared",
    )
    .fetch_all(&mut *connection)
    .await
    .doing("looking at prepared transactions")?;
    let slots = sqlx::query_scalar(
        "-- preflight_slots\n\
         SELECT slot_name::text FROM pg_replication_slots\n\
         WHERE NOT active AND (xmin IS NOT NULL OR catalog_xmin IS NOT NULL) ORDER BY slot_name",
    )
    .fetch_all(connection)
    .await
    .doing("looking at replication slots")?;
    Ok(ServerFacts {
        state,
        settings: settings.into_iter().collect(),
        open,
        prepared,
        slots,
    })
}

/// What the server makes of a session that asks to be ended after `lease` of silence, as those
/// that hold locks do: the `idle_session_timeout` that is in force there, in milliseconds.
pub async fn lease_in_force(server: &Server, lease: Duration) -> Result<i64, CatalogError> {
    let asked = [("idle_session_timeout", lease.as_millis().to_string())];
    let mut session = server.with_settings(&asked).connect().await?;
    let found = sqlx::query_scalar(
        "-- preflight_lease\n\
         SELECT setting::bigint FROM pg_settings WHERE name = 'idle_session_timeout'",
    )
    .fetch_one(&mut session)
    .await
    .doing("looking at a session's lease")?;
    // A failing goodbye changes nothing about what was found.
    drop(session.close().await);
    Ok(found)
}
