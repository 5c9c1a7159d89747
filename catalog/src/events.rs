//! The audit: who did what to what, when, why, and how it ended. Appended, never changed.

use serde::Serialize;
use serde_json::Value;
use sqlx::{FromRow, PgConnection, postgres::PgRow};
use tide_model::GroupName;
use time::OffsetDateTime;

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

/// One line, as it was appended.
#[derive(Debug, Clone, PartialEq, Serialize, FromRow)]
pub struct Recorded {
    /// Its number; numbers may become visible in another order.
    pub id: i64,
    /// When, by the server's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What happened: `drain.started`.
    pub kind: String,
    /// What it happened to.
    pub subject: String,
    /// Who did it.
    pub actor: String,
    /// What for; may be empty.
    pub reason: String,
    /// How a request ended; empty for what is no request.
    pub outcome: String,
    /// How the actor was proven: `token`, `certificate`, or empty.
    pub authenticated_by: String,
    /// Who was logged in to PostgreSQL; none for lines older than that column.
    pub database_user: Option<String>,
    /// More, by kind.
    pub detail: Value,
}

/// Which lines; what is absent admits all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// From this moment on.
    pub since: Option<OffsetDateTime>,
    /// This kind, or all below it: `drain` for `drain.started`.
    pub kind: Option<String>,
    /// About this alone.
    pub subject: Option<String>,
    /// By this actor alone.
    pub actor: Option<String>,
}

/// What was visible when events were read: whatever commits afterwards is still to come, also if it
/// was numbered before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen(String);

macro_rules! admitted {
    () => {
        // What concerns pipelines and outboxes belongs to no group.
        "e.relay_group_id IN ($1, '')\n\
         AND ($2::timestamptz IS NULL OR e.at >= $2)\n\
         AND ($3::text IS NULL OR e.kind = $3 OR starts_with(e.kind, $3 || '.'))\n\
         AND ($4::text IS NULL OR e.subject = $4)\n\
         AND ($5::text IS NULL OR e.actor = $5)"
    };
}

macro_rules! columns {
    () => {
        "e.id, e.at, e.kind, e.subject, e.actor, e.reason, e.outcome, e.authenticated_by,\n\
         e.database_user::text AS database_user, e.detail"
    };
}

/// The newest lines, oldest of them first, and what was seen with them.
pub async fn event_list(
    connection: &mut PgConnection,
    group: &GroupName,
    filter: &Filter,
    limit: u32,
) -> Result<(Vec<Recorded>, Seen), CatalogError> {
    // One statement, so that the snapshot is the rows' own; a row without a number says that there
    // are none.
    let rows = sqlx::query(concat!(
        "-- event_list\nSELECT pg_current_snapshot()::text AS snapshot, newest.*\n\
         FROM (SELECT) AS once\n\
         LEFT JOIN (SELECT ",
        columns!(),
        " FROM tide.events e WHERE ",
        admitted!(),
        " ORDER BY e.at DESC, e.id DESC LIMIT $6) AS newest ON true\n\
         ORDER BY newest.at, newest.id"
    ))
    .bind(group.as_str())
    .bind(filter.since)
    .bind(&filter.kind)
    .bind(&filter.subject)
    .bind(&filter.actor)
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await;
    read(rows)
}

/// The lines that became visible since, oldest first, and what was seen with them.
pub async fn event_follow(
    connection: &mut PgConnection,
    group: &GroupName,
    filter: &Filter,
    seen: &Seen,
) -> Result<(Vec<Recorded>, Seen), CatalogError> {
    let rows = sqlx::query(concat!(
        "-- event_follow\nSELECT pg_current_snapshot()::text AS snapshot, fresh.*\n\
         FROM (SELECT) AS once\n\
         LEFT JOIN (SELECT ",
        columns!(),
        " FROM tide.events e WHERE ",
        admitted!(),
        " AND e.xid >= pg_snapshot_xmin($6::pg_snapshot)\n\
          AND NOT pg_visible_in_snapshot(e.xid, $6::pg_snapshot)) AS fresh ON true\n\
         ORDER BY fresh.at, fresh.id"
    ))
    .bind(group.as_str())
    .bind(filter.since)
    .bind(&filter.kind)
    .bind(&filter.subject)
    .bind(&filter.actor)
    .bind(&seen.0)
    .fetch_all(connection)
    .await;
    read(rows)
}

fn read(rows: sqlx::Result<Vec<PgRow>>) -> Result<(Vec<Recorded>, Seen), CatalogError> {
    use sqlx::Row as _;

    let doing = "reading the events";
    let rows = rows.doing(doing)?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound).doing(doing)?;
    let seen = Seen(first.try_get("snapshot").doing(doing)?);
    let mut events = Vec::with_capacity(rows.len());
    for row in &rows {
        if row.try_get::<Option<i64>, _>("id").doing(doing)?.is_some() {
            events.push(Recorded::from_row(row).doing(doing)?);
        }
    }
    Ok((events, seen))
}
