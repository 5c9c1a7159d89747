//! The locks of pipelines from both sides: who holds them by `pg_locks`, and who says so in the
//! catalog. And the end of a session that holds some and is nobody's.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection as _, FromRow, PgConnection};
use tide_model::GroupName;

use crate::{
    CatalogError,
    error::Doing,
    events::{Event, event_record},
    intent::Actor,
};

/// How long a session may take to end.
const TERMINATION: Duration = Duration::from_secs(5);

/// A lock, a record of an owner, or both.
#[derive(Debug, Clone, Default, PartialEq, FromRow)]
pub struct LockRow {
    /// The pipeline or shard; none for a lock that belongs to none any more.
    pub unit: Option<String>,
    /// Second key of the lock, as `pg_locks` has it.
    pub lock_key: i64,
    /// The backend that holds the lock; none if nobody does.
    pub pid: Option<i32>,
    /// The agent whose name the same session holds.
    pub holder: Option<String>,
    /// Whether that agent registered from this very session.
    pub registered: bool,
    /// Seconds since that agent last wrote.
    pub silent_seconds: Option<f64>,
    /// The owner by the catalog, unless it has left.
    pub recorded: Option<String>,
    /// Whether that is the run of the agent that holds the lock.
    pub same_run: bool,
    /// The epoch of the record.
    pub epoch: Option<i64>,
    /// Seconds since the record last changed.
    pub record_seconds: Option<f64>,
    /// The session's user.
    pub user: Option<String>,
    /// The session's application.
    pub application: Option<String>,
    /// The session's client; none for a local one, or one that the user may not see.
    pub client: Option<String>,
    /// The session's age in seconds; none if the user may not see it.
    pub session_seconds: Option<f64>,
}

/// Every pipeline lock of a group that is held, and every owner on record that holds none of an
/// enabled pipeline. `pg_locks` follows no transaction, so what changes hands is shown as it passes.
pub async fn lock_list(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<Vec<LockRow>, CatalogError> {
    sqlx::query_as(
        "-- lock_list\n\
         WITH units AS (\n\
             SELECT u.unit, p.enabled, tide.lock_key(u.unit) AS key\n\
             FROM tide.relay_units($1) u JOIN tide.pipelines p ON p.name = u.pipeline\n\
         ), held AS (\n\
             SELECT l.pid, l.object AS key FROM tide.advisory_locks l WHERE l.class = tide.lock_key($1)\n\
         ), holders AS (\n\
             SELECT n.pid, a.name, a.incarnation, a.backend_pid, a.last_seen_at\n\
             FROM tide.advisory_locks n\n\
             JOIN tide.agents a ON a.relay_group_id = $1 AND tide.lock_key(a.name) = n.object\n\
             WHERE n.class = tide.agent_lock_class($1)::bigint & 4294967295\n\
         )\n\
         SELECT u.unit, coalesce(u.key, l.key) AS lock_key, l.pid, h.name AS holder,\n\
                coalesce(h.backend_pid = l.pid, false) AS registered,\n\
                extract(epoch FROM clock_timestamp() - h.last_seen_at)::float8 AS silent_seconds,\n\
                o.owner AS recorded, coalesce(o.owner_incarnation = h.incarnation, false) AS same_run, o.epoch,\n\
                extract(epoch FROM clock_timestamp() - greatest(o.updated_at, o.state_since))::float8 AS record_seconds,\n\
                s.usename::text AS \"user\", s.application_name AS application, host(s.client_addr) AS client,\n\
                extract(epoch FROM clock_timestamp() - s.backend_start)::float8 AS session_seconds\n\
         FROM held l\n\
         FULL JOIN units u ON u.key = l.key\n\
         LEFT JOIN holders h ON h.pid = l.pid\n\
         -- An owner that has left says so under its own epoch.\n\
         LEFT JOIN tide.relay_consumer_offsets o\n\
                ON o.relay_group_id = $1 AND o.name = u.unit AND o.state <> 'stopped'\n\
               AND (o.left_at IS NULL OR o.left_epoch IS DISTINCT FROM o.epoch)\n\
         LEFT JOIN pg_stat_activity s ON s.pid = l.pid\n\
         WHERE l.pid IS NOT NULL OR (u.enabled AND o.owner IS NOT NULL)\n\
         ORDER BY u.unit, lock_key",
    )
    .bind(group.as_str())
    .fetch_all(connection)
    .await
    .doing("comparing the locks")
}

/// What became of a session that was to be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// It is gone, and with it the locks of these; those without a pipeline by their number.
    Ended(Vec<String>),
    /// It holds no lock of the group, or is an agent's; it was left alone.
    NoOrphan,
    /// It was told to end, and had not after some seconds.
    Lingers,
}

/// Ends a session that holds pipeline locks and is no agent's, after another look at that, and
/// records it for each lock. The record and the end are one transaction: none without the other.
pub async fn lock_release(
    connection: &mut PgConnection,
    group: &GroupName,
    pid: i32,
    actor: &Actor,
) -> Result<Release, CatalogError> {
    let mut transaction = connection.begin().await.doing("releasing locks")?;
    let rows = lock_list(&mut transaction, group).await?;
    let its: Vec<&LockRow> = rows.iter().filter(|row| row.pid == Some(pid)).collect();
    if its.is_empty() || its.iter().any(|row| row.holder.is_some()) {
        return Ok(Release::NoOrphan);
    }
    let names: Vec<String> = its.iter().map(|row| row.label()).collect();
    for (row, name) in its.iter().zip(&names) {
        let event = Event {
            kind: "lock.released",
            subject: name,
            actor: &actor.name,
            reason: &actor.reason,
            outcome: "ok",
            authenticated_by: "",
            detail: json!({
                "pid": pid,
                "user": row.user,
                "application": row.application,
                "client": row.client,
            }),
        };
        event_record(&mut transaction, group, &event).await?;
    }
    let ended: bool =
        sqlx::query_scalar("-- lock_release\nSELECT pg_terminate_backend($1, $2::bigint)")
            .bind(pid)
            .bind(TERMINATION.as_millis() as i64)
            .fetch_one(&mut *transaction)
            .await
            .doing("ending a session")?;
    if !ended {
        return Ok(Release::Lingers);
    }
    transaction.commit().await.doing("recording the release")?;
    Ok(Release::Ended(names))
}

impl LockRow {
    /// The pipeline, or what is known of a lock that belongs to none.
    pub fn label(&self) -> String {
        self.unit
            .clone()
            .unwrap_or_else(|| format!("lock {}", self.lock_key))
    }
}
