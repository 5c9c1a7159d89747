//! Agents: what they say about themselves, and waiting for one to be gone.

use std::time::Duration;

use sqlx::PgConnection;
use tide_model::{AgentName, GroupName, Incarnation};
use uuid::Uuid;

use crate::{
    CatalogError,
    error::Doing,
    intent::{Actor, interval},
};

/// What an agent registers when it starts.
#[derive(Debug, Clone)]
pub struct AgentRegistration {
    /// Its group.
    pub group: GroupName,
    /// Its name.
    pub name: AgentName,
    /// This session of it.
    pub incarnation: Incarnation,
    /// This process: another one after a restart, the same after a lost session.
    pub run: Uuid,
    /// The backend that holds its locks.
    pub backend_pid: i32,
    /// Version of its binary.
    pub version: String,
    /// Name of its host.
    pub hostname: String,
    /// Its process id on that host.
    pub process_id: u32,
    /// Where it serves metrics and probes.
    pub metrics_addr: Option<String>,
    /// Its share of the pipelines.
    pub weight: u32,
    /// How long its lock session may be silent before the server ends it.
    pub lease: Duration,
}

/// Registers a run of an agent, which must hold the lock on its name, and wakes the others.
pub async fn agent_register(
    connection: &mut PgConnection,
    agent: &AgentRegistration,
) -> Result<(), CatalogError> {
    sqlx::query(
        "-- agent_register\n\
         WITH registered AS (\n\
             INSERT INTO tide.agents AS a (relay_group_id, name, incarnation, backend_pid, version, hostname,\n\
                                           process_id, metrics_addr, weight, run, lease)\n\
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)\n\
             ON CONFLICT (relay_group_id, name) DO UPDATE SET\n\
                 incarnation = excluded.incarnation, backend_pid = excluded.backend_pid,\n\
                 version = excluded.version, hostname = excluded.hostname, process_id = excluded.process_id,\n\
                 metrics_addr = excluded.metrics_addr, weight = excluded.weight, run = excluded.run,\n\
                 lease = excluded.lease, owned = 0,\n\
                 acknowledged_generation = 0, started_at = now(), last_seen_at = now(), stopped_at = NULL\n\
         )\n\
         SELECT pg_notify('tide_fleet', json_build_object('group', $1::text, 'joined', $2::text)::text)",
    )
    .bind(agent.group.as_str())
    .bind(agent.name.as_str())
    .bind(agent.incarnation.0)
    .bind(agent.backend_pid)
    .bind(&agent.version)
    .bind(&agent.hostname)
    .bind(agent.process_id as i32)
    .bind(&agent.metrics_addr)
    .bind(agent.weight as i32)
    .bind(agent.run)
    .bind(interval(Some(agent.lease)))
    .execute(connection)
    .await
    .map(drop)
    .doing("registering the agent")
}

/// Says that the agent is there, what it holds, and up to which intent it has obeyed.
pub async fn agent_beat(
    connection: &mut PgConnection,
    group: &GroupName,
    name: &AgentName,
    incarnation: Incarnation,
    owned: usize,
    acknowledged_generation: i64,
) -> Result<(), CatalogError> {
    sqlx::query(
        "-- agent_beat\n\
         UPDATE tide.agents SET owned = $4, acknowledged_generation = $5, last_seen_at = now()\n\
         WHERE relay_group_id = $1 AND name = $2 AND incarnation = $3",
    )
    .bind(group.as_str())
    .bind(name.as_str())
    .bind(incarnation.0)
    .bind(owned as i32)
    .bind(acknowledged_generation)
    .execute(connection)
    .await
    .map(drop)
    .doing("reporting to the catalog")
}

/// Records that the agent is about to stop, while it still holds its name: from now on nobody
/// counts on it, so that the others share out what it gives away and do not try to fill it again.
pub async fn agent_stopping(
    connection: &mut PgConnection,
    group: &GroupName,
    name: &AgentName,
    incarnation: Incarnation,
) -> Result<(), CatalogError> {
    let sql = "-- agent_stopping\n\
               UPDATE tide.agents SET stopped_at = now()\n\
               WHERE relay_group_id = $1 AND name = $2 AND incarnation = $3 AND stopped_at IS NULL";
    let run = (group, name, incarnation);
    about_run(connection, sql, run, "recording that it stops").await
}

/// Records that the agent stopped in good order.
pub async fn agent_stopped(
    connection: &mut PgConnection,
    group: &GroupName,
    name: &AgentName,
    incarnation: Incarnation,
) -> Result<(), CatalogError> {
    let sql = "-- agent_stopped\n\
               UPDATE tide.agents SET owned = 0, stopped_at = now(), last_seen_at = now()\n\
               WHERE relay_group_id = $1 AND name = $2 AND incarnation = $3";
    let run = (group, name, incarnation);
    about_run(connection, sql, run, "recording the stop").await
}

async fn about_run(
    connection: &mut PgConnection,
    sql: &'static str,
    (group, name, incarnation): (&GroupName, &AgentName, Incarnation),
    doing: &'static str,
) -> Result<(), CatalogError> {
    sqlx::query(sql)
        .bind(group.as_str())
        .bind(name.as_str())
        .bind(incarnation.0)
        .execute(connection)
        .await
        .map(drop)
        .doing(doing)
}

/// Forgets an agent that does not run: its record, its holds, and what was placed on it.
pub async fn agent_remove(
    connection: &mut PgConnection,
    group: &GroupName,
    name: &AgentName,
    actor: &Actor,
) -> Result<(), CatalogError> {
    sqlx::query("-- agent_remove\nSELECT tide.agent_remove($1, $2, $3, $4)")
        .bind(group.as_str())
        .bind(name.as_str())
        .bind(&actor.name)
        .bind(&actor.reason)
        .execute(connection)
        .await
        .map(drop)
        .doing("removing the agent")
}

/// How long one wait for an agent blocks in the server: below `deadlock_timeout` (1 s by default),
/// so that it leaves no log line, and short, so that it does not hold the vacuum horizon.
pub const WATCH_SLICE: Duration = Duration::from_millis(800);

/// Waits up to [`WATCH_SLICE`] for an agent to lose its name lock; true as soon as it has.
///
/// The session must be the watch's own: afterwards it holds no advisory lock whatever. A wait that
/// is over in the moment in which the lock is granted ends with "not gone" and yet has the lock,
/// which would keep that agent from ever coming back.
pub async fn agent_gone(
    connection: &mut PgConnection,
    group: &GroupName,
    agent: &AgentName,
) -> Result<bool, CatalogError> {
    sqlx::query_scalar(
        "-- agent_gone\nSELECT tide.agent_gone($1, $2, $3), pg_advisory_unlock_all()",
    )
    .bind(group.as_str())
    .bind(agent.as_str())
    .bind(WATCH_SLICE.as_millis() as i32)
    .fetch_one(connection)
    .await
    .doing("watching an agent")
}

/// Tells every agent of the group that one is gone.
pub async fn announce_gone(
    connection: &mut PgConnection,
    group: &GroupName,
    agent: &AgentName,
) -> Result<(), CatalogError> {
    sqlx::query(
        "-- announce_gone\n\
         SELECT pg_notify('tide_fleet', json_build_object('group', $1::text, 'gone', $2::text)::text)",
    )
    .bind(group.as_str())
    .bind(agent.as_str())
    .execute(connection)
    .await
    .map(drop)
    .doing("announcing a gone agent")
}
