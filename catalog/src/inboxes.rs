//! Inboxes: create, look at, drop, and put messages into.
//!
//! Every insert leaves alone what is there under the same event id. In the outbox's own database
//! [`inbox_store_at`] stores the position in the same statement, under the writer's epoch: one
//! statement and not a transaction, because an owner that froze between two would hold the
//! position's row, and its successor's claim would wait for it.

use sqlx::{AssertSqlSafe, FromRow, PgConnection, Postgres, postgres::PgArguments, query::Query};
use tide_model::{Cursor, Epoch, GroupName, UnitName};
use time::OffsetDateTime;

use crate::{CatalogError, error::Doing, messages::Message, offsets::SET_POSITION};

/// One inbox, and what waits in it.
#[derive(Debug, Clone, FromRow, PartialEq)]
pub struct InboxStatus {
    /// Its name.
    pub inbox: String,
    /// Messages that are not processed.
    pub pending: i64,
    /// Those of them whose processing has failed before.
    pub failed: i64,
    /// When the first of them arrived.
    pub oldest_pending: Option<OffsetDateTime>,
    /// Messages in the table, by the server's statistics.
    pub messages_estimate: i64,
    /// The highest id drawn.
    pub last_id: i64,
    /// Table and indexes, bytes.
    pub size_bytes: i64,
    /// How long processed messages stay at least, as PostgreSQL prints it.
    pub retention: String,
}

/// Creates an inbox. `retention` is a PostgreSQL interval such as `72 hours`.
pub async fn inbox_create(
    connection: &mut PgConnection,
    name: &str,
    retention: Option<&str>,
) -> Result<(), CatalogError> {
    sqlx::query(
        "-- inbox_create\nSELECT tide.inbox_create($1, coalesce($2::text::interval, '72 hours'))",
    )
    .bind(name)
    .bind(retention)
    .execute(connection)
    .await
    .map(drop)
    .doing("creating the inbox")
}

/// Drops an inbox and its messages.
pub async fn inbox_drop(connection: &mut PgConnection, name: &str) -> Result<(), CatalogError> {
    sqlx::query("-- inbox_drop\nSELECT tide.inbox_drop($1)")
        .bind(name)
        .execute(connection)
        .await
        .map(drop)
        .doing("dropping the inbox")
}

/// All inboxes by name.
pub async fn inbox_status(connection: &mut PgConnection) -> Result<Vec<InboxStatus>, CatalogError> {
    sqlx::query_as(
        "-- inbox_status\n\
         SELECT inbox, pending, failed, oldest_pending, messages_estimate, last_id, size_bytes,\n\
                retention::text AS retention\n\
         FROM tide.inbox_status() ORDER BY inbox",
    )
    .fetch_all(connection)
    .await
    .doing("reading the inboxes")
}

/// The inboxes by name, for the janitor.
pub async fn inbox_names(connection: &mut PgConnection) -> Result<Vec<String>, CatalogError> {
    sqlx::query_scalar("-- inbox_names\nSELECT name FROM tide.inboxes ORDER BY name")
        .fetch_all(connection)
        .await
        .doing("reading the inboxes")
}

/// Deletes up to a batch of messages that were processed longer ago than the inbox's retention,
/// under the janitor's epoch, and returns how many that was.
pub async fn inbox_sweep(
    connection: &mut PgConnection,
    name: &str,
    epoch: Epoch,
    batch: u32,
) -> Result<u64, CatalogError> {
    sqlx::query_scalar::<_, i64>("-- inbox_sweep\nSELECT tide.inbox_sweep($1, $2, $3)")
        .bind(name)
        .bind(epoch.0)
        .bind(batch as i32)
        .fetch_one(connection)
        .await
        .map(|purged| purged as u64)
        .doing("deleting processed messages")
}

/// The table of an inbox, ready for a statement; none if the server has no such inbox.
pub async fn inbox_find(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Option<String>, CatalogError> {
    sqlx::query_scalar(
        "-- inbox_find\nSELECT to_regclass(format('tide.%I', 'inbox_' || $1::text))::text",
    )
    .bind(name)
    .fetch_one(connection)
    .await
    .doing("looking for the inbox")
}

/// Which database of which running server a session is on. Two names of one server are equal; a
/// clone, which has the same system identifier, was started at another moment.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Whereabouts {
    system: i64,
    database: i64,
    started_at: OffsetDateTime,
}

/// Asks a session where it is.
pub async fn whereabouts(connection: &mut PgConnection) -> Result<Whereabouts, CatalogError> {
    sqlx::query_as(
        "-- whereabouts\n\
         SELECT (SELECT c.system_identifier FROM pg_control_system() c) AS system,\n\
                (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database()) AS database,\n\
                pg_postmaster_start_time() AS started_at",
    )
    .fetch_one(connection)
    .await
    .doing("asking the server who it is")
}

/// What is to be put into an inbox.
#[derive(Debug, Clone, Copy)]
pub struct Arrivals<'a> {
    /// The inbox's table, from [`inbox_find`].
    pub relation: &'a str,
    /// The outbox that the messages come from.
    pub source: &'a str,
    /// The messages, in the order in which they arrive.
    pub messages: &'a [Message],
    /// Their headers, Tide's own among them: JSON text of an object each.
    pub headers: &'a [String],
}

/// Whose position moves with the messages.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The group.
    pub group: &'a GroupName,
    /// The pipeline.
    pub pipeline: &'a UnitName,
    /// The epoch that the writer owns it under.
    pub epoch: Epoch,
}

/// Puts messages into an inbox, all or none.
pub async fn inbox_store(
    connection: &mut PgConnection,
    arrivals: &Arrivals<'_>,
) -> Result<(), CatalogError> {
    let sql = format!("-- inbox_store\n{}", insert(arrivals.relation, ""));
    bind(sqlx::query(AssertSqlSafe(sql)), arrivals)
        .execute(connection)
        .await
        .map(drop)
        .doing("writing to the inbox")
}

/// Puts messages into an inbox of the outbox's own database and moves the position there, all or
/// nothing. Without a position it only makes sure that the epoch still counts. False means fenced:
/// nothing was written.
pub async fn inbox_store_at(
    connection: &mut PgConnection,
    arrivals: &Arrivals<'_>,
    owner: Owner<'_>,
    position: Option<&Cursor>,
) -> Result<bool, CatalogError> {
    let sql = format!(
        "-- inbox_store_at\n\
         WITH a AS (\n\
             SELECT $11::bigint AS high, $12::text AS seen, $13::text AS pass_target, $14::bigint AS pass_at,\n\
                    $15::bigint AS settled, $16::boolean AS catching_up\n\
         ), owned AS MATERIALIZED (\n\
             SELECT x.name FROM tide.relay_consumer_offsets x\n\
             WHERE x.relay_group_id = $8 AND x.name = $9 AND x.epoch = $10\n\
               AND ($11::bigint IS NULL OR x.last_change_id <= $11)\n\
             FOR NO KEY UPDATE\n\
         ), stored AS (\n\
             {}\n\
         ), advanced AS (\n\
             UPDATE tide.relay_consumer_offsets o {SET_POSITION}\n\
             FROM a, owned\n\
             WHERE o.relay_group_id = $8 AND o.name = owned.name AND a.high IS NOT NULL\n\
         )\n\
         SELECT EXISTS (SELECT FROM owned)",
        insert(arrivals.relation, "CROSS JOIN owned")
    );
    let pass = position.and_then(|cursor| cursor.pass.as_ref());
    bind(sqlx::query(AssertSqlSafe(sql)), arrivals)
        .bind(owner.group.as_str())
        .bind(owner.pipeline.as_str())
        .bind(owner.epoch.0)
        .bind(position.map(|cursor| cursor.high))
        .bind(position.and_then(|cursor| cursor.snapshot.as_ref().map(ToString::to_string)))
        .bind(pass.map(|pass| pass.target.to_string()))
        .bind(pass.map(|pass| pass.position))
        .bind(position.map(|cursor| cursor.floor))
        .bind(position.is_some_and(|cursor| !cursor.origins.is_empty()))
        .fetch_one(connection)
        .await
        .and_then(|row| sqlx::Row::try_get(&row, 0))
        .doing("writing to the inbox")
}

/// The statement whose first seven parameters are those of [`bind`].
fn insert(relation: &str, only_if: &str) -> String {
    format!(
        "INSERT INTO {relation} (event_id, source, source_id, key, payload, headers, created_at)\n\
         SELECT m.event_id, $1, m.source_id, m.key, m.payload::jsonb, m.headers::jsonb, m.created_at\n\
         FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])\n\
              WITH ORDINALITY AS m (event_id, source_id, key, payload, headers, created_at, place) {only_if}\n\
         ORDER BY m.place\n\
         ON CONFLICT (event_id) DO NOTHING"
    )
}

fn bind<'q>(
    query: Query<'q, Postgres, PgArguments>,
    arrivals: &Arrivals<'q>,
) -> Query<'q, Postgres, PgArguments> {
    let Arrivals {
        source,
        messages,
        headers,
        ..
    } = *arrivals;
    query
        .bind(source)
        .bind(column(messages, |message| message.event_id))
        .bind(column(messages, |message| message.id))
        .bind(column(messages, |message| message.key.as_deref()))
        .bind(column(messages, |message| message.payload.as_str()))
        .bind(headers)
        .bind(column(messages, |message| message.created_at))
}

fn column<'a, T>(messages: &'a [Message], field: impl Fn(&'a Message) -> T) -> Vec<T> {
    messages.iter().map(field).collect()
}
