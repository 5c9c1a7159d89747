//! Dump and restore into clusters whose transaction ids are lower or higher.

use std::{collections::BTreeSet, path::PathBuf, process::Stdio};

use anyhow::{Context as _, ensure};
use serde_json::json;
use sqlx::Connection as _;
use tide_catalog::{outboxes::outbox_create, pipelines::pipeline_set};
use tide_sandbox::{
    files::FileReader,
    history::{self, Cause, Disturbance, Reach, Stream},
    http::{Behaviour, Receiver, Request},
    leftovers::Scratch,
    postgres::{Postgres, PostgresOptions},
    process::{Process, ProcessSpec},
};
use time::OffsetDateTime;
use tokio::process::Command;

use super::*;

/// The program of the server's own version.
fn program(postgres: &Postgres, name: &str) -> Result<PathBuf> {
    let pid = postgres.pid().context("the server runs")?;
    let server = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    Ok(server.with_file_name(name))
}

async fn dump_and_restore(from: &Catalog, to: &Postgres) -> Result<String> {
    let roles = "CREATE ROLE tide_publisher; CREATE ROLE tide_relay; CREATE ROLE tide_admin;";
    let mut connection = PgConnection::connect(&to.url("postgres")).await?;
    execute(&mut connection, roles).await?;
    let url = to.create_database("app").await?;
    let dumped = Command::new(program(&from.postgres, "pg_dump")?)
        .arg(&from.url)
        .output()
        .await?;
    ensure!(dumped.status.success(), "{dumped:?}");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), dumped.stdout)?;
    let restored = Command::new(program(to, "psql")?)
        .args(["--quiet", "--set", "ON_ERROR_STOP=1", "--file"])
        .arg(file.path())
        .arg(&url)
        .stdin(Stdio::null())
        .output()
        .await?;
    ensure!(restored.status.success(), "{restored:?}");
    // Clusters of the sandbox are copies of one template and share its identifier; a dump from
    // anywhere else holds another one than the cluster that it is restored into.
    let foreign =
        "UPDATE tide.relay_consumer_offsets SET system_identifier = system_identifier - 1";
    execute(&mut PgConnection::connect(&url).await?, foreign).await?;
    Ok(url)
}

async fn start(url: &str, scratch: &Scratch) -> Result<Process> {
    let mut agent = Process::spawn(ProcessSpec {
        args: vec!["--metrics-addr".into(), "127.0.0.1:0".into()],
        env: vec![
            ("TIDE_POSTGRES_URL".into(), url.into()),
            ("TIDE_NAME".into(), "relay-1".into()),
        ],
        ..ProcessSpec::new(
            "relay-1",
            tide_sandbox::binaries::find("tide-agent")?,
            scratch,
        )
    })?;
    agent.wait_for_log("agent started", SOON).await?;
    Ok(agent)
}

async fn stop(agent: &mut Process) -> Result<()> {
    agent.terminate()?;
    let status = agent.wait(SOON).await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

async fn delivered(file: &FileReader, count: usize) -> Result<()> {
    eventually(SOON, format!("{count} deliveries"), async || {
        let seen = file.records()?.len();
        if seen >= count {
            return Ok(Some(()));
        }
        anyhow::bail!("{seen}")
    })
    .await?;
    Ok(())
}

/// Restores into a cluster whose transaction ids are lower or higher than those of the rows.
async fn restored(burnt_before: u32, burnt_after: u32) -> Result<()> {
    // GIVEN an agent that delivered some messages and stopped, while one transaction was open
    let catalog = Catalog::install().await?;
    let mut connection = catalog.connect().await?;
    burn(&mut connection, burnt_before).await?;
    let scratch = Scratch::create("restore").await?;
    let path = scratch.path().join("out.jsonl");
    outbox_create(&mut connection, OUTBOX, None).await?;
    let config = json!({"sink_type": "file", "path": path, "batch_size": 5});
    pipeline_set(&mut connection, "p", OUTBOX, &config).await?;
    let mut drafts = Drafts::default();
    let mut open = catalog.connect().await?;
    execute(&mut open, "BEGIN").await?;
    for _ in 0..12 {
        publish(&mut open, &drafts.draw(OUTBOX, "late")).await?;
    }
    for _ in 0..30 {
        publish(&mut connection, &drafts.draw(OUTBOX, "k")).await?;
    }
    let file = FileReader::new(&path);
    let mut agent = start(&catalog.url, &scratch).await?;
    delivered(&file, 30).await?;
    stop(&mut agent).await?;
    // WHEN it commits, more messages come, and the database is restored elsewhere
    execute(&mut open, "COMMIT").await?;
    for _ in 0..20 {
        publish(&mut connection, &drafts.draw(OUTBOX, "k")).await?;
    }
    let other = Postgres::start(PostgresOptions::default()).await?;
    let mut elsewhere = PgConnection::connect(&other.url("postgres")).await?;
    burn(&mut elsewhere, burnt_after).await?;
    let url = dump_and_restore(&catalog, &other).await?;
    let mut agent = start(&url, &scratch).await?;
    delivered(&file, 62).await?;
    // THEN what was not delivered is, what was is not again, and new messages flow, in the
    // order of their commits and late ones too
    let mut there = PgConnection::connect(&url).await?;
    let mut late = PgConnection::connect(&url).await?;
    execute(&mut late, "BEGIN").await?;
    publish(&mut late, &drafts.draw(OUTBOX, "late")).await?;
    for _ in 0..10 {
        publish(&mut there, &drafts.draw(OUTBOX, "k")).await?;
    }
    delivered(&file, 72).await?;
    execute(&mut late, "COMMIT").await?;
    delivered(&file, 73).await?;
    stop(&mut agent).await?;
    let stream = Stream::new("p", OUTBOX, file.records()?);
    let accounts = history::check(drafts.entries(), &[stream], &[]);
    ensure!(accounts.is_exactly_once(), "{accounts}");
    Ok(())
}

#[tokio::test]
async fn a_crash_while_going_on_after_a_restore_loses_nothing() -> Result<()> {
    // GIVEN a restored outbox with more unread late messages than fit into a page, and a
    // receiver that takes the first page and lets the second hang
    let catalog = Catalog::install().await?;
    let mut connection = catalog.connect().await?;
    burn(&mut connection, 3_000).await?;
    let scratch = Scratch::create("restore").await?;
    let receiver = Receiver::start().await?;
    outbox_create(&mut connection, OUTBOX, None).await?;
    let config = json!({"sink_type": "webhook", "url": receiver.url("/p"), "batch": true,
        "batch_size": 5, "timeout_ms": 200, "allow_networks": ["127.0.0.1"]});
    pipeline_set(&mut connection, "p", OUTBOX, &config).await?;
    let mut drafts = Drafts::default();
    let mut open = catalog.connect().await?;
    execute(&mut open, "BEGIN").await?;
    for _ in 0..12 {
        publish(&mut open, &drafts.draw(OUTBOX, "late")).await?;
    }
    publish(&mut connection, &drafts.draw(OUTBOX, "k")).await?;
    let mut agent = start(&catalog.url, &scratch).await?;
    receiver.wait_for_deliveries("/p", 1, SOON).await?;
    stop(&mut agent).await?;
    execute(&mut open, "COMMIT").await?;
    let other = Postgres::start(PostgresOptions::default()).await?;
    let url = dump_and_restore(&catalog, &other).await?;
    receiver.script("/p", [Behaviour::Respond(200)]);
    receiver.by_default("/p", Behaviour::Hang);
    let mut agent = start(&url, &scratch).await?;
    // Positions and states are stored in their order: with this one, the first page's would be.
    let mut there = PgConnection::connect(&url).await?;
    eventually(SOON, "the second page to be retried", async || {
        let retrying = "SELECT state = 'retrying' FROM tide.relay_consumer_offsets";
        let retrying: bool = sqlx::query_scalar(retrying).fetch_one(&mut there).await?;
        Ok::<_, sqlx::Error>(retrying.then_some(()))
    })
    .await?;
    // WHEN the agent is killed there, and another begins
    let crashed = OffsetDateTime::now_utc();
    agent.kill9()?;
    agent.wait(SOON).await?;
    receiver.by_default("/p", Behaviour::Respond(200));
    let mut agent = start(&url, &scratch).await?;
    publish(&mut there, &drafts.draw(OUTBOX, "k")).await?;
    let everything = |requests: &[Request]| {
        let accepted = requests.iter().filter(|request| request.is_accepted());
        let ids: BTreeSet<Uuid> = accepted
            .filter_map(|request| request.envelopes.as_ref().ok())
            .flatten()
            .map(|envelope| envelope.event_id)
            .collect();
        ids.len() == 14
    };
    receiver
        .wait_until(SOON, "everything to arrive", everything)
        .await?;
    // THEN nothing is lost, the first page may come again, and that is all
    stop(&mut agent).await?;
    let stream = Stream::new("p", OUTBOX, receiver.deliveries("/p"));
    let crash = Disturbance::new(Cause::Crash, Reach::All, crashed, OffsetDateTime::now_utc());
    let accounts = history::check(drafts.entries(), &[stream], &[crash]);
    ensure!(accounts.is_clean(), "{accounts}");
    let again = accounts.totals().duplicates_total();
    ensure!(
        again <= 13,
        "more than the late messages came again: {accounts}"
    );
    Ok(())
}

#[tokio::test]
async fn a_restore_into_a_younger_cluster_goes_on_exactly() -> Result<()> {
    restored(3_000, 0).await
}

#[tokio::test]
async fn a_restore_into_an_older_cluster_goes_on_exactly() -> Result<()> {
    restored(0, 3_000).await
}
