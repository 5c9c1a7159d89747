//! Deletes what nobody needs any more: delivered messages, old dead letters, old history; and measures what pipelines
//! cost. Every statement is fenced by the janitor's epoch; see [`crate::leader`].

use std::time::Duration;

use sqlx::{FromRow, PgConnection, postgres::types::PgInterval};
use tide_model::Epoch;

use crate::{CatalogError, error::Doing};

/// What one step through an outbox did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Sweep {
    /// Messages that were looked at.
    pub looked_at: i64,
    /// Messages that were deleted.
    pub deleted: i64,
    /// Where the next step begins.
    pub last_id: i64,
    /// Whether a next step may find something.
    pub more: bool,
}

/// Looks at the next `batch` messages above `after`, and deletes those that are older than the
/// outbox's retention and that no cursor of any pipeline, in any group, still needs. An outbox
/// that was dropped meanwhile has nothing more.
pub async fn outbox_sweep(
    connection: &mut PgConnection,
    outbox: &str,
    epoch: Epoch,
    after: i64,
    batch: u32,
) -> Result<Sweep, CatalogError> {
    sqlx::query_as(
        "-- outbox_sweep\n\
         SELECT looked_at, deleted, last_id, more FROM tide.outbox_sweep($1, $2, $3, $4)",
    )
    .bind(outbox)
    .bind(epoch.0)
    .bind(after)
    .bind(batch as i32)
    .fetch_one(connection)
    .await
    .doing("deleting delivered messages")
}

/// What else grows old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// The audit.
    Events,
    /// Operations that have ended and that no hold refers to.
    Operations,
    /// Holds whose time is over, whatever the age.
    Holds,
    /// Plans that can be applied no longer, whatever the age.
    Plans,
}

impl History {
    /// All of it.
    pub const ALL: [Self; 4] = [Self::Holds, Self::Plans, Self::Operations, Self::Events];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Operations => "operations",
            Self::Holds => "holds",
            Self::Plans => "plans",
        }
    }
}

/// Deletes up to a batch of history that is older than `keep`, which counts as a day at least, and
/// returns how much it was.
pub async fn history_purge(
    connection: &mut PgConnection,
    epoch: Epoch,
    history: History,
    keep: Duration,
    batch: u32,
) -> Result<u64, CatalogError> {
    let keep = PgInterval {
        months: 0,
        days: 0,
        microseconds: keep.as_micros() as i64,
    };
    sqlx::query_scalar::<_, i64>("-- history_purge\nSELECT tide.history_purge($1, $2, $3, $4)")
        .bind(epoch.0)
        .bind(history.as_str())
        .bind(keep)
        .bind(batch as i32)
        .fetch_one(connection)
        .await
        .map(|purged| purged as u64)
        .doing("deleting old history")
}

/// Deletes up to a batch of dead letters that their pipelines keep no longer, and returns of which
/// pipelines how many those were.
pub async fn dead_letter_sweep(
    connection: &mut PgConnection,
    epoch: Epoch,
    batch: u32,
) -> Result<Vec<(String, u64)>, CatalogError> {
    let deleted: Vec<(String, i64)> = sqlx::query_as(
        "-- dead_letter_sweep\nSELECT pipeline, deleted FROM tide.dlq_sweep($1, $2) ORDER BY pipeline",
    )
    .bind(epoch.0)
    .bind(batch as i32)
    .fetch_all(connection)
    .await
    .doing("deleting old dead letters")?;
    let counts = deleted.into_iter();
    Ok(counts.map(|(name, count)| (name, count as u64)).collect())
}

/// Looks how far every unit has come since the last look, and returns how many moved or slowed down.
pub async fn costs_sample(
    connection: &mut PgConnection,
    epoch: Epoch,
) -> Result<u64, CatalogError> {
    sqlx::query_scalar::<_, i64>("-- costs_sample\nSELECT tide.relay_costs_sample($1)")
        .bind(epoch.0)
        .fetch_one(connection)
        .await
        .map(|written| written as u64)
        .doing("measuring what pipelines cost")
}

/// The outboxes by name.
pub async fn outbox_names(connection: &mut PgConnection) -> Result<Vec<String>, CatalogError> {
    sqlx::query_scalar("-- outbox_names\nSELECT name FROM tide.outboxes ORDER BY name")
        .fetch_all(connection)
        .await
        .doing("reading the outboxes")
}
