//! Messages that a sink refused for good.

use sqlx::PgConnection;
use tide_model::{Epoch, GroupName, UnitName};

use crate::{CatalogError, error::Doing, messages::Message};

/// A refused message and why.
#[derive(Debug, Clone)]
pub struct DeadLetter<'a> {
    /// The message, whole.
    pub message: &'a Message,
    /// The sink's words.
    pub error: &'a str,
    /// How often it was tried.
    pub attempts: u32,
}

/// Writes a refused message under the owner's epoch; false means fenced. Writing the same message
/// twice keeps the first.
pub async fn dead_letter_write(
    connection: &mut PgConnection,
    group: &GroupName,
    pipeline: &UnitName,
    epoch: Epoch,
    letter: &DeadLetter<'_>,
) -> Result<bool, CatalogError> {
    let owned: bool = sqlx::query_scalar(
        "-- dead_letter_write\n\
         WITH owned AS (\n\
             SELECT o.relay_group_id, p.name, p.outbox FROM tide.relay_consumer_offsets o\n\
             JOIN tide.pipelines p ON p.name = o.pipeline\n\
             WHERE o.relay_group_id = $1 AND o.name = $2 AND o.epoch = $3\n\
         ), written AS (\n\
             INSERT INTO tide.relay_dlq\n\
                 (relay_group_id, pipeline, outbox, message_id, event_id, key, headers, payload, error, attempts, epoch)\n\
             SELECT relay_group_id, name, outbox, $4, $5, $6, $7::text::jsonb, $8::text::jsonb, $9, $10, $3 FROM owned\n\
             ON CONFLICT (relay_group_id, pipeline, message_id) DO NOTHING\n\
         )\n\
         SELECT EXISTS (SELECT FROM owned)",
    )
    .bind(group.as_str())
    .bind(pipeline.as_str())
    .bind(epoch.0)
    .bind(letter.message.id)
    .bind(letter.message.event_id)
    .bind(&letter.message.key)
    .bind(&letter.message.headers)
    .bind(&letter.message.payload)
    .bind(letter.error)
    .bind(letter.attempts as i32)
    .fetch_one(connection)
    .await
    .doing("writing a dead letter")?;
    Ok(owned)
}
