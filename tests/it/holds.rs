//! Holds on agents and pipelines: stacked, each with an owner, obeyed by the agents alone, also when
//! they end.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tide_model::PipelineState;
use tide_tests::{
    Fleet, FleetOptions, SOON,
    command::{Finished, run},
    fleet::owners,
    proof,
    replica::Replica,
};

/// Agents that never look around by themselves: what they do they were told, or have noted.
fn without_luck(agents: usize) -> FleetOptions {
    FleetOptions {
        discovery_interval: Duration::from_mins(30),
        ..FleetOptions::agents(agents)
    }
}

async fn says(fleet: &Fleet, words: &[&str]) -> Result<Finished> {
    let url = fleet.url();
    let environment = [("TIDE_POSTGRES_URL", url.as_str())];
    let words = [words, &["--source", "database"]].concat();
    run("tidectl", &words, &environment, SOON).await
}

async fn done(fleet: &Fleet, actor: &str, words: &[&str]) -> Result<Value> {
    let words = [words, &["--actor", actor, "-o", "json"]].concat();
    let ended = says(fleet, &words).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    Ok(serde_json::from_str(&ended.stdout)?)
}

async fn wait_for_owner(fleet: &Fleet, pipeline: &str, agent: &str) -> Result<()> {
    let what = format!("{pipeline} to run on {agent}");
    let owned = fleet.wait_until(&what, |view| {
        let owner = owners(view).remove(pipeline);
        owner.is_some_and(|owner| owner.agent == agent)
    });
    owned.await.map(drop)
}

#[tokio::test]
async fn a_cordoned_agent_keeps_what_it_has_until_the_cordon_ends_by_itself() -> Result<()> {
    // GIVEN two agents with two pipelines each, one of them cordoned, and no control plane
    let mut fleet = Fleet::start(without_luck(2)).await?;
    fleet.add_file_pipelines(4).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    let cordon = ["cordon", "relay-2", "--reason", "disk"];
    done(&fleet, "ana", &[&cordon[..], &["--for", "1h"]].concat()).await?;
    let before = fleet.owned_by("relay-2").await?;
    let shown = done(&fleet, "ana", &["agent", "show", "relay-2"]).await?;
    let holds = shown["holds"].to_string();
    ensure!(
        shown["state"] == "CORDONED" && holds.contains("cordon by ana until 20"),
        "{shown}"
    );
    // WHEN there are more THEN it keeps what it has, and takes none of them
    fleet.add_file_pipelines_from(5, 4).await?;
    fleet.wait_until_running().await?;
    ensure!(fleet.owned_by("relay-2").await? == before);
    ensure!(fleet.owned_by("relay-1").await?.len() == 6);
    // WHEN the cordon ends and nobody says so THEN the agents see it, and it gets its share
    done(&fleet, "ana", &[&cordon[..], &["--for", "1s"]].concat()).await?;
    fleet.wait_until_balanced().await?;
    ensure!(fleet.owned_by("relay-2").await?.len() == 4);
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_pinned_pipeline_leaves_its_agent_only_by_force_and_comes_back() -> Result<()> {
    // GIVEN a pipeline that is pinned to its owner
    let mut fleet = Fleet::start(without_luck(2)).await?;
    fleet.add_file_pipelines(4).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    let home = fleet.owners().await?["file-1"].agent.clone();
    let other = ["relay-1", "relay-2"].into_iter().find(|it| *it != home);
    let other = other.expect("there are two").to_owned();
    let pin = ["pipeline", "pin", "file-1", "--reason", "dongle"];
    let pinned = done(&fleet, "tom", &pin).await?;
    ensure!(
        pinned["to"] == home.as_str() && pinned["owner"] == "tom",
        "{pinned}"
    );
    // THEN nobody else may pin it elsewhere, move it, or drain its agent
    let elsewhere = [&pin[..], &["--to", &other, "--actor", "ana"]].concat();
    let refused = says(&fleet, &elsewhere).await?;
    refused.explains(6, &format!("is pinned to {home} by tom"), "--break")?;
    let moved = ["move", "file-1", "--to", &other, "--actor", "ana"];
    let refused = says(&fleet, &moved).await?;
    refused.explains(6, "is pinned", "hold remove")?;
    let drain = ["drain", &home];
    let refused = says(&fleet, &[&drain[..], &["--actor", "ana"]].concat()).await?;
    let words = format!("file-1 is pinned to {home} by tom: dongle");
    refused.explains(6, &words, "ask tom to: tidectl hold remove")?;
    let explained = done(&fleet, "ana", &["explain", "file-1"]).await?;
    ensure!(
        explained["because"] == "pinned by tom: dongle",
        "{explained}"
    );
    // WHEN the drain is forced THEN it leaves, and comes back when that is over
    done(&fleet, "ana", &[&drain[..], &["--force"]].concat()).await?;
    wait_for_owner(&fleet, "file-1", &other).await?;
    done(&fleet, "ana", &["undrain", &home]).await?;
    wait_for_owner(&fleet, "file-1", &home).await?;
    // and so it is with a crash
    fleet.crash(&home).await?;
    wait_for_owner(&fleet, "file-1", &other).await?;
    fleet.start_agent(&home).await?;
    wait_for_owner(&fleet, "file-1", &home).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_frozen_pipeline_stays_when_others_move() -> Result<()> {
    // GIVEN an agent with four pipelines, three of which are frozen
    let mut fleet = Fleet::start(without_luck(1)).await?;
    fleet.add_file_pipelines(4).await?;
    fleet.wait_until_running().await?;
    fleet.publish().await?;
    for name in ["file-1", "file-2", "file-3"] {
        let freeze = ["pipeline", "freeze", name, "--reason", "audit"];
        done(&fleet, "tom", &freeze).await?;
    }
    let before = fleet.owners().await?;
    // WHEN another joins THEN it gets the one that is not
    fleet.start_agent("relay-2").await?;
    wait_for_owner(&fleet, "file-4", "relay-2").await?;
    proof::unchanged(&before, &fleet.owners().await?, &["file-4"])?;
    // WHEN one of them may move again THEN that one evens out the load
    done(&fleet, "tom", &["pipeline", "unfreeze", "file-2"]).await?;
    wait_for_owner(&fleet, "file-2", "relay-2").await?;
    // WHEN their owner is gone THEN they run elsewhere: a hold stops no messages
    fleet.agent("relay-1").stop().await?;
    fleet.wait_until_running().await?;
    ensure!(fleet.owned_by("relay-2").await?.len() == 4);
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn whoever_takes_a_hold_away_takes_away_no_other_s() -> Result<()> {
    // GIVEN an agent that two people have cordoned, one of them through a control plane
    let mut fleet = Fleet::start(without_luck(2)).await?;
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_balanced().await?;
    let control_plane = Replica::start(&fleet, "control", SOON).await?;
    let through = [
        "--source",
        "control-plane",
        "--control-plane",
        &control_plane.url(),
    ]
    .map(ToOwned::to_owned);
    let remote = async |actor: &str, words: &[&str]| -> Result<Finished> {
        let more: Vec<&str> = through.iter().map(String::as_str).collect();
        let words = [words, &["--actor", actor, "-o", "json"], &more].concat();
        run("tidectl", &words, &[], SOON).await
    };
    let cordon = ["cordon", "relay-2", "--reason", "kernel"];
    ensure!(remote("ana", &cordon).await?.code == Some(0));
    done(&fleet, "tom", &["cordon", "relay-2", "--reason", "disk"]).await?;
    let listed: Value = serde_json::from_str(&remote("eve", &["hold", "list"]).await?.stdout)?;
    let owners: Vec<&Value> = listed
        .as_array()
        .into_iter()
        .flatten()
        .map(|hold| &hold["owner"])
        .collect();
    ensure!(owners == ["ana", "tom"], "{listed}");
    // WHEN somebody who has set none ends it THEN that is refused, by either way
    let uncordon = ["uncordon", "relay-2"];
    let refused = says(&fleet, &[&uncordon[..], &["--actor", "eve"]].concat()).await?;
    refused.explains(6, "the cordon of relay-2 belongs to tom: disk", "--break")?;
    let refused = remote("eve", &uncordon).await?;
    refused.explains(6, "the cordon of relay-2 belongs to tom: disk", "--break")?;
    // WHEN one of them ends his own THEN the other's is in force
    let ended = done(&fleet, "tom", &uncordon).await?;
    ensure!(
        ended["ended"] == 1 && ended["left"][0]["owner"] == "ana",
        "{ended}"
    );
    let state = done(&fleet, "tom", &["agent", "show", "relay-2"]).await?;
    ensure!(state["state"] == "CORDONED", "{state}");
    // WHEN it is broken THEN the agent works, and it is on record who did that to whom
    let id = ended["left"][0]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let without_breaking = ["hold", "remove", &id, "--reason", "she is on holiday"];
    let refused = remote("tom", &without_breaking).await?;
    refused.explains(6, "belongs to ana: kernel", "--break")?;
    let broken = remote("tom", &[&without_breaking[..], &["--break"]].concat()).await?;
    ensure!(broken.code == Some(0), "{broken:?}");
    let state = done(&fleet, "tom", &["agent", "show", "relay-2"]).await?;
    ensure!(
        state["state"] == "ACTIVE" && state["holds"] == json!([]),
        "{state}"
    );
    let events = done(&fleet, "tom", &["events", "--kind", "agent.uncordoned"]).await?;
    let told = events.to_string();
    ensure!(
        told.contains("she is on holiday") && told.contains("\"owner\":\"ana\""),
        "{events}"
    );
    Ok(())
}

#[tokio::test]
async fn a_pipeline_that_two_have_paused_goes_on_when_both_have_let_go() -> Result<()> {
    // GIVEN a pipeline that two people have paused, one of them for a while
    let mut fleet = Fleet::start(without_luck(1)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    fleet.wait_until_running().await?;
    fleet.publish().await?;
    let pause = ["pipeline", "pause", "file"];
    done(
        &fleet,
        "ana",
        &[&pause[..], &["--reason", "repair"]].concat(),
    )
    .await?;
    done(&fleet, "tom", &[&pause[..], &["--for", "1h"]].concat()).await?;
    fleet
        .wait_until("both to be named", |view| {
            let reason = view.pipelines[0].state_reason.as_deref();
            reason == Some("paused by ana: repair, and by tom")
        })
        .await?;
    // WHEN one lets go THEN it is paused
    let resumed = done(&fleet, "ana", &["pipeline", "resume", "file"]).await?;
    ensure!(resumed["changed"] == true, "{resumed}");
    fleet
        .wait_until("the other to be named", |view| {
            let row = &view.pipelines[0];
            row.state == Some(PipelineState::Paused)
                && row.state_reason.as_deref() == Some("paused by tom")
        })
        .await?;
    let resume = ["pipeline", "resume", "file", "--actor", "ana"];
    let refused = says(&fleet, &resume).await?;
    refused.explains(6, "the pause of file belongs to tom", "--break")?;
    // WHEN the other's time is over THEN it goes on, and nobody has to say so
    done(&fleet, "tom", &[&pause[..], &["--for", "1s"]].concat()).await?;
    fleet.wait_for_state("file", PipelineState::Running).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}
