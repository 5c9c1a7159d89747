//! Keys that are parked: a message of theirs was refused for good, and later ones follow it into the
//! dead letters, unsent and in order, until operators have had them delivered or discarded.

use sqlx::{FromRow, PgConnection};
use tide_model::{Epoch, GroupName, ParkingLimits, UnitName};
use time::OffsetDateTime;

use crate::{CatalogError, error::Doing, messages::Message};

/// The sink's words about a message, and how often it was tried.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// The words.
    pub error: &'a str,
    /// At least 1.
    pub attempts: u32,
}

/// What became of messages that were to be put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parked {
    /// They are in the dead letters, except for those of keys that are parked no more.
    Aside {
        /// These keys.
        opened: Vec<String>,
    },
    /// Nothing was written: there are as many as there may be.
    Full,
    /// Nothing was written: a newer owner exists.
    Fenced,
}

/// Puts messages that have keys aside, under the owner's epoch and in their order: one that was
/// refused, which parks its key, or without a refusal those that follow letters of their keys. What
/// is there already stays as it is.
pub async fn letters_park(
    connection: &mut PgConnection,
    group: &GroupName,
    unit: &UnitName,
    epoch: Epoch,
    messages: &[&Message],
    refusal: Option<Refusal<'_>>,
    limits: ParkingLimits,
) -> Result<Parked, CatalogError> {
    let column = |field: fn(&Message) -> &str| -> Vec<&str> {
        messages.iter().map(|message| field(message)).collect()
    };
    let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
    let events: Vec<_> = messages.iter().map(|message| message.event_id).collect();
    let published: Vec<_> = messages.iter().map(|message| message.created_at).collect();
    let (outcome, opened): (String, Option<Vec<String>>) = sqlx::query_as(
        "-- letters_park\n\
         SELECT outcome, opened FROM tide.dlq_park($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(group.as_str())
    .bind(unit.as_str())
    .bind(epoch.0)
    .bind(refusal.map(|refusal| refusal.error))
    .bind(refusal.map_or(0, |refusal| refusal.attempts as i32))
    .bind(ids)
    .bind(events)
    .bind(column(|message| message.key.as_deref().unwrap_or_default()))
    .bind(column(|message| &message.headers))
    .bind(column(|message| &message.payload))
    .bind(published)
    .bind(limits.keys as i64)
    .bind(limits.messages as i64)
    .fetch_one(connection)
    .await
    .doing("parking keys")?;
    match outcome.as_str() {
        "parked" => Ok(Parked::Aside {
            opened: opened.unwrap_or_default(),
        }),
        "full" => Ok(Parked::Full),
        "fenced" => Ok(Parked::Fenced),
        other => Err(CatalogError::inconsistent("dlq_park", "outcome", other)),
    }
}

/// The parked keys of a unit, for its owner.
pub async fn keys_of_unit(
    connection: &mut PgConnection,
    group: &GroupName,
    unit: &UnitName,
) -> Result<Vec<String>, CatalogError> {
    let (index, count) = unit.shard().map_or((1, 1), |shard| {
        (i32::from(shard.index), i32::from(shard.count))
    });
    sqlx::query_scalar(
        "-- keys_of_unit\n\
         SELECT DISTINCT d.key FROM tide.relay_dlq d\n\
         WHERE d.relay_group_id = $1 AND d.pipeline = $2 AND d.parked\n\
           AND tide.shard_of(d.key, d.message_id, $4) = $3\n\
         ORDER BY d.key",
    )
    .bind(group.as_str())
    .bind(unit.pipeline_str())
    .bind(index)
    .bind(count)
    .fetch_all(connection)
    .await
    .doing("reading the parked keys")
}

/// A parked key, for operators.
#[derive(Debug, Clone, FromRow, PartialEq, Eq)]
pub struct ParkedKey {
    /// The pipeline.
    pub name: String,
    /// The key.
    pub key: String,
    /// So many letters of it wait, the refused one among them.
    pub letters: i64,
    /// The number of the first of them.
    pub first_letter: i64,
    /// Why that was refused last.
    pub error: String,
    /// How often it was tried.
    pub attempts: i32,
    /// Since when.
    pub parked_at: OffsetDateTime,
    /// So many of them are being delivered again.
    pub replaying: i64,
}

/// The parked keys of one pipeline, or of all; the oldest first, at most so many.
pub async fn parked_key_list(
    connection: &mut PgConnection,
    group: &GroupName,
    pipeline: Option<&str>,
    most: i64,
) -> Result<Vec<ParkedKey>, CatalogError> {
    sqlx::query_as(
        "-- parked_key_list\n\
         SELECT name, key, letters, first_letter, error, attempts, parked_at, replaying\n\
         FROM tide.dlq_keys($1, $2) ORDER BY first_letter LIMIT $3",
    )
    .bind(group.as_str())
    .bind(pipeline)
    .bind(most)
    .fetch_all(connection)
    .await
    .doing("reading the parked keys")
}
