//! What units cost, and plans that even that out: kept for a day, applied once.

use std::time::Duration;

use sqlx::{Connection as _, FromRow, PgConnection, Postgres, Transaction, types::Json};
use tide_model::{
    Epoch, GroupName, OperationId, PlanId,
    fleet::DatabaseView,
    operation::Move,
    rebalance::{Costs, PlanRecord, Proposal, RebalancePlan, UnitCost},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    CatalogError,
    error::Doing,
    fleet::{large_database_view, parse},
    intent::{Actor, interval},
};

/// What was measured of each unit, and whether its configuration gives it a weight all the same.
pub async fn unit_costs(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<Costs, CatalogError> {
    let rows: Vec<(String, f64, bool)> = sqlx::query_as(
        "-- unit_costs\n\
         SELECT u.unit, coalesce(c.rate, 0), coalesce(jsonb_typeof(p.config -> 'weight') = 'number', false)\n\
         FROM tide.relay_units($1) u\n\
         JOIN tide.pipelines p ON p.name = u.pipeline\n\
         LEFT JOIN tide.relay_costs c ON c.relay_group_id = $1 AND c.name = u.unit\n\
         WHERE c.rate > 0 OR jsonb_typeof(p.config -> 'weight') = 'number'\n\
         ORDER BY u.pipeline, u.shard",
    )
    .bind(group.as_str())
    .fetch_all(connection)
    .await
    .doing("reading what pipelines cost")?;
    rows.into_iter()
        .map(|(unit, rate, configured)| {
            let cost = UnitCost { rate, configured };
            Ok((parse("relay_costs", "name", &unit)?, cost))
        })
        .collect()
}

/// Keeps a plan, unless it is kept already.
pub async fn plan_store(
    connection: &mut PgConnection,
    group: &GroupName,
    plan: &RebalancePlan,
    actor: &str,
) -> Result<PlanRecord, CatalogError> {
    let record: Record = sqlx::query_as(
        "-- plan_store\n\
         SELECT id, actor, created_at, expires_at, operation_id\n\
         FROM tide.rebalance_plan_store($1, $2, $3, $4)",
    )
    .bind(group.as_str())
    .bind(&plan.hash)
    .bind(Json(plan))
    .bind(actor)
    .fetch_one(connection)
    .await
    .doing("keeping the plan")?;
    Ok(record.into())
}

/// A plan that is kept.
pub async fn plan_get(
    connection: &mut PgConnection,
    group: &GroupName,
    id: PlanId,
) -> Result<Proposal, CatalogError> {
    stored(connection, group, id, Locking::No).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Locking {
    No,
    UntilTheEnd,
}

async fn stored(
    connection: &mut PgConnection,
    group: &GroupName,
    id: PlanId,
    locking: Locking,
) -> Result<Proposal, CatalogError> {
    let stored: Stored = sqlx::query_as(
        "-- plan_get\n\
         SELECT id, actor, created_at, expires_at, operation_id, plan\n\
         FROM tide.rebalance_plan_get($1, $2, $3)",
    )
    .bind(group.as_str())
    .bind(id.0)
    .bind(locking == Locking::UntilTheEnd)
    .fetch_one(connection)
    .await
    .doing("reading the plan")?;
    Ok(Proposal {
        plan: stored.plan.0,
        record: Some(stored.record.into()),
    })
}

/// A plan that is about to be applied, and what there is now. Until it is, or is dropped, nobody
/// else applies it.
#[derive(Debug)]
pub struct Applying<'c> {
    transaction: Transaction<'c, Postgres>,
    group: GroupName,
    id: PlanId,
    /// The plan.
    pub proposal: Proposal,
    /// The fleet as it is.
    pub view: DatabaseView,
    /// What was measured, and what is configured.
    pub costs: Costs,
}

/// Reads a plan that is to be applied, and what it is to be judged by.
pub async fn applying<'c>(
    connection: &'c mut PgConnection,
    group: &GroupName,
    id: PlanId,
) -> Result<Applying<'c>, CatalogError> {
    let mut transaction = connection.begin().await.doing(APPLYING)?;
    let proposal = stored(&mut transaction, group, id, Locking::UntilTheEnd).await?;
    let view = large_database_view(&mut transaction, group).await?;
    let costs = unit_costs(&mut transaction, group).await?;
    Ok(Applying {
        transaction,
        group: group.clone(),
        id,
        proposal,
        view,
        costs,
    })
}

impl Applying<'_> {
    /// Writes the weights of the plan, and these of its moves, in one transaction; returns the
    /// operation. An epoch is that of the control plane that asks: one that leads no more is refused.
    pub async fn begin(
        mut self,
        moves: &[Move],
        actor: &Actor,
        deadline: Option<Duration>,
        epoch: Option<Epoch>,
    ) -> Result<OperationId, CatalogError> {
        let weights: Vec<_> = self.proposal.plan.reweighed().collect();
        let operation = sqlx::query_scalar::<_, Uuid>(
            "-- plan_apply\nSELECT tide.rebalance_apply($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(self.group.as_str())
        .bind(self.id.0)
        .bind(Json(moves))
        .bind(Json(weights))
        .bind(&actor.name)
        .bind(&actor.reason)
        .bind(interval(deadline))
        .bind(epoch.map(|epoch| epoch.0))
        .fetch_one(&mut *self.transaction)
        .await
        .doing(APPLYING)?;
        self.transaction.commit().await.doing(APPLYING)?;
        Ok(OperationId(operation))
    }
}

const APPLYING: &str = "applying the plan";

#[derive(FromRow)]
struct Record {
    id: Uuid,
    actor: String,
    created_at: OffsetDateTime,
    expires_at: OffsetDateTime,
    operation_id: Option<Uuid>,
}

#[derive(FromRow)]
struct Stored {
    #[sqlx(flatten)]
    record: Record,
    plan: Json<RebalancePlan>,
}

impl From<Record> for PlanRecord {
    fn from(record: Record) -> Self {
        Self {
            id: PlanId(record.id),
            actor: record.actor,
            created_at: record.created_at,
            expires_at: record.expires_at,
            operation: record.operation_id.map(OperationId),
        }
    }
}
