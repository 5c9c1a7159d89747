//! What one change, one bad pipeline or one new agent does to all the others.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;
use tide_model::PipelineState;
use tide_sandbox::http::{Behaviour, Receiver};
use tide_tests::{SOON, proof};

use super::stage::{Stage, named};

/// Complaint 6. A drain moves what the agent has, and a changed configuration restarts its own
/// pipeline: nobody else's epoch changes, so nobody else was even interrupted.
#[tokio::test]
async fn c06_one_change_restarts_everything() -> Result<()> {
    // GIVEN three agents with two pipelines each, under load
    let mut stage = Stage::with_agents(3).await?;
    stage.fleet.add_file_pipelines(6).await?;
    stage.fleet.wait_until_balanced().await?;
    stage.fleet.publish().await?;
    let before = stage.fleet.owners().await?;
    // WHEN one pipeline is changed THEN it alone runs under a new epoch
    stage
        .fleet
        .reconfigure("file-1", json!({"batch_size": 7}))
        .await?;
    stage
        .fleet
        .wait_until("file-1 to run as it is configured now", |view| {
            view.pipelines.iter().any(|row| {
                row.name.as_str() == "file-1"
                    && row.state == Some(PipelineState::Running)
                    && row
                        .epoch
                        .is_some_and(|epoch| epoch.0 > before["file-1"].epoch)
            })
        })
        .await?;
    stage.fleet.publish_more(30).await?;
    let changed = stage.fleet.owners().await?;
    proof::unchanged(&before, &changed, &["file-1"])?;
    // WHEN one agent is drained THEN what it had is all that moves
    let moved = stage.fleet.owned_by("relay-2").await?;
    let moved: Vec<&str> = moved.iter().map(String::as_str).collect();
    stage.shows(&["drain", "relay-2"]).await?;
    stage.fleet.publish_more(30).await?;
    proof::unchanged(&changed, &stage.fleet.owners().await?, &moved)?;
    proof::exactly_once(&stage.fleet.settle_and_check().await?)
}

/// Complaint 7. A pipeline that fails and fails is tried again with growing delays by its owner, and
/// that is all: it changes hands with nobody, nothing is planned for it, and the others deliver.
#[tokio::test]
async fn c07_a_flapping_unit_stalls_the_cluster() -> Result<()> {
    // GIVEN two agents, and a pipeline whose receiver refuses every request
    let mut stage = Stage::with_agents(2).await?;
    let receiver = Arc::new(Receiver::start().await?);
    receiver.by_default("/flapping", Behaviour::Respond(503));
    let fleet = &mut stage.fleet;
    fleet
        .add_webhook_pipeline("flapping", "events_a", &receiver, json!({}))
        .await?;
    fleet.add_file_pipelines(3).await?;
    fleet.wait_until_balanced().await?;
    let before = fleet.owners().await?;
    fleet.publish().await?;
    // WHEN it has failed several times
    receiver
        .wait_until(SOON, "several tries", |requests| requests.len() >= 6)
        .await?;
    fleet.publish_more(50).await?;
    // THEN it says so, and nobody has moved for it
    let listed = stage
        .shows(&["pipeline", "list", "--filter", "state=retrying"])
        .await?;
    ensure!(listed.as_array().map(Vec::len) == Some(1), "{listed}");
    ensure!(named(&listed, "flapping")["reason"].is_string(), "{listed}");
    let owners = stage.fleet.owners().await?;
    proof::unchanged(&before, &owners, &[])?;
    let operations = stage.shows(&["operation", "list"]).await?;
    ensure!(operations == json!([]), "{operations}");
    // and it is asked less and less often: by and by the next try is worth telling
    stage
        .shows_soon(
            &["pipeline", "show", "flapping"],
            "longer delays",
            |shown| shown["retry_at"].is_string(),
        )
        .await?;
    // WHEN the receiver is back THEN everything is
    receiver.by_default("/flapping", Behaviour::Respond(200));
    proof::exactly_once(&stage.fleet.settle_and_check().await?)
}

/// Complaint 15. Nothing that moves is in the way of a command: configurations, pauses, holds and moves
/// of others are accepted while a drain is under way.
#[tokio::test]
async fn c15_commands_are_refused_during_a_rebalance() -> Result<()> {
    // GIVEN a drain that waits for a request, and will for as long as we like
    let (mut stage, receiver) = Stage::with_a_hanging_request(3).await?;
    stage.fleet.add_file_pipelines(4).await?;
    stage.fleet.wait_until_running().await?;
    let id = stage.begins(&["drain", "relay-1"]).await?;
    // WHEN others go about their business THEN none of them is told to come back later
    stage
        .fleet
        .reconfigure("file-1", json!({"batch_size": 7}))
        .await?;
    let home = stage.fleet.owners().await?["file-2"].agent.clone();
    let other = match home.as_str() {
        "relay-2" => "relay-3",
        _ => "relay-2",
    };
    for words in [
        &["pipeline", "pause", "file-3", "--reason", "look"][..],
        &["pipeline", "resume", "file-3"],
        &["cordon", "relay-3", "--reason", "disk"],
        &["uncordon", "relay-3"],
        &["move", "file-2", "--to", other],
        &["drain", "relay-1", "--detach"],
        &["rebalance", "plan"],
    ] {
        let ended = stage.says(words).await?;
        ensure!(matches!(ended.code, Some(0 | 3)), "{words:?}: {ended:?}");
    }
    let shown = stage.shows(&["operation", "show", &id]).await?;
    ensure!(shown["state"] == "running", "{shown}");
    receiver.release();
    stage.fleet.succeeded(id.parse()?).await?;
    proof::exactly_once(&stage.fleet.settle_and_check().await?)
}

/// Complaint 17. A new agent gets its share by itself, at once, and nothing more than that moves.
#[tokio::test]
async fn c17_a_new_node_stays_empty() -> Result<()> {
    // GIVEN two agents with three pipelines each
    let mut stage = Stage::with_agents(2).await?;
    stage.fleet.add_file_pipelines(6).await?;
    stage.fleet.wait_until_balanced().await?;
    stage.fleet.publish().await?;
    let before = stage.fleet.owners().await?;
    // WHEN a third one comes THEN it has two, and the others keep the rest
    stage.start_agent("relay-3").await?;
    stage.fleet.wait_until_balanced().await?;
    let taken = stage.fleet.owned_by("relay-3").await?;
    ensure!(taken.len() == 2, "{taken:?}");
    let taken: Vec<&str> = taken.iter().map(String::as_str).collect();
    proof::unchanged(&before, &stage.fleet.owners().await?, &taken)?;
    let shown = stage
        .shows_soon(&["agent", "list"], "it to be shown", |list| {
            named(list, "relay-3")["pipelines"] == 2
        })
        .await?;
    ensure!(named(&shown, "relay-3")["state"] == "ACTIVE", "{shown}");
    proof::exactly_once(&stage.fleet.settle_and_check().await?)
}
