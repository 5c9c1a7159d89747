//! Every statement of the publisher.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool, Row as _, postgres::PgConnectOptions,
};
use uuid::Uuid;

use super::{
    ledger::{Mark, Phases, Verdict},
    plan::PublishPlan,
    script::CounterKey,
};

/// SQLSTATE of a prepared transaction that does not exist (or no longer).
const UNDEFINED_OBJECT: &str = "42704";

/// Makes the publisher's own tables and a counter for every key.
pub(super) async fn prepare(pool: &PgPool, plan: &PublishPlan) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    // Creating the same schema twice at the same time fails, whatever IF NOT EXISTS says.
    sqlx::raw_sql(
        "SELECT pg_advisory_xact_lock(hashtext('sandbox'), hashtext('publisher'));
         CREATE SCHEMA IF NOT EXISTS sandbox;
         CREATE TABLE IF NOT EXISTS sandbox.key_counter (
             outbox text NOT NULL,
             key text NOT NULL,
             next bigint NOT NULL DEFAULT 0,
             PRIMARY KEY (outbox, key)
         ) WITH (fillfactor = 50);
         CREATE TABLE IF NOT EXISTS sandbox.mark (
             id uuid PRIMARY KEY,
             fence boolean NOT NULL
         );
         CREATE TABLE IF NOT EXISTS sandbox.unrelated (
             id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY
         );",
    )
    .execute(&mut *transaction)
    .await?;
    let keys: Vec<String> = (0..plan.keys).map(|number| plan.key(number)).collect();
    sqlx::query(
        "INSERT INTO sandbox.key_counter (outbox, key)
         SELECT outbox, key FROM unnest($1::text[]) AS outbox, unnest($2::text[]) AS key
         ORDER BY outbox, key
         ON CONFLICT DO NOTHING",
    )
    .bind(&plan.outboxes)
    .bind(keys)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Runs a statement of the transaction language.
pub(super) async fn control(
    connection: &mut PgConnection,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(statement).execute(connection).await.map(drop)
}

/// Writes something that has nothing to do with any outbox.
pub(super) async fn take_xid(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let insert = sqlx::query("INSERT INTO sandbox.unrelated DEFAULT VALUES");
    insert.execute(connection).await.map(drop)
}

/// Locks counters until the end of the transaction; the sort comes before the locks.
pub(super) async fn lock_counters(
    connection: &mut PgConnection,
    keys: &BTreeSet<CounterKey>,
) -> Result<(), sqlx::Error> {
    let (outboxes, keys): (Vec<&str>, Vec<&str>) = keys
        .iter()
        .map(|(outbox, key)| (outbox.as_str(), key.as_str()))
        .unzip();
    sqlx::query(
        "SELECT next FROM sandbox.key_counter
         WHERE (outbox, key) IN (SELECT * FROM unnest($1::text[], $2::text[]))
         ORDER BY outbox, key
         FOR UPDATE",
    )
    .bind(outboxes)
    .bind(keys)
    .execute(connection)
    .await
    .map(drop)
}

/// Takes the next number of a key.
pub(super) async fn next_sequence(
    connection: &mut PgConnection,
    outbox: &str,
    key: &str,
) -> Result<i64, sqlx::Error> {
    sqlx::query(
        "UPDATE sandbox.key_counter SET next = next + 1
         WHERE outbox = $1 AND key = $2
         RETURNING next - 1",
    )
    .bind(outbox)
    .bind(key)
    .fetch_one(connection)
    .await?
    .try_get(0)
}

/// A message as the application hands it over.
pub(super) struct Message<'a> {
    pub(super) outbox: &'a str,
    pub(super) payload: &'a Value,
    pub(super) headers: &'a Value,
    pub(super) key: Option<&'a str>,
    pub(super) event_id: Uuid,
}

/// Publishes as applications do.
pub(super) async fn publish(
    connection: &mut PgConnection,
    message: Message<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT tide.outbox_publish($1, $2, $3, $4, $5)")
        .bind(message.outbox)
        .bind(message.payload)
        .bind(message.headers)
        .bind(message.key)
        .bind(message.event_id)
        .execute(connection)
        .await
        .map(drop)
}

/// Marks the transaction, as its last write.
pub(super) async fn mark(connection: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    let insert = sqlx::query("INSERT INTO sandbox.mark (id, fence) VALUES ($1, false)");
    insert.bind(id).execute(connection).await.map(drop)
}

/// First phase of a two-phase commit.
pub(super) async fn prepare_transaction(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<(), sqlx::Error> {
    let statement = format!("PREPARE TRANSACTION 'sandbox-{id}'");
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await
        .map(drop)
}

/// Second phase of a two-phase commit.
pub(super) async fn commit_prepared(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<(), sqlx::Error> {
    let statement = format!("COMMIT PREPARED 'sandbox-{id}'");
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await
        .map(drop)
}

/// Finds out what became of a transaction, and makes sure that it stays so.
///
/// Inserting its mark ourselves waits while it is under way; if ours gets in, its own never will
/// and it cannot commit any more. Ours says so, hence asking again gives the same answer. Waits a
/// second at most: a transaction that turns prepared meanwhile is found by the next attempt.
pub(super) async fn settle(options: &PgConnectOptions, mark: Mark) -> Result<Verdict, sqlx::Error> {
    let options = options.clone().options([("lock_timeout", "1s")]);
    let mut connection = PgConnection::connect_with(&options).await?;
    if mark.phases == Phases::Two {
        match commit_prepared(&mut connection, mark.id).await {
            Err(error) if !is(&error, UNDEFINED_OBJECT) => return Err(error),
            // Committed now, committed before, or never prepared: the mark tells.
            _ => {}
        }
    }
    sqlx::query("INSERT INTO sandbox.mark (id, fence) VALUES ($1, true) ON CONFLICT DO NOTHING")
        .bind(mark.id)
        .execute(&mut connection)
        .await?;
    let fence: bool = sqlx::query("SELECT fence FROM sandbox.mark WHERE id = $1")
        .bind(mark.id)
        .fetch_one(&mut connection)
        .await?
        .try_get(0)?;
    connection.close().await?;
    Ok(if fence {
        Verdict::RolledBack
    } else {
        Verdict::Committed
    })
}

/// Opens a connection of a writer's own.
pub(super) async fn connect(
    options: &PgConnectOptions,
    within: Duration,
) -> Result<PgConnection, sqlx::Error> {
    match tokio::time::timeout(within, PgConnection::connect_with(options)).await {
        Ok(connected) => connected,
        Err(elapsed) => Err(sqlx::Error::Io(elapsed.into())),
    }
}

/// Whether an error means that the server or the connection went away, and not that the statement
/// is wrong.
pub(super) fn is_interruption(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            // Connections, transaction rollbacks, resources, operators, system errors.
            let classes = ["08", "40", "53", "57", "58"];
            let code = error.code().unwrap_or_default();
            classes.iter().any(|class| code.starts_with(class))
        }
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) => true,
        _ => false,
    }
}

fn is(error: &sqlx::Error, code: &str) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .as_deref()
        == Some(code)
}
