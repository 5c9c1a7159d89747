//! Writes what operators want: drains, moves, and their end. Agents obey it whether or not the
//! process that wrote it still lives.

use std::time::Duration;

use sqlx::{PgConnection, postgres::types::PgInterval};
use tide_model::{AgentName, GroupName, OperationId, hold::DrainTerms, operation::Move};
use uuid::Uuid;

use crate::{CatalogError, error::Doing, holds::Breaking};

/// Who asks, and why: recorded with everything they do.
#[derive(Debug, Clone)]
pub struct Actor {
    /// Name of a person or a program.
    pub name: String,
    /// What for; may be empty.
    pub reason: String,
}

pub(crate) fn interval(deadline: Option<Duration>) -> Option<PgInterval> {
    deadline.map(|deadline| PgInterval {
        months: 0,
        days: 0,
        microseconds: deadline.as_micros() as i64,
    })
}

/// Holds an agent and asks it to give everything away; returns the running drain if there is one.
pub async fn drain_begin(
    connection: &mut PgConnection,
    group: &GroupName,
    agent: &AgentName,
    actor: &Actor,
    deadline: Option<Duration>,
    terms: DrainTerms,
) -> Result<OperationId, CatalogError> {
    sqlx::query_scalar("-- drain_begin\nSELECT tide.drain_begin($1, $2, $3, $4, $5, $6)")
        .bind(group.as_str())
        .bind(agent.as_str())
        .bind(&actor.name)
        .bind(&actor.reason)
        .bind(interval(deadline))
        .bind(sqlx::types::Json(terms))
        .fetch_one(connection)
        .await
        .map(OperationId)
        .doing("starting the drain")
}

/// Ends the actor's drain of an agent, running or complete, or everybody's.
pub async fn undrain(
    connection: &mut PgConnection,
    group: &GroupName,
    agent: &AgentName,
    actor: &Actor,
    breaking: Breaking,
) -> Result<OperationId, CatalogError> {
    sqlx::query_scalar("-- undrain\nSELECT tide.undrain($1, $2, $3, $4, $5)")
        .bind(group.as_str())
        .bind(agent.as_str())
        .bind(&actor.name)
        .bind(&actor.reason)
        .bind(breaking == Breaking::Allowed)
        .fetch_one(connection)
        .await
        .map(OperationId)
        .doing("ending the drain")
}

/// Which operation asks for moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveKind {
    /// One pipeline, by hand.
    Move,
    /// A plan; replaces earlier placements.
    Rebalance,
}

/// Places pipelines where `moves` says.
pub async fn move_begin(
    connection: &mut PgConnection,
    group: &GroupName,
    moves: &[Move],
    kind: MoveKind,
    actor: &Actor,
    deadline: Option<Duration>,
) -> Result<OperationId, CatalogError> {
    let kind = match kind {
        MoveKind::Move => "move",
        MoveKind::Rebalance => "rebalance",
    };
    sqlx::query_scalar::<_, Uuid>("-- move_begin\nSELECT tide.move_begin($1, $2, $3, $4, $5, $6)")
        .bind(group.as_str())
        .bind(sqlx::types::Json(moves))
        .bind(&actor.name)
        .bind(&actor.reason)
        .bind(kind)
        .bind(interval(deadline))
        .fetch_one(connection)
        .await
        .map(OperationId)
        .doing("starting the move")
}
