//! Pipelines: what should run.

use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use tide_model::{GroupName, PipelineName};

use crate::{CatalogError, error::Doing};

/// One pipeline as stored. Its config is not checked: only the pipeline itself may suffer from a
/// bad one.
#[derive(Debug, Clone, FromRow, PartialEq)]
pub struct StoredPipeline {
    /// Its name.
    pub name: String,
    /// The outbox it reads.
    pub outbox: String,
    /// The table that holds the outbox, ready to be written into a statement.
    pub relation: String,
    /// Its configuration.
    pub config: Value,
    /// Whether it should run.
    pub enabled: bool,
    /// Rises with every change of the configuration.
    pub revision: i64,
}

/// All pipelines by name.
pub async fn pipeline_list(
    connection: &mut PgConnection,
) -> Result<Vec<StoredPipeline>, CatalogError> {
    sqlx::query_as(
        "-- pipeline_list\n\
         SELECT p.name, p.outbox, b.relation::text AS relation, p.config, p.enabled, p.revision\n\
         FROM tide.pipelines p JOIN tide.outboxes b ON b.name = p.outbox ORDER BY p.name",
    )
    .fetch_all(connection)
    .await
    .doing("reading the pipelines")
}

/// Creates a pipeline or changes its configuration.
pub async fn pipeline_set(
    connection: &mut PgConnection,
    name: &str,
    outbox: &str,
    config: &Value,
) -> Result<(), CatalogError> {
    sqlx::query("-- pipeline_set\nSELECT tide.relay_set_outbox($1, $2, $3)")
        .bind(name)
        .bind(outbox)
        .bind(config)
        .execute(connection)
        .await
        .map(drop)
        .doing("writing the pipeline")
}

/// Lets a pipeline run.
pub async fn pipeline_enable(
    connection: &mut PgConnection,
    name: &str,
) -> Result<(), CatalogError> {
    by_name(
        connection,
        "-- pipeline_enable\nSELECT tide.relay_enable($1)",
        name,
    )
    .await
}

/// Stops a pipeline; its position stays.
pub async fn pipeline_disable(
    connection: &mut PgConnection,
    name: &str,
) -> Result<(), CatalogError> {
    by_name(
        connection,
        "-- pipeline_disable\nSELECT tide.relay_disable($1)",
        name,
    )
    .await
}

/// Deletes a pipeline and its position.
pub async fn pipeline_delete(
    connection: &mut PgConnection,
    name: &str,
) -> Result<(), CatalogError> {
    by_name(
        connection,
        "-- pipeline_delete\nSELECT tide.relay_delete($1)",
        name,
    )
    .await
}

/// Gives a pipeline the number of shards that its configuration asks for; false while somebody
/// still works by the old layout.
pub async fn pipeline_reshard(
    connection: &mut PgConnection,
    group: &GroupName,
    pipeline: &PipelineName,
) -> Result<bool, CatalogError> {
    sqlx::query_scalar("-- pipeline_reshard\nSELECT tide.relay_reshard($1, $2)")
        .bind(group.as_str())
        .bind(pipeline.as_str())
        .fetch_one(connection)
        .await
        .doing("changing the number of shards")
}

async fn by_name(
    connection: &mut PgConnection,
    sql: &'static str,
    name: &str,
) -> Result<(), CatalogError> {
    sqlx::query(sql)
        .bind(name)
        .execute(connection)
        .await
        .map(drop)
        .doing("changing the pipeline")
}
