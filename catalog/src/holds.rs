//! Holds: set, listed, taken away. Agents read them whenever they look at the fleet, and obey their
//! ends by themselves.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{FromRow, PgConnection};
use tide_model::{
    AgentName, GroupName, HoldId, OperationId, PipelineName,
    fleet::{Hold, HoldKind},
    hold::HoldTarget,
};
use time::OffsetDateTime;
use tracing::debug;
use uuid::Uuid;

use crate::{
    CatalogError,
    error::Doing,
    fleet::parse,
    intent::{Actor, interval},
};

/// A hold to be set. A drain is none of these: it begins with an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewHold {
    /// The agent takes nothing more.
    Cordon(AgentName),
    /// The pipeline stays at the agent.
    Pin(PipelineName, AgentName),
    /// The pipeline stays where it is.
    Freeze(PipelineName),
    /// The pipeline delivers nothing.
    Pause(PipelineName),
}

impl NewHold {
    /// What kind it is.
    pub fn kind(&self) -> HoldKind {
        match self {
            Self::Cordon(_) => HoldKind::Cordon,
            Self::Pin(..) => HoldKind::Pin,
            Self::Freeze(_) => HoldKind::Freeze,
            Self::Pause(_) => HoldKind::Pause,
        }
    }

    /// On whom it is.
    pub fn target(&self) -> HoldTarget {
        match self {
            Self::Cordon(agent) => HoldTarget::Agent(agent.clone()),
            Self::Pin(pipeline, _) | Self::Freeze(pipeline) | Self::Pause(pipeline) => {
                HoldTarget::Pipeline(pipeline.clone())
            }
        }
    }
}

/// Whether to take away what belongs to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaking {
    /// Only the actor's own.
    Never,
    /// Whosesoever it is.
    Allowed,
}

impl From<bool> for Breaking {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Allowed } else { Self::Never }
    }
}

/// How a hold is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HoldTerms {
    /// Tells it apart from the owner's other holds; the owner's name if none.
    pub name: Option<String>,
    /// How long it lasts; without end if none.
    pub lasting: Option<Duration>,
}

macro_rules! returning {
    ($name:literal, $call:literal) => {
        concat!(
            "-- ", $name, "\n",
            "SELECT h.id, h.name, h.agent, h.pipeline, h.kind, h.actor, h.reason, h.parameters, h.operation_id,\n",
            "       h.generation, h.created_at, h.expires_at, coalesce(o.state = 'running', false) AS is_running, o.deadline_at\n",
            "FROM ", $call, " h LEFT JOIN tide.operations o ON o.id = h.operation_id\n"
        )
    };
}

/// Sets a hold, or renews the one of its kind, target and name.
pub async fn hold_set(
    connection: &mut PgConnection,
    group: &GroupName,
    hold: &NewHold,
    terms: &HoldTerms,
    actor: &Actor,
) -> Result<Hold, CatalogError> {
    let parameters = match hold {
        NewHold::Pin(_, to) => json!({"to": to}),
        NewHold::Cordon(_) | NewHold::Freeze(_) | NewHold::Pause(_) => json!({}),
    };
    let record: HoldRecord = sqlx::query_as(returning!(
        "hold_set",
        "tide.hold_set($1, $2, $3, $4, $5, $6, $7, $8)"
    ))
    .bind(group.as_str())
    .bind(hold.kind().as_str())
    .bind(hold.target().as_str())
    .bind(&actor.name)
    .bind(&actor.reason)
    .bind(&terms.name)
    .bind(interval(terms.lasting))
    .bind(parameters)
    .fetch_one(connection)
    .await
    .doing("setting the hold")?;
    record.try_into()
}

/// Every hold of a group that is in force, oldest first.
pub async fn hold_list(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<Vec<Hold>, CatalogError> {
    let records = hold_records(connection, group).await?;
    Ok(records
        .into_iter()
        .filter_map(HoldRecord::readable)
        .collect())
}

/// Takes one hold away, and returns what it was.
pub async fn hold_remove(
    connection: &mut PgConnection,
    group: &GroupName,
    id: HoldId,
    breaking: Breaking,
    actor: &Actor,
) -> Result<Hold, CatalogError> {
    let record: HoldRecord = sqlx::query_as(returning!(
        "hold_remove",
        "tide.hold_remove($1, $2, $3, $4, $5)"
    ))
    .bind(group.as_str())
    .bind(id.0)
    .bind(&actor.name)
    .bind(&actor.reason)
    .bind(breaking == Breaking::Allowed)
    .fetch_one(connection)
    .await
    .doing("removing the hold")?;
    record.try_into()
}

/// Ends the actor's holds of a kind on a target, or everybody's; returns how many there were.
pub async fn hold_lift(
    connection: &mut PgConnection,
    group: &GroupName,
    kind: HoldKind,
    target: &HoldTarget,
    breaking: Breaking,
    actor: &Actor,
) -> Result<u32, CatalogError> {
    let ended: i32 =
        sqlx::query_scalar("-- hold_lift\nSELECT tide.hold_lift($1, $2, $3, $4, $5, $6)")
            .bind(group.as_str())
            .bind(kind.as_str())
            .bind(target.as_str())
            .bind(&actor.name)
            .bind(&actor.reason)
            .bind(breaking == Breaking::Allowed)
            .fetch_one(connection)
            .await
            .doing("ending the hold")?;
    Ok(ended.unsigned_abs())
}

pub(crate) async fn hold_records(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<Vec<HoldRecord>, CatalogError> {
    sqlx::query_as(concat!(
        returning!("fleet_holds", "tide.holds"),
        "WHERE h.relay_group_id = $1 AND (h.expires_at IS NULL OR h.expires_at > now())\n",
        "ORDER BY h.generation"
    ))
    .bind(group.as_str())
    .fetch_all(connection)
    .await
    .doing("reading the holds")
}

#[derive(Debug, FromRow)]
pub(crate) struct HoldRecord {
    id: Uuid,
    name: String,
    agent: Option<String>,
    pipeline: Option<String>,
    kind: String,
    actor: String,
    reason: String,
    parameters: Value,
    operation_id: Option<Uuid>,
    is_running: bool,
    deadline_at: Option<OffsetDateTime>,
    generation: i64,
    created_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
}

impl HoldRecord {
    pub(crate) fn generation(&self) -> i64 {
        self.generation
    }

    /// Holds can be written by hand. One that names what cannot exist is about nobody, and must not
    /// keep everybody else's from being read.
    pub(crate) fn readable(self) -> Option<Hold> {
        self.try_into()
            .inspect_err(|error: &CatalogError| debug!(%error, "a hold was ignored"))
            .ok()
    }
}

impl TryFrom<HoldRecord> for Hold {
    type Error = CatalogError;

    fn try_from(row: HoldRecord) -> Result<Self, CatalogError> {
        let target = match (&row.agent, &row.pipeline) {
            (Some(agent), _) => HoldTarget::Agent(parse("holds", "agent", agent)?),
            (None, Some(pipeline)) => HoldTarget::Pipeline(parse("holds", "pipeline", pipeline)?),
            (None, None) => return Err(CatalogError::inconsistent("holds", "agent", "NULL")),
        };
        let kind = parse("holds", "kind", &row.kind)?;
        let to = match row.parameters.get("to").and_then(Value::as_str) {
            Some(to) if kind == HoldKind::Pin => Some(parse("holds", "parameters", to)?),
            _ => None,
        };
        let drain = (kind == HoldKind::Drain)
            .then(|| serde_json::from_value(row.parameters))
            .transpose()
            .map_err(|error| CatalogError::inconsistent("holds", "parameters", error))?;
        Ok(Self {
            id: HoldId(row.id),
            name: row.name,
            target,
            kind,
            actor: row.actor,
            reason: row.reason,
            to,
            drain,
            operation: row.operation_id.map(OperationId),
            is_running: row.is_running,
            deadline_at: row.deadline_at,
            created_at: row.created_at,
            expires_at: row.expires_at,
        })
    }
}
