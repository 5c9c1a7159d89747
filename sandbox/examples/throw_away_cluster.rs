//! Starts a PostgreSQL cluster, tells its URL and keeps it until Ctrl-C.
//!
//! Killed with `kill -9` it leaves a server behind; whatever uses the sandbox next removes it.

use std::io::Write as _;

use tide_sandbox::postgres::{Postgres, PostgresOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let (url, directory) = (postgres.url("postgres"), postgres.socket_dir().display());
    writeln!(std::io::stdout(), "{url} in {directory}")?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
