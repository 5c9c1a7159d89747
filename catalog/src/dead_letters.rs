//! Messages that a sink refused for good: put aside by owners, looked at by operators, delivered
//! again by owners when operators ask for it.

use serde_json::Value;
use sqlx::{FromRow, PgConnection, Row as _};
use tide_model::{Epoch, GroupName, UnitName};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    CatalogError,
    error::Doing,
    intent::Actor,
    messages::{Message, PageLimits},
};

/// Binds the first seven parameters of every statement about letters that fit a filter.
macro_rules! filtered {
    ($query:expr, $group:expr, $filter:expr) => {
        $query
            .bind($group.as_str())
            .bind(&$filter.pipeline)
            .bind(&$filter.key)
            .bind(&$filter.error)
            .bind($filter.since)
            .bind($filter.until)
            .bind((!$filter.ids.is_empty()).then_some(&$filter.ids))
    };
}

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
                 (relay_group_id, pipeline, outbox, message_id, event_id, key, headers, payload, error, attempts, epoch, published_at)\n\
             SELECT relay_group_id, name, outbox, $4, $5, $6, $7::text::jsonb, $8::text::jsonb, $9, $10, $3, $11 FROM owned\n\
             ON CONFLICT (relay_group_id, pipeline, message_id, event_id) DO NOTHING\n\
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
    .bind(letter.message.created_at)
    .fetch_one(connection)
    .await
    .doing("writing a dead letter")?;
    Ok(owned)
}

/// Which dead letters; what is absent leaves none out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Of this pipeline.
    pub pipeline: Option<String>,
    /// Of this key.
    pub key: Option<String>,
    /// Whose reason contains this, in any case.
    pub error: Option<String>,
    /// Refused at this moment or later.
    pub since: Option<OffsetDateTime>,
    /// Refused before this moment.
    pub until: Option<OffsetDateTime>,
    /// These; empty for all.
    pub ids: Vec<i64>,
}

/// A dead letter as stored.
#[derive(Debug, Clone, FromRow, PartialEq)]
pub struct StoredLetter {
    /// Its number; rises in the order of refusals.
    pub id: i64,
    /// The pipeline.
    pub pipeline: String,
    /// The outbox.
    pub outbox: String,
    /// The message's id there.
    pub message_id: i64,
    /// The message's identity.
    pub event_id: Uuid,
    /// The message's key.
    pub key: Option<String>,
    /// Its headers.
    pub headers: Value,
    /// What it says.
    pub payload: Value,
    /// Why it was refused last.
    pub error: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it was first refused.
    pub created_at: OffsetDateTime,
    /// When it was written to its outbox, if that is known.
    pub published_at: Option<OffsetDateTime>,
    /// The replay that is to deliver it again.
    pub replay: Option<i64>,
    /// Whether later messages of its key wait behind it.
    pub parked: bool,
}

/// The dead letters that fit, at most `most` of them, in the order of their refusals.
pub async fn dead_letter_list(
    connection: &mut PgConnection,
    group: &GroupName,
    filter: &LetterFilter,
    most: i64,
) -> Result<Vec<StoredLetter>, CatalogError> {
    let query = sqlx::query_as(
        "-- dead_letter_list\n\
         SELECT id, pipeline, outbox, message_id, event_id, key, headers, payload, error, attempts, created_at,\n\
                published_at, replay, parked\n\
         FROM tide.dlq_list($1, $2, $3, $4, $5, $6, $7) ORDER BY id LIMIT $8",
    );
    filtered!(query, group, filter)
        .bind(most)
        .fetch_all(connection)
        .await
        .doing("reading the dead letters")
}

/// How many dead letters of each pipeline fit.
pub async fn dead_letter_count(
    connection: &mut PgConnection,
    group: &GroupName,
    filter: &LetterFilter,
) -> Result<Vec<(String, i64)>, CatalogError> {
    let query = sqlx::query_as(
        "-- dead_letter_count\n\
         SELECT pipeline, count(*) FROM tide.dlq_list($1, $2, $3, $4, $5, $6, $7) GROUP BY pipeline ORDER BY pipeline",
    );
    filtered!(query, group, filter)
        .fetch_all(connection)
        .await
        .doing("counting the dead letters")
}

/// A replay that was started.
#[derive(Debug, Clone, FromRow, PartialEq, Eq)]
pub struct Replay {
    /// The pipeline.
    pub name: String,
    /// Its number.
    pub replay: i64,
    /// Of so many letters.
    pub letters: i64,
}

/// Asks the owners to deliver the letters that fit again, at most `rate` a second of each unit.
pub async fn dead_letter_replay(
    connection: &mut PgConnection,
    group: &GroupName,
    filter: &LetterFilter,
    rate: Option<f64>,
    actor: &Actor,
) -> Result<Vec<Replay>, CatalogError> {
    let query = sqlx::query_as(
        "-- dead_letter_replay\n\
         SELECT name, replay, letters FROM tide.dlq_replay($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    );
    filtered!(query, group, filter)
        .bind(rate)
        .bind(&actor.name)
        .bind(&actor.reason)
        .fetch_all(connection)
        .await
        .doing("starting the replay")
}

/// Deletes the letters that fit, for good, and returns how many.
pub async fn dead_letter_discard(
    connection: &mut PgConnection,
    group: &GroupName,
    filter: &LetterFilter,
    actor: &Actor,
) -> Result<i64, CatalogError> {
    let query = sqlx::query_scalar(
        "-- dead_letter_discard\nSELECT tide.dlq_discard($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    );
    filtered!(query, group, filter)
        .bind(&actor.name)
        .bind(&actor.reason)
        .fetch_one(connection)
        .await
        .doing("discarding dead letters")
}

/// A letter that its owner is to deliver again.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// Its number.
    pub id: i64,
    /// The message, with its id, identity and time.
    pub message: Message,
    /// At most so many a second.
    pub rate: Option<f64>,
    /// Whether those of its key that come later wait for it.
    pub parked: bool,
}

/// The next letters that a unit is to deliver again, in the order of their refusals, of the oldest
/// replay only: at most so many, and no further once they hold so many bytes.
pub async fn letters_to_replay(
    connection: &mut PgConnection,
    group: &GroupName,
    unit: &UnitName,
    limits: PageLimits,
) -> Result<Vec<Letter>, CatalogError> {
    let (index, count) = unit.shard().map_or((1, 1), |shard| {
        (i32::from(shard.index), i32::from(shard.count))
    });
    let next: Vec<i64> = sqlx::query_scalar(
        "-- letters_to_replay\n\
         WITH ours AS MATERIALIZED (\n\
             SELECT d.id, d.replay FROM tide.relay_dlq d\n\
             WHERE d.relay_group_id = $1 AND d.pipeline = $2 AND d.replay IS NOT NULL\n\
               AND tide.shard_of(d.key, d.message_id, $4) = $3\n\
         )\n\
         SELECT o.id FROM ours o WHERE o.replay = (SELECT min(x.replay) FROM ours x) ORDER BY o.id LIMIT $5",
    )
    .bind(group.as_str())
    .bind(unit.pipeline_str())
    .bind(index)
    .bind(count)
    .bind(limits.messages as i64)
    .fetch_all(&mut *connection)
    .await
    .doing("looking for letters to deliver again")?;
    let mut letters = Vec::with_capacity(next.len());
    let mut bytes = 0;
    // One by one: no statement says in advance how much it is going to send.
    for id in next {
        if bytes >= limits.bytes {
            break;
        }
        let Some(letter) = letter_to_replay(connection, id).await? else {
            // Discarded meanwhile.
            continue;
        };
        bytes += letter.message.payload.len() + letter.message.headers.len();
        letters.push(letter);
    }
    Ok(letters)
}

async fn letter_to_replay(
    connection: &mut PgConnection,
    id: i64,
) -> Result<Option<Letter>, CatalogError> {
    let row = sqlx::query(
        "-- letter_to_replay\n\
         SELECT r.rate, d.parked, d.message_id AS id, d.event_id, d.key, d.payload::text, d.headers::text,\n\
                coalesce(d.published_at, d.created_at) AS created_at\n\
         FROM tide.relay_dlq d JOIN tide.relay_replays r ON r.id = d.replay\n\
         WHERE d.id = $1",
    )
    .bind(id)
    .fetch_optional(connection)
    .await
    .doing("reading a letter to deliver again")?;
    row.map(|row| {
        Ok(Letter {
            id,
            rate: row.try_get("rate")?,
            parked: row.try_get("parked")?,
            message: Message::from_row(&row)?,
        })
    })
    .transpose()
    .map_err(|source: sqlx::Error| CatalogError::Database {
        doing: "reading a letter to deliver again",
        source,
    })
}

/// Takes away letters that were delivered again; false means fenced.
pub async fn letters_delivered(
    connection: &mut PgConnection,
    group: &GroupName,
    unit: &UnitName,
    epoch: Epoch,
    letters: &[i64],
) -> Result<bool, CatalogError> {
    sqlx::query_scalar("-- letters_delivered\nSELECT tide.dlq_delivered($1, $2, $3, $4)")
        .bind(group.as_str())
        .bind(unit.as_str())
        .bind(epoch.0)
        .bind(letters)
        .fetch_one(connection)
        .await
        .doing("settling a replay")
}

/// Keeps a letter that was refused again; false means fenced.
pub async fn letter_refused(
    connection: &mut PgConnection,
    group: &GroupName,
    unit: &UnitName,
    epoch: Epoch,
    letter: i64,
    refusal: (&str, u32),
) -> Result<bool, CatalogError> {
    sqlx::query_scalar("-- letter_refused\nSELECT tide.dlq_refused($1, $2, $3, $4, $5, $6)")
        .bind(group.as_str())
        .bind(unit.as_str())
        .bind(epoch.0)
        .bind(letter)
        .bind(refusal.0)
        .bind(refusal.1 as i32)
        .fetch_one(connection)
        .await
        .doing("keeping a dead letter")
}
