//! A receiver that wants no more messages, for good.

use sqlx::PgConnection;
use tide_model::{Epoch, GroupName, UnitName};

use crate::{CatalogError, error::Doing};

/// Pauses the pipeline of a unit, in the name of its owner, until an operator resumes it; false
/// means fenced. What is paused already stays as it is.
pub async fn relay_gone(
    connection: &mut PgConnection,
    group: &GroupName,
    unit: &UnitName,
    epoch: Epoch,
    reason: &str,
) -> Result<bool, CatalogError> {
    sqlx::query_scalar("-- relay_gone\nSELECT tide.relay_gone($1, $2, $3, $4)")
        .bind(group.as_str())
        .bind(unit.as_str())
        .bind(epoch.0)
        .bind(reason)
        .fetch_one(connection)
        .await
        .doing("pausing a pipeline whose receiver is gone")
}
