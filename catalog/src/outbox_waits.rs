//! Who waits for whom at an outbox: its readers, and what its upkeep finds. The server's own part in
//! that, the transactions that hold the horizon, is in [`crate::preflight`].

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use crate::{CatalogError, error::Doing};

/// One reader of an outbox: a pipeline, or a shard of one, in one group.
#[derive(Debug, Clone, FromRow, PartialEq, Eq)]
pub struct OutboxReader {
    /// The group; empty of a pipeline that never ran.
    pub relay_group_id: String,
    /// Its name.
    pub unit: String,
    /// Whether it should run.
    pub enabled: bool,
    /// How far it got; 0 if it never ran.
    pub last_change_id: i64,
    /// Messages behind; an upper bound while transactions are rolled back.
    pub behind: i64,
    /// What it has to read next, if anything is committed.
    pub next_id: Option<i64>,
    /// When that was published, and so since when it waits.
    pub next_at: Option<OffsetDateTime>,
    /// When its position moved last.
    pub moved_at: Option<OffsetDateTime>,
    /// What its owner says about it.
    pub state: Option<String>,
    /// Why.
    pub state_reason: Option<String>,
    /// Since when.
    pub state_since: Option<OffsetDateTime>,
}

/// What there is to delete, and what of it is still there.
#[derive(Debug, Clone, FromRow, PartialEq, Eq)]
pub struct OutboxUpkeep {
    /// The oldest message.
    pub oldest_id: Option<i64>,
    /// When it was published.
    pub oldest_at: Option<OffsetDateTime>,
    /// When its retention ends.
    pub expires_at: Option<OffsetDateTime>,
    /// The highest message that was deleted.
    pub swept_id: i64,
    /// Rows in the table, by the server's statistics.
    pub live_rows: i64,
    /// Deleted rows that vacuum has not removed yet, by the same.
    pub dead_rows: i64,
    /// When it was vacuumed last.
    pub vacuumed_at: Option<OffsetDateTime>,
}

/// The readers of an outbox, the furthest behind first.
pub async fn outbox_readers(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Vec<OutboxReader>, CatalogError> {
    sqlx::query_as(
        "-- outbox_readers\n\
         SELECT relay_group_id, unit, enabled, last_change_id, behind, next_id, next_at, moved_at, state, state_reason,\n\
                state_since\n\
         FROM tide.outbox_readers($1) ORDER BY last_change_id, unit, relay_group_id",
    )
    .bind(name)
    .fetch_all(connection)
    .await
    .doing("reading who reads the outbox")
}

/// What there is to delete in an outbox; none if it was dropped meanwhile.
pub async fn outbox_upkeep(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Option<OutboxUpkeep>, CatalogError> {
    sqlx::query_as(
        "-- outbox_upkeep\n\
         SELECT oldest_id, oldest_at, oldest_at + retention AS expires_at, swept_id, live_rows, dead_rows, vacuumed_at\n\
         FROM tide.outbox_upkeep($1)",
    )
    .bind(name)
    .fetch_optional(connection)
    .await
    .doing("reading the upkeep of the outbox")
}
