//! Outboxes: create, list, publish, drop.

use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::{CatalogError, error::Doing};

/// One outbox, its size, and who is furthest behind on it.
#[derive(Debug, Clone, FromRow, PartialEq, Eq)]
pub struct OutboxStatus {
    /// Its name.
    pub outbox: String,
    /// How many pipelines read it.
    pub pipelines: i64,
    /// Messages in the table, by the server's statistics.
    pub messages_estimate: i64,
    /// The highest id drawn.
    pub last_id: i64,
    /// Table and indexes, bytes.
    pub size_bytes: i64,
    /// How long delivered messages stay at least, as PostgreSQL prints it.
    pub retention: String,
    /// The pipeline that is furthest behind.
    pub slowest_pipeline: Option<String>,
    /// How far that one got.
    pub slowest_position: Option<i64>,
}

/// Creates an outbox. `retention` is a PostgreSQL interval such as `24 hours`.
pub async fn outbox_create(
    connection: &mut PgConnection,
    name: &str,
    retention: Option<&str>,
) -> Result<(), CatalogError> {
    sqlx::query(
        "-- outbox_create\nSELECT tide.outbox_create($1, coalesce($2::text::interval, '24 hours'))",
    )
    .bind(name)
    .bind(retention)
    .execute(connection)
    .await
    .map(drop)
    .doing("creating the outbox")
}

/// Drops an outbox and its messages; refused while a pipeline reads it.
pub async fn outbox_drop(connection: &mut PgConnection, name: &str) -> Result<(), CatalogError> {
    sqlx::query("-- outbox_drop\nSELECT tide.outbox_drop($1)")
        .bind(name)
        .execute(connection)
        .await
        .map(drop)
        .doing("dropping the outbox")
}

/// All outboxes by name, or the one asked for.
pub async fn outbox_status(
    connection: &mut PgConnection,
    name: Option<&str>,
) -> Result<Vec<OutboxStatus>, CatalogError> {
    sqlx::query_as(
        "-- outbox_status\n\
         SELECT outbox, pipelines, messages_estimate, last_id, size_bytes, retention::text AS retention,\n\
                slowest_pipeline, slowest_position\n\
         FROM tide.outbox_status($1) ORDER BY outbox",
    )
    .bind(name)
    .fetch_all(connection)
    .await
    .doing("reading the outboxes")
}

/// A message to publish.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// The outbox.
    pub outbox: String,
    /// What happened.
    pub payload: Value,
    /// A JSON object.
    pub headers: Value,
    /// Messages of one key are delivered in the order in which they were committed.
    pub key: Option<String>,
    /// Drawn by the database if absent.
    pub event_id: Option<Uuid>,
}

/// Publishes one message in the connection's transaction and returns its event id.
pub async fn outbox_publish(
    connection: &mut PgConnection,
    message: &NewMessage,
) -> Result<Uuid, CatalogError> {
    sqlx::query_scalar("-- outbox_publish\nSELECT tide.outbox_publish($1, $2, $3, $4, $5)")
        .bind(&message.outbox)
        .bind(&message.payload)
        .bind(&message.headers)
        .bind(&message.key)
        .bind(message.event_id)
        .fetch_one(connection)
        .await
        .doing("publishing")
}
