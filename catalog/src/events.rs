//! The audit: who did what to what, when, why, and how it ended. Appended, never changed.

use serde_json::Value;
use sqlx::PgConnection;
use tide_model::GroupName;

use crate::{CatalogError, error::Doing};

/// One line to be appended.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// What happened: `command.drain`.
    pub kind: &'a str,
    /// What it happened to.
    pub subject: &'a str,
    /// Who did it.
    pub actor: &'a str,
    /// What for; may be empty.
    pub reason: &'a str,
    /// How a request ended; empty for what is no request.
    pub outcome: &'a str,
    /// How the actor was proven: `token`, `certificate`, or empty.
    pub authenticated_by: &'a str,
    /// More, by kind.
    pub detail: Value,
}

/// Appends one line. Its time, its number and the user of the database are the server's.
pub async fn event_record(
    connection: &mut PgConnection,
    group: &GroupName,
    event: &Event<'_>,
) -> Result<(), CatalogError> {
    sqlx::query(
        "-- event_record\n\
         INSERT INTO tide.events (relay_group_id, kind, subject, actor, reason, outcome, authenticated_by, detail)\n\
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(group.as_str())
    .bind(event.kind)
    .bind(event.subject)
    .bind(event.actor)
    .bind(event.reason)
    .bind(event.outcome)
    .bind(event.authenticated_by)
    .bind(&event.detail)
    .execute(connection)
    .await
    .map(drop)
    .doing("recording an event")
}
