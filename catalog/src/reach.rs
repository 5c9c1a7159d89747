//! Which agents do not reach which sinks. Agents say it about themselves, and only when it changes.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{FromRow, PgConnection};
use tide_model::{AgentName, Epoch, GroupName, UnitName, fleet::Unreached};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{CatalogError, error::Doing, fleet::parse, intent::interval};

/// The run of an agent that speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// Its group.
    pub group: GroupName,
    /// Its name.
    pub agent: AgentName,
    /// Its process; what an earlier one said is void.
    pub run: Uuid,
}

/// A sink that was not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whose sink.
    pub unit: UnitName,
    /// Its configuration.
    pub revision: i64,
    /// Whether the agent had the unit.
    pub owned: bool,
    /// What it met instead.
    pub reason: String,
    /// For how long already.
    pub failing: Duration,
}

/// Says that these sinks are not reached, which counts for so long, and wakes everybody.
pub async fn unreachable_set(
    connection: &mut PgConnection,
    speaker: &Speaker,
    findings: &[Finding],
    lasting: Duration,
) -> Result<u64, CatalogError> {
    sqlx::query_scalar::<_, i64>(
        "-- unreachable_set\n\
         SELECT tide.relay_unreachable_set($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(speaker.group.as_str())
    .bind(speaker.agent.as_str())
    .bind(speaker.run)
    .bind(column(findings, |one| one.unit.to_string()))
    .bind(column(findings, |one| one.revision))
    .bind(column(findings, |one| one.owned))
    .bind(column(findings, |one| one.reason.clone()))
    .bind(column(findings, |one| one.failing.as_secs_f64()))
    .bind(interval(Some(lasting)))
    .fetch_one(connection)
    .await
    .map(|written| written as u64)
    .doing("saying which sinks are out of reach")
}

/// Says that the sinks of these units are reached after all, and wakes everybody.
pub async fn unreachable_clear(
    connection: &mut PgConnection,
    speaker: &Speaker,
    units: &[UnitName],
) -> Result<u64, CatalogError> {
    sqlx::query_scalar::<_, i64>(
        "-- unreachable_clear\nSELECT tide.relay_unreachable_clear($1, $2, $3, $4)",
    )
    .bind(speaker.group.as_str())
    .bind(speaker.agent.as_str())
    .bind(speaker.run)
    .bind(column(units, ToString::to_string))
    .fetch_one(connection)
    .await
    .map(|cleared| cleared as u64)
    .doing("saying which sinks are within reach")
}

/// Deletes what counts no longer, for the janitor.
pub async fn unreachable_sweep(
    connection: &mut PgConnection,
    epoch: Epoch,
) -> Result<u64, CatalogError> {
    sqlx::query_scalar::<_, i64>("-- unreachable_sweep\nSELECT tide.relay_unreachable_sweep($1)")
        .bind(epoch.0)
        .fetch_one(connection)
        .await
        .map(|swept| swept as u64)
        .doing("forgetting which sinks were out of reach")
}

/// What counts in a group at this moment, by unit.
pub(crate) async fn unreached(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<BTreeMap<UnitName, Vec<Unreached>>, CatalogError> {
    let rows: Vec<Record> = sqlx::query_as(
        "-- fleet_unreached\n\
         SELECT name, agent, owned, reason, since, expires_at FROM tide.relay_unreached\n\
         WHERE relay_group_id = $1 ORDER BY name COLLATE \"C\", agent COLLATE \"C\"",
    )
    .bind(group.as_str())
    .fetch_all(connection)
    .await
    .doing("reading which sinks are out of reach")?;
    let mut unreached: BTreeMap<UnitName, Vec<Unreached>> = BTreeMap::new();
    for row in rows {
        let unit = parse("relay_unreachable", "name", &row.name)?;
        unreached.entry(unit).or_default().push(Unreached {
            agent: parse("relay_unreachable", "agent", &row.agent)?,
            reason: row.reason,
            owned: row.owned,
            since: row.since,
            until: row.expires_at,
        });
    }
    Ok(unreached)
}

#[derive(FromRow)]
struct Record {
    name: String,
    agent: String,
    owned: bool,
    reason: String,
    since: OffsetDateTime,
    expires_at: OffsetDateTime,
}

fn column<R, T>(rows: &[R], value: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
