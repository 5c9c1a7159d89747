//! Installs, upgrades and verifies schema `tide`. `tidectl migrate` runs the migrations; daemons
//! only verify, and refuse a version that they do not know.

use std::sync::LazyLock;

use sqlx::{PgConnection, migrate::Migrator};

use crate::{CatalogError, error::Doing};

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!();
    migrator.dangerous_set_table_name("tide.schema_migrations");
    migrator.create_schema("tide");
    migrator
});

/// One migration, applied or to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its version; versions rise.
    pub version: i64,
    /// Its name.
    pub name: String,
}

/// The version that this binary needs.
pub fn version() -> i64 {
    MIGRATOR
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

/// The migrations that the database lacks, in order.
pub async fn pending(connection: &mut PgConnection) -> Result<Vec<Migration>, CatalogError> {
    let found = found(connection).await?;
    if let Some(found) = found.filter(|found| *found > version()) {
        return Err(CatalogError::Newer {
            found,
            known: version(),
        });
    }
    Ok(MIGRATOR
        .iter()
        .filter(|migration| migration.version > found.unwrap_or(0))
        .map(|migration| Migration {
            version: migration.version,
            name: migration.description.to_string(),
        })
        .collect())
}

/// Applies what is pending and returns it. Safe to run from several places at once.
pub async fn migrate(connection: &mut PgConnection) -> Result<Vec<Migration>, CatalogError> {
    let applied = pending(connection).await?;
    MIGRATOR
        .run(&mut *connection)
        .await
        .map_err(CatalogError::Migrate)?;
    Ok(applied)
}

/// Fails unless the catalog is exactly of the version that this binary needs.
pub async fn verify(connection: &mut PgConnection) -> Result<(), CatalogError> {
    let needed = version();
    match found(connection).await? {
        None => Err(CatalogError::Missing),
        Some(found) if found < needed => Err(CatalogError::Older { found, needed }),
        Some(found) if found > needed => Err(CatalogError::Newer {
            found,
            known: needed,
        }),
        Some(_) => Ok(()),
    }
}

/// The version in the database; none if there is no catalog.
async fn found(connection: &mut PgConnection) -> Result<Option<i64>, CatalogError> {
    let exists: bool = sqlx::query_scalar(
        "-- schema_found\nSELECT to_regclass('tide.schema_migrations') IS NOT NULL",
    )
    .fetch_one(&mut *connection)
    .await
    .doing("looking for the catalog")?;
    if !exists {
        return Ok(None);
    }
    sqlx::query_scalar(
        "-- schema_version\nSELECT max(version) FROM tide.schema_migrations WHERE success",
    )
    .fetch_one(connection)
    .await
    .doing("reading the catalog's version")
}
