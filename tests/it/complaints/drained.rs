//! What is said of a drain, and what becomes of it when somebody dies or changes their mind.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tide_model::operation::OperationState;
use tide_sandbox::wait::eventually;
use tide_tests::{SOON, proof, replica::Replica};

use super::stage::{LONG, Stage, document};

/// Complaint 1. Done is said only when the agent has nothing any more and `pg_locks` agrees: while a
/// message is on the wire nobody hears that the agent is safe to stop.
#[tokio::test]
async fn c01_done_is_announced_before_it_is_true() -> Result<()> {
    // GIVEN an agent with a request on the wire, and one that could take over
    let (mut stage, receiver) = Stage::with_a_hanging_request(2).await?;
    let backend = stage.fleet.lock_backend("relay-1").await?;
    let backend = backend.context("it is alive")?;
    // WHEN it is drained
    let id = stage.begins(&["drain", "relay-1"]).await?;
    stage
        .fleet
        .wait_for_sql("the agent to have seen it", SEEN)
        .await?;
    // THEN it is not safe to stop for anybody who asks, as it holds a lock
    ensure!(stage.fleet.locks_of(backend).await? == 1);
    let shown = stage.shows(&["operation", "show", &id]).await?;
    ensure!(shown["state"] == "running", "{shown}");
    let wait = ["wait", "agent/relay-1", "--for", "drained"];
    let waited = stage
        .says(&[&wait[..], &["--wait", "100ms"]].concat())
        .await?;
    ensure!(waited.code == Some(5), "{waited:?}");
    // WHEN the request is answered THEN it is, and there is no lock left
    receiver.release();
    let waited = stage.says(&wait).await?;
    ensure!(waited.code == Some(0), "{waited:?}");
    ensure!(stage.fleet.locks_of(backend).await? == 0);
    let shown = stage.shows(&["operation", "show", &id]).await?;
    ensure!(shown["state"] == "succeeded", "{shown}");
    proof::exactly_once(&stage.fleet.settle_and_check().await?)
}

/// Complaint 4. A drain is two rows in PostgreSQL, which agents obey by themselves: it goes on without
/// the control plane that took it, and the next one shows how it ended.
#[tokio::test]
async fn c04_a_restart_of_the_controller_loses_the_operation() -> Result<()> {
    // GIVEN a drain that waits for a request
    let (mut stage, receiver) = Stage::with_a_hanging_request(2).await?;
    let id = stage.begins(&["drain", "relay-1"]).await?;
    stage
        .fleet
        .wait_for_sql("the agent to have seen it", SEEN)
        .await?;
    // WHEN the control plane dies THEN it goes on
    stage.control.process.kill9()?;
    receiver.release();
    let ended = stage.fleet.succeeded(id.parse()?).await?;
    ensure!(ended.state == OperationState::Succeeded, "{ended:?}");
    // WHEN another one is started THEN that knows of it
    stage.control = Replica::start(&stage.fleet, "control-2", LONG).await?;
    let known = eventually(SOON, "the new one to know it", async || {
        let known = stage.shows(&["operation", "show", &id]).await?;
        Ok::<_, anyhow::Error>(Some(known))
    });
    let known = known.await?;
    ensure!(
        known["state"] == "succeeded" && known["actor"] == "ana",
        "{known}"
    );
    proof::exactly_once(&stage.fleet.settle_and_check().await?)
}

/// Complaint 5. A planned restart waits for no failure detection: the others take over as soon as they
/// are told, and what the agent had comes back by itself when it is started again.
#[tokio::test]
async fn c05_a_planned_restart_costs_minutes() -> Result<()> {
    // GIVEN agents under load, whose death would be noticed after five minutes only
    let mut stage = Stage::with_agents(2).await?;
    stage.fleet.add_file_pipelines(4).await?;
    stage.fleet.wait_until_balanced().await?;
    stage.fleet.publish().await?;
    // WHEN one is drained for a restart THEN the other one takes everything over as it is told to
    let drain = [
        "drain", "relay-1", "--mode", "restart", "--reason", "kernel",
    ];
    let drained = stage.shows(&drain).await?;
    ensure!(drained["safe_to_stop"] == true, "{drained}");
    stage.fleet.wait_until_running().await?;
    ensure!(stage.fleet.owned_by("relay-2").await?.len() == 4);
    stage.fleet.publish_more(50).await?;
    // WHEN it is started again THEN its share returns, and nobody has to undrain it
    stage.fleet.agent("relay-1").stop().await?;
    stage.start_agent("relay-1").await?;
    stage.fleet.wait_until_balanced().await?;
    proof::exactly_once(&stage.fleet.settle_and_check().await?)
}

/// Complaint 14. Whoever cancels is told what is so at once, and the next command finds nothing of the
/// cancelled one in its way.
#[tokio::test]
async fn c14_a_stop_does_not_wait_and_races_with_the_next_start() -> Result<()> {
    // GIVEN a drain that waits for a request
    let (mut stage, receiver) = Stage::with_a_hanging_request(2).await?;
    let first = stage.begins(&["drain", "relay-1"]).await?;
    stage
        .fleet
        .wait_for_sql("the agent to have seen it", SEEN)
        .await?;
    // WHEN it is given up, and asked for again in the same breath
    let cancelled = stage
        .says(&["operation", "cancel", &first, "-o", "json"])
        .await?;
    ensure!(
        document(&cancelled)?["state"] == "cancelled",
        "{cancelled:?}"
    );
    let second = stage.begins(&["drain", "relay-1"]).await?;
    // THEN it is another operation, the first one stays cancelled, and there is one owner throughout
    ensure!(first != second, "a cancelled operation was joined");
    receiver.release();
    stage.fleet.succeeded(second.parse()?).await?;
    let shown = stage.shows(&["operation", "show", &first]).await?;
    ensure!(shown["state"] == "cancelled", "{shown}");
    ensure!(stage.fleet.owned_by("relay-2").await?.len() == 1);
    proof::exactly_once(&stage.fleet.settle_and_check().await?)
}

/// Complaint 16. Every command is recorded with who gave it and what for, and neither the end of the
/// drain nor that of its hold takes that away.
#[tokio::test]
async fn c16_nobody_knows_who_drained_it_and_why() -> Result<()> {
    // GIVEN a drain that is over and taken back
    let mut stage = Stage::with_agents(2).await?;
    stage.fleet.add_file_pipelines(2).await?;
    stage.fleet.wait_until_balanced().await?;
    let who = ["--actor", "tom"];
    let drain = ["drain", "relay-1", "--reason", "kernel 6.9"];
    stage.shows(&[&drain[..], &who].concat()).await?;
    stage
        .shows(&[&["undrain", "relay-1"][..], &who].concat())
        .await?;
    stage.fleet.wait_until_balanced().await?;
    // THEN the agent and the events still say so
    let shown = stage.shows(&["agent", "show", "relay-1"]).await?;
    let last = &shown["last_drain"];
    ensure!(
        last["owner"] == "tom" && last["reason"] == "kernel 6.9",
        "{shown}"
    );
    let events = stage
        .shows(&["events", "--kind", "drain.started", "--subject", "relay-1"])
        .await?;
    let event = &events[0];
    ensure!(
        event["actor"] == "tom" && event["reason"] == "kernel 6.9",
        "{events}"
    );
    let listed = stage.shows(&["operation", "list"]).await?;
    let by_tom = |row: &Value| row["actor"] == "tom";
    ensure!(
        listed
            .as_array()
            .is_some_and(|rows| rows.iter().all(by_tom)),
        "{listed}"
    );
    Ok(())
}

/// The agent to be drained has acknowledged that it is.
const SEEN: &str = "SELECT EXISTS (
    SELECT FROM tide.agents a JOIN tide.operations o ON o.target = a.name AND o.kind = 'drain'
    WHERE a.name = 'relay-1' AND a.acknowledged_generation >= o.generation AND o.state = 'running')";
