//! Operations: what was asked for, and what became of it.

use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use tide_model::{Epoch, GroupName, OperationId, operation::Operation};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{CatalogError, error::Doing, fleet::parse};

macro_rules! columns {
    ($from:literal) => {
        concat!(
            "SELECT id, kind, target, request, actor, reason, state, outcome, created_at, deadline_at, finished_at ",
            $from
        )
    };
}

/// Looks whether an operation is done, records it if so, and returns it. Idempotent.
pub async fn operation_settle(
    connection: &mut PgConnection,
    id: OperationId,
) -> Result<Operation, CatalogError> {
    let record: Record = sqlx::query_as(concat!(
        "-- operation_settle\n",
        columns!("FROM tide.operation_settle($1)")
    ))
    .bind(id.0)
    .fetch_one(connection)
    .await
    .doing("reading the operation")?;
    record.try_into()
}

/// As [`operation_settle`], for the control plane that leads the operation's group under this
/// epoch: refused as fenced once another one does.
pub async fn operation_settle_as(
    connection: &mut PgConnection,
    id: OperationId,
    epoch: Epoch,
) -> Result<Operation, CatalogError> {
    let record: Record = sqlx::query_as(concat!(
        "-- operation_settle_as\n",
        columns!("FROM tide.operation_settle($1, $2)")
    ))
    .bind(id.0)
    .bind(epoch.0)
    .fetch_one(connection)
    .await
    .doing("reading the operation")?;
    record.try_into()
}

/// Gives an operation up; cancelling an ended one changes nothing.
pub async fn operation_cancel(
    connection: &mut PgConnection,
    id: OperationId,
    actor: &str,
) -> Result<Operation, CatalogError> {
    let record: Record = sqlx::query_as(concat!(
        "-- operation_cancel\n",
        columns!("FROM tide.operation_cancel($1, $2)")
    ))
    .bind(id.0)
    .bind(actor)
    .fetch_one(connection)
    .await
    .doing("cancelling the operation")?;
    record.try_into()
}

/// Operations of a group, newest first, starting after `before`.
pub async fn operation_list(
    connection: &mut PgConnection,
    group: &GroupName,
    limit: u32,
    before: Option<(OffsetDateTime, OperationId)>,
) -> Result<Vec<Operation>, CatalogError> {
    let (at, id) = before.unzip();
    let records: Vec<Record> = sqlx::query_as(concat!(
        "-- operation_list\n",
        columns!(
            "FROM tide.operations WHERE relay_group_id = $1 AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3)) \
             ORDER BY created_at DESC, id DESC LIMIT $4"
        )
    ))
    .bind(group.as_str())
    .bind(at)
    .bind(id.map(|id| id.0))
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await
    .doing("reading the operations")?;
    records.into_iter().map(TryInto::try_into).collect()
}

/// Operations of a group that have not ended.
pub async fn operation_running(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<Vec<OperationId>, CatalogError> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "-- operation_running\n\
         SELECT id FROM tide.operations WHERE relay_group_id = $1 AND state = 'running' ORDER BY created_at",
    )
    .bind(group.as_str())
    .fetch_all(connection)
    .await
    .doing("reading the operations")?;
    Ok(ids.into_iter().map(OperationId).collect())
}

#[derive(FromRow)]
struct Record {
    id: Uuid,
    kind: String,
    target: String,
    request: Value,
    actor: String,
    reason: String,
    state: String,
    outcome: Option<String>,
    created_at: OffsetDateTime,
    deadline_at: Option<OffsetDateTime>,
    finished_at: Option<OffsetDateTime>,
}

impl TryFrom<Record> for Operation {
    type Error = CatalogError;

    fn try_from(record: Record) -> Result<Self, CatalogError> {
        let moves = match record.request.get("moves") {
            None => Vec::new(),
            Some(moves) => serde_json::from_value(moves.clone())
                .map_err(|error| CatalogError::inconsistent("operations", "request", error))?,
        };
        Ok(Self {
            id: OperationId(record.id),
            kind: parse("operations", "kind", &record.kind)?,
            target: record.target,
            actor: record.actor,
            reason: record.reason,
            state: parse("operations", "state", &record.state)?,
            outcome: record.outcome,
            moves,
            created_at: record.created_at,
            deadline_at: record.deadline_at,
            finished_at: record.finished_at,
        })
    }
}
