//! What operators want of running pipelines: pause, resume, rewind. Owners look for it whenever
//! they look at the fleet, and are told to.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{FromRow, PgConnection};
use tide_model::{GroupName, PipelineName, UnitName};
use time::OffsetDateTime;

use crate::{
    CatalogError,
    error::Doing,
    fleet::parse,
    holds::Breaking,
    intent::{Actor, interval},
};

/// What is wanted of one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// It is to deliver nothing: who says so, and why.
    pub pause: Option<String>,
    /// The newest replay that has dead letters for it to deliver.
    pub replay: Option<i64>,
}

/// The units of which something is wanted.
pub async fn order_list(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<BTreeMap<UnitName, Order>, CatalogError> {
    let rows: Vec<(String, Option<String>, Option<i64>)> =
        sqlx::query_as("-- order_list\nSELECT unit, pause, replay FROM tide.relay_orders($1)")
            .bind(group.as_str())
            .fetch_all(connection)
            .await
            .doing("reading what operators want")?;
    rows.into_iter()
        .map(|(unit, pause, replay)| {
            let unit = parse("relay_orders", "unit", &unit)?;
            Ok((unit, Order { pause, replay }))
        })
        .collect()
}

/// Stops deliveries of a pipeline and all its shards, for as long as is said; false if the actor
/// had paused it already.
pub async fn pipeline_pause(
    connection: &mut PgConnection,
    group: &GroupName,
    pipeline: &PipelineName,
    actor: &Actor,
    lasting: Option<Duration>,
) -> Result<bool, CatalogError> {
    sqlx::query_scalar("-- pipeline_pause\nSELECT tide.relay_pause($1, $2, $3, $4, $5)")
        .bind(pipeline.as_str())
        .bind(&actor.reason)
        .bind(&actor.name)
        .bind(group.as_str())
        .bind(interval(lasting))
        .fetch_one(connection)
        .await
        .doing("pausing the pipeline")
}

/// Ends the actor's pause of a pipeline, or everybody's; false if it was not paused.
pub async fn pipeline_resume(
    connection: &mut PgConnection,
    group: &GroupName,
    pipeline: &PipelineName,
    actor: &Actor,
    breaking: Breaking,
) -> Result<bool, CatalogError> {
    sqlx::query_scalar("-- pipeline_resume\nSELECT tide.relay_resume($1, $2, $3, $4, $5)")
        .bind(pipeline.as_str())
        .bind(&actor.reason)
        .bind(&actor.name)
        .bind(group.as_str())
        .bind(breaking == Breaking::Allowed)
        .fetch_one(connection)
        .await
        .doing("resuming the pipeline")
}

/// Back to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RewindTo {
    /// The last message that is not delivered again; 0 for none.
    Id(i64),
    /// Everything that was written at this moment or later is delivered again.
    Time(OffsetDateTime),
}

/// How a rewind is carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RewindMode {
    /// Only say what would be delivered again.
    pub dry_run: bool,
    /// Deliver again what is left, although some of it is gone.
    pub accept_gone: bool,
}

/// What a rewind means for one unit.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Rewound {
    /// The unit.
    pub unit: String,
    /// The highest message that it had delivered.
    pub from_id: i64,
    /// The same, from now on.
    pub new_id: i64,
    /// So many messages are delivered again.
    pub messages: i64,
}

/// Takes the positions of all units of a pipeline back, under new epochs.
pub async fn pipeline_rewind(
    connection: &mut PgConnection,
    group: &GroupName,
    pipeline: &PipelineName,
    to: RewindTo,
    mode: RewindMode,
    actor: &Actor,
) -> Result<Vec<Rewound>, CatalogError> {
    let (id, time) = match to {
        RewindTo::Id(id) => (Some(id), None),
        RewindTo::Time(time) => (None, Some(time)),
    };
    sqlx::query_as(
        "-- pipeline_rewind\n\
         SELECT unit, from_id, new_id, messages FROM tide.relay_rewind($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(pipeline.as_str())
    .bind(id)
    .bind(time)
    .bind(&actor.reason)
    .bind(&actor.name)
    .bind(group.as_str())
    .bind(mode.dry_run)
    .bind(mode.accept_gone)
    .fetch_all(connection)
    .await
    .doing("rewinding the pipeline")
}
