//! Reads everything that PostgreSQL knows about one group.

use std::collections::BTreeMap;

use sqlx::{Connection as _, FromRow, PgConnection};
use tide_model::{
    AgentName, Epoch, GroupName, Incarnation, OperationId,
    fleet::{AgentRow, DatabaseView, PipelineRow},
    last_drain::LastDrain,
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::{
    CatalogError,
    error::Doing,
    holds::{HoldRecord, hold_records},
    reach::unreached,
};

/// Whether to look into the outboxes for what waits in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// One index look-up a pipeline.
    Measure,
    /// All lags read as zero.
    Skip,
    /// Rows by the outboxes' sequences, an upper bound; no ages. Touches no message.
    Estimate,
}

/// Looking into the outbox of each of more units than this would take longer than what it tells stays
/// true; their owners know it anyway.
const MEASURED_UNITS: i64 = 2_000;

/// Reads the group as [`database_view`] does, at a cost that a large fleet can bear: of many units
/// the lags are estimates.
pub async fn large_database_view(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<DatabaseView, CatalogError> {
    const DOING: &str = "reading a large fleet";
    let units: i64 = sqlx::query_scalar("-- fleet_size\nSELECT count(*) FROM tide.relay_units($1)")
        .bind(group.as_str())
        .fetch_one(&mut *connection)
        .await
        .doing("counting the pipelines")?;
    if units <= MEASURED_UNITS {
        return read_view(connection, group, Lag::Measure).await;
    }
    let mut transaction = connection.begin().await.doing(DOING)?;
    // PostgreSQL cannot know how many locks there are, takes them for few, and compares each pipeline's
    // with each agent's: for 100,000 and 1,000 that takes minutes, and hashing them a second or two.
    sqlx::raw_sql("-- fleet_planning\nSET LOCAL enable_nestloop = off; SET LOCAL jit = off")
        .execute(&mut *transaction)
        .await
        .doing(DOING)?;
    let view = read_view(&mut transaction, group, Lag::Estimate).await?;
    transaction.commit().await.doing(DOING)?;
    Ok(view)
}

/// Reads the group without lags, for whoever acts on it: weights and placements that a plan writes
/// together are seen together, so that nobody moves anything by half of a plan.
pub async fn consistent_view(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<DatabaseView, CatalogError> {
    const DOING: &str = "reading the fleet";
    let begin = "-- consistent_view\nBEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    let mut transaction = connection.begin_with(begin).await.doing(DOING)?;
    let view = read_view(&mut transaction, group, Lag::Skip).await?;
    transaction.commit().await.doing(DOING)?;
    Ok(view)
}

/// Reads the group's pipelines, agents, holds and placements, with lags.
pub async fn database_view(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<DatabaseView, CatalogError> {
    read_view(connection, group, Lag::Measure).await
}

/// Reads the group's pipelines, agents, holds and placements, and who does not reach which sink. Ownership comes from `pg_locks`,
/// which no transaction freezes, so the parts may be a moment apart.
pub async fn read_view(
    connection: &mut PgConnection,
    group: &GroupName,
    lag: Lag,
) -> Result<DatabaseView, CatalogError> {
    let taken_at = sqlx::query_scalar("-- database_clock\nSELECT clock_timestamp()")
        .fetch_one(&mut *connection)
        .await
        .doing("reading the clock")?;
    let pipelines: Vec<StatusRow> = sqlx::query_as(match lag {
        Lag::Measure => {
            "-- fleet_status\n\
             SELECT name, outbox, sink_type, enabled, revision, weight, lock_key, owner, owner_pid, epoch,\n\
                    last_change_id, lag_rows, lag_seconds, state, state_reason, state_since, reshard_to, settled,\n\
                    (CASE WHEN state = 'retrying' THEN (SELECT w.retry_at FROM tide.relay_consumer_offsets w\n\
                        WHERE w.relay_group_id = $1 AND w.name = s.name) END) AS retry_at\n\
             FROM tide.relay_status($1) AS s"
        }
        Lag::Estimate => {
            "-- fleet_estimate\n\
             SELECT name, outbox, sink_type, enabled, revision, weight, lock_key, owner, owner_pid, epoch,\n\
                    last_change_id, greatest(head - last_change_id, 0) AS lag_rows, 0::float8 AS lag_seconds, state,\n\
                    state_reason, state_since, reshard_to, settled,\n\
                    (CASE WHEN state = 'retrying' THEN (SELECT w.retry_at FROM tide.relay_consumer_offsets w\n\
                        WHERE w.relay_group_id = $1 AND w.name = s.name) END) AS retry_at\n\
             FROM tide.relay_ownership($1) AS s"
        }
        Lag::Skip => {
            "-- fleet_ownership\n\
             SELECT name, outbox, sink_type, enabled, revision, weight, lock_key, owner, owner_pid, epoch,\n\
                    last_change_id, 0::bigint AS lag_rows, 0::float8 AS lag_seconds, state, state_reason, state_since,\n\
                    reshard_to, settled,\n\
                    (CASE WHEN state = 'retrying' THEN (SELECT w.retry_at FROM tide.relay_consumer_offsets w\n\
                        WHERE w.relay_group_id = $1 AND w.name = s.name) END) AS retry_at\n\
             FROM tide.relay_ownership($1) AS s"
        }
    })
    .bind(group.as_str())
    .fetch_all(&mut *connection)
    .await
    .doing("reading the pipelines")?;
    let agents: Vec<AgentRecord> = sqlx::query_as(
        "-- fleet_agents\n\
         SELECT a.name, a.incarnation, a.version, a.hostname, a.weight, a.metrics_addr, a.started_at,\n\
                a.last_seen_at, a.stopped_at, n.pid AS backend_pid,\n\
                CASE WHEN n.pid IS NOT NULL AND a.last_seen_at < clock_timestamp() - interval '10 s'\n\
                     THEN (SELECT b.state_change + a.lease FROM pg_stat_get_activity(n.pid) b WHERE b.state = 'idle')\n\
                END AS lease_ends_at\n\
         FROM tide.agents a\n\
         LEFT JOIN tide.advisory_locks n\n\
                ON n.class = tide.agent_lock_class(a.relay_group_id)::bigint & 4294967295\n\
               AND n.object = tide.lock_key(a.name) AND n.pid = a.backend_pid\n\
         WHERE a.relay_group_id = $1 ORDER BY a.name",
    )
    .bind(group.as_str())
    .fetch_all(&mut *connection)
    .await
    .doing("reading the agents")?;
    let holds = hold_records(&mut *connection, group).await?;
    let placements: Vec<(String, String, i64)> = sqlx::query_as(
        "-- fleet_placements\n\
         SELECT pipeline, agent, generation FROM tide.placements WHERE relay_group_id = $1 ORDER BY pipeline",
    )
    .bind(group.as_str())
    .fetch_all(&mut *connection)
    .await
    .doing("reading the placements")?;

    let generation = holds
        .iter()
        .map(HoldRecord::generation)
        .chain(placements.iter().map(|(_, _, generation)| *generation))
        .max()
        .unwrap_or(0);
    let unreached = unreached(&mut *connection, group).await?;
    let last_drains = match lag {
        Lag::Measure | Lag::Estimate => last_drains(connection, group).await?,
        Lag::Skip => BTreeMap::new(),
    };
    Ok(DatabaseView {
        last_drains,
        unreached,
        group: group.clone(),
        taken_at,
        pipelines: pipelines
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<_, _>>()?,
        agents: agents
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<_, _>>()?,
        holds: holds.into_iter().filter_map(HoldRecord::readable).collect(),
        placements: placements
            .into_iter()
            .filter_map(|(pipeline, agent, _)| {
                let agent = parse("placements", "agent", &agent).ok()?;
                Some((parse("placements", "pipeline", &pipeline).ok()?, agent))
            })
            .collect(),
        generation,
    })
}

/// The newest drain of each agent that is known, and what was seen of it.
async fn last_drains(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<BTreeMap<AgentName, LastDrain>, CatalogError> {
    let rows: Vec<DrainRecord> = sqlx::query_as(
        "-- fleet_last_drains\n\
         SELECT DISTINCT ON (o.target) o.target, o.id, o.state, o.actor, o.reason, o.outcome, o.finished_at,\n\
                s.incarnation, s.voided_because\n\
         FROM tide.operations o\n\
         JOIN tide.agents a ON a.relay_group_id = o.relay_group_id AND a.name = o.target\n\
         LEFT JOIN tide.safe_to_stop s ON s.relay_group_id = o.relay_group_id AND s.agent = o.target\n\
                  AND s.operation_id = o.id\n\
         WHERE o.relay_group_id = $1 AND o.kind = 'drain'\n\
         ORDER BY o.target, o.created_at DESC, o.id DESC",
    )
    .bind(group.as_str())
    .fetch_all(connection)
    .await
    .doing("reading the last drains")?;
    rows.into_iter()
        .map(|row| {
            let agent = parse("operations", "target", &row.target)?;
            let drain = LastDrain {
                operation: OperationId(row.id),
                state: parse("operations", "state", &row.state)?,
                actor: row.actor,
                reason: row.reason,
                outcome: row.outcome,
                finished_at: row.finished_at,
                verified: row.incarnation.map(Incarnation),
                voided: row.voided_because,
            };
            Ok((agent, drain))
        })
        .collect()
}

#[derive(FromRow)]
struct DrainRecord {
    target: String,
    id: Uuid,
    state: String,
    actor: String,
    reason: String,
    outcome: Option<String>,
    finished_at: Option<OffsetDateTime>,
    incarnation: Option<Uuid>,
    voided_because: Option<String>,
}

pub(crate) fn parse<T>(
    table: &'static str,
    column: &'static str,
    text: &str,
) -> Result<T, CatalogError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse()
        .map_err(|error| CatalogError::inconsistent(table, column, error))
}

#[derive(FromRow)]
struct StatusRow {
    name: String,
    outbox: String,
    sink_type: Option<String>,
    enabled: bool,
    revision: i64,
    weight: i32,
    lock_key: i64,
    owner: Option<String>,
    owner_pid: Option<i32>,
    epoch: Option<i64>,
    last_change_id: i64,
    lag_rows: i64,
    lag_seconds: f64,
    state: Option<String>,
    state_reason: Option<String>,
    state_since: Option<OffsetDateTime>,
    retry_at: Option<OffsetDateTime>,
    reshard_to: Option<i32>,
    settled: bool,
}

impl TryFrom<StatusRow> for PipelineRow {
    type Error = CatalogError;

    fn try_from(row: StatusRow) -> Result<Self, CatalogError> {
        let owner = row
            .owner
            .map(|owner| parse::<AgentName>("agents", "name", &owner))
            .transpose()?;
        let state = row
            .state
            .map(|state| parse("relay_consumer_offsets", "state", &state))
            .transpose()?;
        Ok(Self {
            name: parse("pipelines", "name", &row.name)?,
            outbox: row.outbox,
            sink: row.sink_type.unwrap_or_else(|| "-".to_owned()),
            enabled: row.enabled,
            revision: row.revision,
            weight: row.weight.max(1) as u32,
            lock_key: row.lock_key,
            owner,
            owner_pid: row.owner_pid,
            epoch: row.epoch.map(Epoch),
            last_change_id: row.last_change_id,
            lag_rows: row.lag_rows,
            lag: Duration::seconds_f64(row.lag_seconds),
            state,
            state_reason: row.state_reason,
            state_since: row.state_since,
            retry_at: row.retry_at,
            reshard_to: row.reshard_to.map(|shards| shards as u16),
            settled: row.settled,
        })
    }
}

#[derive(FromRow)]
struct AgentRecord {
    name: String,
    incarnation: Uuid,
    version: String,
    hostname: String,
    weight: i32,
    metrics_addr: Option<String>,
    started_at: OffsetDateTime,
    last_seen_at: OffsetDateTime,
    stopped_at: Option<OffsetDateTime>,
    backend_pid: Option<i32>,
    lease_ends_at: Option<OffsetDateTime>,
}

impl TryFrom<AgentRecord> for AgentRow {
    type Error = CatalogError;

    fn try_from(row: AgentRecord) -> Result<Self, CatalogError> {
        Ok(Self {
            name: parse("agents", "name", &row.name)?,
            incarnation: Incarnation(row.incarnation),
            alive: row.backend_pid.is_some(),
            version: row.version,
            hostname: row.hostname,
            weight: row.weight.max(0) as u32,
            metrics_addr: row.metrics_addr,
            started_at: row.started_at,
            last_seen_at: row.last_seen_at,
            stopped_at: row.stopped_at,
            backend_pid: row.backend_pid,
            lease_ends_at: row.lease_ends_at,
        })
    }
}
