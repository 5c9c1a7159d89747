//! A catalog of one's own, for tests below the agents.

use anyhow::{Context as _, Result};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tide_catalog::{outboxes::outbox_create, pipelines::pipeline_set, schema};
use tide_sandbox::postgres::{Postgres, PostgresOptions};

/// A server with an installed catalog.
#[derive(Debug)]
pub struct Catalog {
    /// The server.
    pub postgres: Postgres,
    /// The database with the catalog, as the superuser.
    pub url: String,
}

impl Catalog {
    /// Starts a server and installs the catalog.
    pub async fn install() -> Result<Self> {
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        let url = postgres.create_database("app").await?;
        let catalog = Self { postgres, url };
        schema::migrate(&mut catalog.connect().await?).await?;
        Ok(catalog)
    }

    /// Also creates an outbox and a pipeline that discards it.
    pub async fn with_pipeline(outbox: &str, pipeline: &str) -> Result<Self> {
        let catalog = Self::install().await?;
        let mut connection = catalog.connect().await?;
        outbox_create(&mut connection, outbox, None).await?;
        let config = serde_json::json!({"sink_type": "null"});
        pipeline_set(&mut connection, pipeline, outbox, &config).await?;
        Ok(catalog)
    }

    /// A session of the superuser.
    pub async fn connect(&self) -> Result<PgConnection> {
        PgConnection::connect(&self.url)
            .await
            .context("connecting to the catalog")
    }
}

/// Runs statements that return nothing.
pub async fn execute(connection: &mut PgConnection, sql: impl Into<String>) -> Result<()> {
    let sql = sql.into();
    sqlx::raw_sql(AssertSqlSafe(sql.clone()))
        .execute(connection)
        .await
        .with_context(|| sql)?;
    Ok(())
}
