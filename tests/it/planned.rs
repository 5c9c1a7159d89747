//! Planned changes cost nothing: exactly once, and no control plane anywhere in sight.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use tide_model::operation::OperationState;
use tide_sandbox::http::{Behaviour, Outcome, Receiver, Request};
use tide_tests::{Fleet, FleetOptions, SOON, by_hand::publish, fleet::owners, proof};

/// Agents with two pipelines each, under load.
async fn under_load(agents: usize) -> Result<Fleet> {
    let mut fleet = Fleet::start(FleetOptions::agents(agents)).await?;
    fleet.add_file_pipelines(agents * 2).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    fleet.publish_more(100).await?;
    Ok(fleet)
}

/// One agent with a request on the wire that its receiver does not answer.
async fn with_a_hanging_request(options: FleetOptions) -> Result<(Fleet, Arc<Receiver>)> {
    let mut fleet = Fleet::start(FleetOptions {
        agents: 1,
        ..options
    })
    .await?;
    let receiver = Arc::new(Receiver::start().await?);
    receiver.script("/hook", [Behaviour::Hang]);
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({}))
        .await?;
    fleet.wait_until_running().await?;
    let mut connection = fleet.connection().await?;
    for _ in 0..3 {
        publish(&mut connection, &fleet.drafts.draw("events", "k")).await?;
    }
    receiver
        .wait_until(SOON, "a request to hang", hangs)
        .await?;
    Ok((fleet, receiver))
}

fn hangs(requests: &[Request]) -> bool {
    requests
        .iter()
        .any(|request| request.outcome == Outcome::Pending)
}

#[tokio::test]
async fn a_terminated_owner_hands_over_and_nothing_comes_twice() -> Result<()> {
    // GIVEN agents under load
    let mut fleet = under_load(3).await?;
    let before = fleet.owners().await?;
    let moved = fleet.owned_by("relay-2").await?;
    // WHEN one is asked to stop
    fleet.agent("relay-2").stop().await?;
    // THEN the others have what it had within moments, and what they had is untouched
    fleet.wait_until_balanced().await?;
    let moved: Vec<&str> = moved.iter().map(String::as_str).collect();
    proof::unchanged(&before, &fleet.owners().await?, &moved)?;
    fleet.publish_more(100).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn every_step_of_a_graceful_shutdown_can_be_seen() -> Result<()> {
    // GIVEN an owner with a batch on the wire
    let (mut fleet, receiver) = with_a_hanging_request(FleetOptions::default()).await?;
    let backend = fleet.lock_backend("relay-1").await?.expect("it is alive");
    // WHEN it is told to stop
    fleet.agent("relay-1").terminate()?;
    // THEN 1, 2: the signal is received and workers are told
    fleet.agent("relay-1").log("signal=\"SIGTERM\"").await?;
    fleet.agent("relay-1").log("shutting down").await?;
    // 3a: the batch on the wire is waited for, under the lock, with metrics still served and the
    // agent no longer ready
    let ready = fleet.agent("relay-1").get("/readyz").await?;
    ensure!(
        ready.status == 503 && ready.body.contains("shutting down"),
        "{ready:?}"
    );
    ensure!(fleet.agent("relay-1").get("/metrics").await?.status == 200);
    ensure!(fleet.agent("relay-1").get("/livez").await?.status == 200);
    ensure!(fleet.locks_of(backend).await? == 1, "the lock is held");
    receiver.release();
    // 3b, 3c, 4: it is acknowledged, the worker exits and is waited for; 5: locks are released
    fleet.agent("relay-1").log("released").await?;
    let status = fleet.agent("relay-1").ended().await?;
    let row = fleet.row("hook").await?;
    ensure!(row.owner.is_none() && row.last_change_id >= 1, "{row:?}");
    // 6: metrics are no longer served; 7 has nothing to flush here; 8: exit code 0
    ensure!(fleet.agent("relay-1").get("/metrics").await.is_err());
    ensure!(status.code() == Some(0), "{status}");
    // What was not delivered is, by the next agent, and only that.
    fleet.start_agent("relay-2").await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_with_code_3() -> Result<()> {
    // GIVEN an owner that waits for its sink in order to stop
    let (mut fleet, receiver) = with_a_hanging_request(FleetOptions::default()).await?;
    fleet.agent("relay-1").terminate()?;
    fleet.agent("relay-1").log("shutting down").await?;
    // WHEN it is told again
    fleet.agent("relay-1").terminate()?;
    // THEN it ends, and another delivers what it left
    let status = fleet.agent("relay-1").ended().await?;
    ensure!(status.code() == Some(3), "{status}");
    receiver
        .wait_until(SOON, "the request to be abandoned", |requests| {
            !hangs(requests)
        })
        .await?;
    fleet.start_agent("relay-2").await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn the_shutdown_timeout_ends_it_with_code_3() -> Result<()> {
    // GIVEN an owner that may take a second to stop, and whose sink does not answer
    let options = FleetOptions {
        shutdown_timeout: Duration::from_secs(1),
        ..FleetOptions::default()
    };
    let (mut fleet, receiver) = with_a_hanging_request(options).await?;
    // WHEN it is told to stop
    fleet.agent("relay-1").terminate()?;
    // THEN it gives up, and another delivers what it left
    let status = fleet.agent("relay-1").ended().await?;
    ensure!(status.code() == Some(3), "{status}");
    receiver
        .wait_until(SOON, "the request to be abandoned", |requests| {
            !hangs(requests)
        })
        .await?;
    fleet.start_agent("relay-2").await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn sigint_is_as_graceful_as_sigterm() -> Result<()> {
    // GIVEN agents under load
    let mut fleet = under_load(2).await?;
    // WHEN one is interrupted as from a terminal
    let interrupt = std::process::Command::new("kill")
        .args(["-INT", &fleet.agent("relay-1").process.pid().to_string()])
        .status()?;
    ensure!(interrupt.success());
    // THEN it stops in good order
    let status = fleet.agent("relay-1").ended().await?;
    ensure!(status.code() == Some(0), "{status}");
    fleet.wait_until_balanced().await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_joining_agent_gets_its_share_and_nothing_comes_twice() -> Result<()> {
    // GIVEN two agents with everything, under load
    let mut fleet = under_load(2).await?;
    fleet.add_file_pipelines_from(5, 2).await?;
    fleet.wait_until_balanced().await?;
    let before = fleet.owners().await?;
    // WHEN a third joins
    fleet.start_agent("relay-3").await?;
    // THEN it has a third of the pipelines, and no more than these have moved
    fleet.wait_until_balanced().await?;
    let owned = fleet.owned_by("relay-3").await?;
    ensure!(owned.len() == 2, "{owned:?}");
    let moved: Vec<&str> = owned.iter().map(String::as_str).collect();
    proof::unchanged(&before, &fleet.owners().await?, &moved)?;
    fleet.publish_more(100).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_rolling_restart_is_exactly_once() -> Result<()> {
    // GIVEN agents under load
    let mut fleet = under_load(3).await?;
    // WHEN each is stopped and started in turn
    for name in fleet.agent_names() {
        fleet.agent(&name).stop().await?;
        fleet.start_agent(&name).await?;
        fleet.wait_until_balanced().await?;
    }
    // THEN
    fleet.publish_more(50).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_drained_agent_holds_nothing_and_stays_empty_until_undrained() -> Result<()> {
    // GIVEN agents under load
    let mut fleet = under_load(2).await?;
    let backend = fleet.lock_backend("relay-1").await?.expect("it is alive");
    // WHEN one is drained
    let drain = fleet.drain("relay-1").await?;
    let done = fleet.succeeded(drain).await?;
    // THEN the verdict is a fact: pg_locks shows nothing, and the other agent runs everything
    ensure!(fleet.locks_of(backend).await? == 0);
    ensure!(done.is_safe_to_stop(), "{done:?}");
    ensure!(
        done.outcome
            .as_deref()
            .unwrap_or_default()
            .contains("safe to stop"),
        "{done:?}"
    );
    fleet
        .wait_until("relay-2 to run everything", |view| {
            let owners = owners(view);
            owners.len() == 4 && owners.values().all(|owner| owner.agent == "relay-2")
        })
        .await?;
    // It takes nothing even when it would be the only one.
    fleet.agent("relay-2").stop().await?;
    fleet.publish_more(50).await?;
    ensure!(
        fleet.owners().await?.is_empty(),
        "a drained agent took something"
    );
    fleet.start_agent("relay-2").await?;
    fleet.wait_until_running().await?;
    ensure!(fleet.owned_by("relay-1").await?.is_empty());
    // WHEN it is undrained THEN it gets its share back
    fleet.undrain("relay-1").await?;
    fleet.wait_until_balanced().await?;
    ensure!(fleet.owned_by("relay-1").await?.len() == 2);
    fleet.publish_more(50).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_drain_is_not_done_while_a_batch_is_on_the_wire() -> Result<()> {
    // GIVEN an owner with a request on the wire, and another agent
    let (mut fleet, receiver) = with_a_hanging_request(FleetOptions::default()).await?;
    fleet.start_agent("relay-2").await?;
    let backend = fleet.lock_backend("relay-1").await?.expect("it is alive");
    // WHEN it is drained
    let drain = fleet.drain("relay-1").await?;
    fleet
        .wait_for_sql(
            "the agent to have seen the drain",
            "SELECT acknowledged_generation > 0 FROM tide.agents WHERE name = 'relay-1'",
        )
        .await?;
    // THEN it is not done until the sink has answered
    ensure!(fleet.settle(drain).await?.state == OperationState::Running);
    ensure!(
        fleet.drain("relay-1").await? == drain,
        "asking again starts nothing new"
    );
    ensure!(fleet.locks_of(backend).await? == 1);
    receiver.release();
    fleet.succeeded(drain).await?;
    ensure!(fleet.locks_of(backend).await? == 0);
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_drain_outlives_the_agent_that_is_drained() -> Result<()> {
    // GIVEN a drained agent
    let mut fleet = under_load(2).await?;
    let drain = fleet.drain("relay-1").await?;
    fleet.succeeded(drain).await?;
    // WHEN it is restarted
    fleet.agent("relay-1").stop().await?;
    fleet.start_agent("relay-1").await?;
    fleet.publish_more(50).await?;
    // THEN it still takes nothing
    ensure!(fleet.owned_by("relay-1").await?.is_empty());
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_moved_pipeline_goes_where_it_is_sent() -> Result<()> {
    // GIVEN agents under load
    let mut fleet = under_load(3).await?;
    let before = fleet.owners().await?;
    let from = before["file-1"].agent.clone();
    let to = ["relay-1", "relay-2", "relay-3"]
        .into_iter()
        .find(|name| *name != from)
        .expect("there are others");
    // WHEN one pipeline is moved
    let operation = fleet.move_to(&[("file-1", to)]).await?;
    fleet.succeeded(operation).await?;
    // THEN it runs there
    fleet.wait_until_running().await?;
    ensure!(fleet.owners().await?["file-1"].agent == to);
    fleet.publish_more(100).await?;
    ensure!(
        fleet.owners().await?["file-1"].agent == to,
        "it did not stay"
    );
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_pipeline_placed_on_a_dead_agent_runs_elsewhere() -> Result<()> {
    // GIVEN a pipeline that was moved to an agent
    let mut fleet = under_load(2).await?;
    fleet
        .succeeded(fleet.move_to(&[("file-1", "relay-2")]).await?)
        .await?;
    // WHEN that agent stops
    fleet.agent("relay-2").stop().await?;
    // THEN the preference forbids nothing
    fleet.wait_until_running().await?;
    ensure!(fleet.owners().await?["file-1"].agent == "relay-1");
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_standby_of_weight_zero_takes_over_only_when_nobody_else_is_left() -> Result<()> {
    // GIVEN an agent with everything and a standby
    let mut fleet = under_load(1).await?;
    let standby = fleet.spec("standby").with("--weight", "0");
    fleet.start_as(standby).await?;
    fleet.publish_more(50).await?;
    ensure!(fleet.owned_by("standby").await?.is_empty());
    // WHEN the other stops THEN the standby has everything
    fleet.agent("relay-1").stop().await?;
    fleet.wait_until_running().await?;
    ensure!(fleet.owned_by("standby").await?.len() == 2);
    proof::exactly_once(&fleet.settle_and_check().await?)
}
