//! What speaks for and against evening out the load with nobody asking.

use std::time::Duration;

use sqlx::{FromRow, PgConnection};
use tide_model::{
    Epoch, GroupName, OperationId, PlanId,
    rebalance::{Activity, LastMove, Pause, Suggested},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    CatalogError,
    error::Doing,
    fleet::parse,
    holds::Breaking,
    intent::{Actor, interval},
};

/// Who wants it to be left alone, what is under way, what moved last, and what was suggested.
pub async fn activity(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<Activity, CatalogError> {
    const DOING: &str = "reading what was moved";
    let pauses: Vec<PauseRecord> = sqlx::query_as(
        "-- rebalance_pauses\n\
         SELECT actor, reason, created_at, expires_at FROM tide.rebalance_pauses\n\
         WHERE relay_group_id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp()) ORDER BY created_at, actor",
    )
    .bind(group.as_str())
    .fetch_all(&mut *connection)
    .await
    .doing(DOING)?;
    let running: Option<Uuid> = sqlx::query_scalar(
        "-- rebalance_running\n\
         SELECT id FROM tide.operations WHERE relay_group_id = $1 AND state = 'running' ORDER BY created_at, id LIMIT 1",
    )
    .bind(group.as_str())
    .fetch_optional(&mut *connection)
    .await
    .doing(DOING)?;
    let last: Option<LastRecord> = sqlx::query_as(
        "-- rebalance_last\n\
         SELECT id, kind, actor, coalesce(finished_at, created_at) AS at FROM tide.operations\n\
         WHERE relay_group_id = $1 AND kind IN ('move', 'rebalance') ORDER BY at DESC, id DESC LIMIT 1",
    )
    .bind(group.as_str())
    .fetch_optional(&mut *connection)
    .await
    .doing(DOING)?;
    let suggested: Option<(Uuid, OffsetDateTime)> = sqlx::query_as(
        "-- rebalance_suggested\n\
         SELECT id, suggested_at FROM tide.rebalance_plans\n\
         WHERE relay_group_id = $1 AND suggested_at IS NOT NULL ORDER BY suggested_at DESC, id LIMIT 1",
    )
    .bind(group.as_str())
    .fetch_optional(connection)
    .await
    .doing(DOING)?;
    let last = last.map(|last| {
        Ok::<_, CatalogError>(LastMove {
            operation: OperationId(last.id),
            kind: parse("operations", "kind", &last.kind)?,
            actor: last.actor,
            at: last.at,
        })
    });
    Ok(Activity {
        pauses: pauses.into_iter().map(Into::into).collect(),
        running: running.map(OperationId),
        last: last.transpose()?,
        suggested: suggested.map(|(id, at)| Suggested {
            plan: PlanId(id),
            at,
        }),
    })
}

/// Keeps control planes from evening out the load by themselves, or renews the actor's own pause.
pub async fn pause(
    connection: &mut PgConnection,
    group: &GroupName,
    actor: &Actor,
    lasting: Option<Duration>,
) -> Result<Pause, CatalogError> {
    let record: PauseRecord = sqlx::query_as(
        "-- rebalance_pause\n\
         SELECT actor, reason, created_at, expires_at FROM tide.rebalance_pause($1, $2, $3, $4)",
    )
    .bind(group.as_str())
    .bind(&actor.name)
    .bind(&actor.reason)
    .bind(interval(lasting))
    .fetch_one(connection)
    .await
    .doing("pausing")?;
    Ok(record.into())
}

/// Ends the actor's pause, or everybody's, and returns how many there were.
pub async fn resume(
    connection: &mut PgConnection,
    group: &GroupName,
    actor: &str,
    breaking: Breaking,
) -> Result<u32, CatalogError> {
    sqlx::query_scalar::<_, i32>("-- rebalance_resume\nSELECT tide.rebalance_resume($1, $2, $3)")
        .bind(group.as_str())
        .bind(actor)
        .bind(breaking == Breaking::Allowed)
        .fetch_one(connection)
        .await
        .map(i32::unsigned_abs)
        .doing("resuming")
}

/// Whether a plan was suggested before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suggestion {
    /// It is recorded now.
    New,
    /// It was recorded before.
    Known,
}

/// Records that the control plane of this epoch suggests a plan, once.
pub async fn suggest(
    connection: &mut PgConnection,
    group: &GroupName,
    plan: PlanId,
    actor: &Actor,
    epoch: Epoch,
) -> Result<Suggestion, CatalogError> {
    let new: bool = sqlx::query_scalar(
        "-- rebalance_suggest\nSELECT tide.rebalance_suggest($1, $2, $3, $4, $5)",
    )
    .bind(group.as_str())
    .bind(plan.0)
    .bind(&actor.name)
    .bind(&actor.reason)
    .bind(epoch.0)
    .fetch_one(connection)
    .await
    .doing("suggesting the plan")?;
    Ok(if new {
        Suggestion::New
    } else {
        Suggestion::Known
    })
}

#[derive(FromRow)]
struct PauseRecord {
    actor: String,
    reason: String,
    created_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
}

impl From<PauseRecord> for Pause {
    fn from(record: PauseRecord) -> Self {
        Self {
            actor: record.actor,
            reason: record.reason,
            since: record.created_at,
            until: record.expires_at,
        }
    }
}

#[derive(FromRow)]
struct LastRecord {
    id: Uuid,
    kind: String,
    actor: String,
    at: OffsetDateTime,
}
