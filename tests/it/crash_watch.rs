//! Waiting for an agent's name lock leaves nothing behind.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sqlx::{AssertSqlSafe, PgConnection};
use tide_catalog::{
    agents::{WATCH_SLICE, agent_gone},
    connection::Server,
    lock_session::LockSession,
};
use tide_model::{AgentName, GroupName};
use tide_sandbox::wait::eventually;
use tide_tests::{SOON, catalog::Catalog};
use tokio::process::Command;

/// Signals a process of the server, which belongs to another user than the test may.
async fn signal(name: &str, backend: i32) -> Result<()> {
    let status = Command::new("kill")
        .args([name, &backend.to_string()])
        .status()
        .await?;
    ensure!(status.success(), "kill {name} {backend}: {status}");
    Ok(())
}

async fn backend(connection: &mut PgConnection) -> Result<i32> {
    let backend = sqlx::query_scalar("SELECT pg_backend_pid()");
    Ok(backend.fetch_one(connection).await?)
}

/// Waits until a query about a backend says true.
async fn until(observer: &mut PgConnection, what: &str, sql: &str, backend: i32) -> Result<()> {
    let said = eventually(SOON, what, async || {
        let holds: bool = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .bind(backend)
            .fetch_one(&mut *observer)
            .await?;
        anyhow::Ok(holds.then_some(()))
    });
    Ok(said.await?)
}

#[tokio::test]
async fn a_watch_that_ends_in_the_moment_its_agent_goes_keeps_no_lock() -> Result<()> {
    // GIVEN an agent that holds its name, and a neighbour that waits for it
    let catalog = Catalog::install().await?;
    let group: GroupName = "default".parse()?;
    let agent: AgentName = "relay-1".parse()?;
    let server = Server::parse(&catalog.url, "test")?;
    let mut session = LockSession::open(&server, &group, Duration::from_mins(5)).await?;
    ensure!(session.lock_name(&agent).await?, "the name is free");
    let mut neighbour = catalog.connect().await?;
    let backend = backend(&mut neighbour).await?;
    let name = agent.clone();
    let mut watch = tokio::task::JoinSet::new();
    watch.spawn(async move {
        let gone = agent_gone(&mut neighbour, &"default".parse()?, &name).await?;
        anyhow::Ok((gone, neighbour))
    });
    let mut observer = catalog.connect().await?;
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)";
    until(&mut observer, "the neighbour to wait", waits, backend).await?;
    // WHEN its wait ends while nobody runs it, and so does the agent
    signal("-STOP", backend).await?;
    let over = format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND clock_timestamp() - waitstart > interval '{} ms')",
        WATCH_SLICE.as_millis() + 100
    );
    until(&mut observer, "the slice to be over", &over, backend).await?;
    session.close().await;
    let granted =
        "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND granted AND locktype = 'advisory')";
    until(&mut observer, "the lock to be granted", granted, backend).await?;
    signal("-CONT", backend).await?;
    let ended = watch.join_next().await.context("the watch is under way")?;
    let (_, mut neighbour) = ended??;
    // THEN the neighbour holds nothing, and the agent can come back
    let held: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
    )
    .fetch_one(&mut neighbour)
    .await?;
    ensure!(held == 0, "it still holds {held}");
    let mut session = LockSession::open(&server, &group, Duration::from_mins(5)).await?;
    ensure!(session.lock_name(&agent).await?, "the name is free again");
    Ok(())
}
