//! Claims and positions. Every write says under which epoch, and one that touches no row means
//! that somebody newer owns the pipeline: fenced.
//!
//! Several sessions of an agent write rows of several units at once. All of them lock the rows in
//! the order of their names first; otherwise two could wait for each other, which costs them the
//! server's `deadlock_timeout`.

use std::{collections::BTreeSet, time::Duration};

use sqlx::{AssertSqlSafe, FromRow, PgConnection, types::Json};
use tide_model::{
    AgentName, Cursor, Epoch, GroupName, Incarnation, Origin, Pass, PipelineState, UnitName,
};

use crate::{CatalogError, error::Doing, fleet::parse};

/// What a fresh owner goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The pipeline.
    pub pipeline: UnitName,
    /// The owner's fencing token.
    pub epoch: Epoch,
    /// Where to go on.
    pub cursor: Cursor,
    /// The cursor was written in another cluster: the database was restored from a dump.
    pub restored: bool,
}

/// Raises the epochs of pipelines that the caller has just locked, on the session that holds the
/// locks. Pipelines that were deleted meanwhile are left out of the answer.
pub async fn offsets_claim(
    connection: &mut PgConnection,
    group: &GroupName,
    agent: &AgentName,
    incarnation: Incarnation,
    pipelines: &[UnitName],
) -> Result<Vec<Claim>, CatalogError> {
    let names: Vec<&str> = pipelines.iter().map(UnitName::as_str).collect();
    let rows: Vec<ClaimRow> = sqlx::query_as(
        "-- offsets_claim\n\
         SELECT pipeline, claimed_epoch, high, seen, pass_target, pass_at, settled_floor, old_positions, same_system\n\
         FROM tide.relay_claim($1, $2, $3, $4)",
    )
    .bind(group.as_str())
    .bind(agent.as_str())
    .bind(incarnation.0)
    .bind(names)
    .fetch_all(connection)
    .await
    .doing("claiming pipelines")?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// What storing a position changes, of row `o`, from the columns of `a`.
pub(crate) const SET_POSITION: &str = "\
    SET last_change_id = a.high, snapshot = a.seen::pg_snapshot,\n\
        pass_snapshot = a.pass_target::pg_snapshot, pass_position = a.pass_at, floor_id = a.settled,\n\
        origins = CASE WHEN a.catching_up THEN o.origins END,\n\
        system_identifier = (SELECT c.system_identifier FROM pg_control_system() c), updated_at = now()";

/// A position to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The pipeline.
    pub pipeline: UnitName,
    /// The epoch that the writer owns it under.
    pub epoch: Epoch,
    /// How far it is delivered.
    pub cursor: Cursor,
}

/// Stores positions of many pipelines in one statement and returns those that were accepted. A
/// pipeline that is missing from the answer is fenced: its writer must stop at once.
pub async fn offsets_advance(
    connection: &mut PgConnection,
    group: &GroupName,
    advances: &[Advance],
) -> Result<BTreeSet<UnitName>, CatalogError> {
    let sql = format!(
        "-- offsets_advance\n\
         WITH locked AS MATERIALIZED (\n\
             SELECT x.name FROM tide.relay_consumer_offsets x\n\
             WHERE x.relay_group_id = $1 AND x.name = ANY ($2::text[])\n\
             ORDER BY x.name COLLATE \"C\" FOR NO KEY UPDATE\n\
         )\n\
         UPDATE tide.relay_consumer_offsets o {SET_POSITION}\n\
         FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::boolean[])\n\
              AS a (name, epoch, high, seen, pass_target, pass_at, settled, catching_up)\n\
              JOIN locked USING (name)\n\
         WHERE o.relay_group_id = $1 AND o.name = a.name AND o.epoch = a.epoch AND o.last_change_id <= a.high\n\
         RETURNING o.name"
    );
    let accepted: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(group.as_str())
        .bind(column(advances, |a| a.pipeline.to_string()))
        .bind(column(advances, |a| a.epoch.0))
        .bind(column(advances, |a| a.cursor.high))
        .bind(column(advances, |a| {
            a.cursor.snapshot.as_ref().map(ToString::to_string)
        }))
        .bind(column(advances, |a| {
            a.cursor.pass.as_ref().map(|pass| pass.target.to_string())
        }))
        .bind(column(advances, |a| {
            a.cursor.pass.as_ref().map(|pass| pass.position)
        }))
        .bind(column(advances, |a| a.cursor.floor))
        .bind(column(advances, |a| !a.cursor.origins.is_empty()))
        .fetch_all(connection)
        .await
        .doing("storing positions")?;
    accepted
        .iter()
        .map(|name| parse("relay_consumer_offsets", "name", name))
        .collect()
}

/// A state to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    /// The pipeline.
    pub pipeline: UnitName,
    /// The epoch that the writer owns it under.
    pub epoch: Epoch,
    /// What it is doing now.
    pub state: PipelineState,
    /// Why, if there is something to say.
    pub reason: Option<String>,
    /// Of one that is retrying: how soon its sink is tried again, if that is worth telling.
    pub retry_in: Option<Duration>,
}

/// Nobody waits for a moment that is farther away, and not every such moment is a timestamp.
const BEYOND_TELLING: Duration = Duration::from_hours(24 * 365);

/// Stores what pipelines are doing; those that are fenced are left as they are.
pub async fn offsets_set_state(
    connection: &mut PgConnection,
    group: &GroupName,
    changes: &[StateChange],
) -> Result<(), CatalogError> {
    sqlx::query(
        "-- offsets_set_state\n\
         WITH locked AS MATERIALIZED (\n\
             SELECT x.name FROM tide.relay_consumer_offsets x\n\
             WHERE x.relay_group_id = $1 AND x.name = ANY ($2::text[])\n\
             ORDER BY x.name COLLATE \"C\" FOR NO KEY UPDATE\n\
         )\n\
         UPDATE tide.relay_consumer_offsets o\n\
         SET state_since = CASE WHEN o.state = a.state THEN o.state_since ELSE now() END,\n\
             state = a.state, state_reason = a.reason, retry_at = now() + a.retry_ms * interval '1 millisecond'\n\
         FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[])\n\
              AS a (name, epoch, state, reason, retry_ms)\n\
              JOIN locked USING (name)\n\
         WHERE o.relay_group_id = $1 AND o.name = a.name AND o.epoch = a.epoch",
    )
    .bind(group.as_str())
    .bind(column(changes, |c| c.pipeline.to_string()))
    .bind(column(changes, |c| c.epoch.0))
    .bind(column(changes, |c| c.state.as_str()))
    .bind(column(changes, |c| c.reason.clone()))
    .bind(column(changes, |c| {
        c.retry_in
            .filter(|delay| *delay < BEYOND_TELLING)
            .map(|delay| delay.as_millis() as i64)
    }))
    .execute(connection)
    .await
    .map(drop)
    .doing("storing states")
}

fn column<R, T>(records: &[R], field: impl Fn(&R) -> T) -> Vec<T> {
    records.iter().map(field).collect()
}

#[derive(FromRow)]
struct ClaimRow {
    pipeline: String,
    claimed_epoch: i64,
    high: i64,
    seen: Option<String>,
    pass_target: Option<String>,
    pass_at: Option<i64>,
    settled_floor: i64,
    old_positions: Option<Json<Vec<Origin>>>,
    same_system: bool,
}

impl TryFrom<ClaimRow> for Claim {
    type Error = CatalogError;

    fn try_from(row: ClaimRow) -> Result<Self, CatalogError> {
        const TABLE: &str = "relay_consumer_offsets";
        let snapshot = row
            .seen
            .map(|text| parse(TABLE, "snapshot", &text))
            .transpose()?;
        let target = row
            .pass_target
            .map(|text| parse(TABLE, "pass_snapshot", &text))
            .transpose()?;
        let pass = target
            .zip(row.pass_at)
            .map(|(target, position)| Pass { target, position });
        Ok(Self {
            pipeline: parse(TABLE, "name", &row.pipeline)?,
            epoch: Epoch(row.claimed_epoch),
            cursor: Cursor {
                high: row.high,
                snapshot,
                pass,
                floor: row.settled_floor,
                origins: row
                    .old_positions
                    .map(|origins| origins.0)
                    .unwrap_or_default(),
            },
            restored: !row.same_system,
        })
    }
}
