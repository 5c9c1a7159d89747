//! `tidectl explain` against real agents.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tide_sandbox::wait::eventually;
use tide_tests::{Fleet, FleetOptions, SOON, command::run};

async fn explained(fleet: &Fleet, words: &[&str]) -> Result<Value> {
    let url = fleet.url();
    let words = [&["explain", "-o", "json"], words].concat();
    let finished = run("tidectl", &words, &[("TIDE_POSTGRES_URL", &url)], SOON).await?;
    ensure!(finished.code == Some(0), "{finished:?}");
    Ok(serde_json::from_str(&finished.stdout)?)
}

fn code(explained: &Value, agent: &str) -> Value {
    let agents = explained["agents"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let found = agents.iter().find(|verdict| verdict["agent"] == agent);
    found.map_or(Value::Null, |verdict| verdict["code"].clone())
}

#[tokio::test]
async fn why_here_and_why_not_there_is_told_from_what_decides_it() -> Result<()> {
    // GIVEN three agents, one drained and one dead
    let mut fleet = Fleet::start(FleetOptions::agents(3)).await?;
    fleet.add_file_pipelines(3).await?;
    fleet.wait_until_balanced().await?;
    let url = fleet.url();
    let drain = [
        "drain", "relay-2", "--reason", "kernel", "--source", "database", "--actor", "ana",
    ];
    let drained = run("tidectl", &drain, &[("TIDE_POSTGRES_URL", &url)], SOON).await?;
    ensure!(drained.code == Some(0), "{drained:?}");
    fleet.crash("relay-3").await?;
    // THEN each says why it has a pipeline, or has it not
    let pipeline = fleet.owners().await?.into_keys().next();
    let pipeline = pipeline.unwrap_or_default();
    let seen = eventually(SOON, "relay-1 to own it", async || {
        let seen = explained(&fleet, &[&pipeline]).await?;
        if seen["owner"] == "relay-1" {
            Ok(Some(seen))
        } else {
            anyhow::bail!("{seen}")
        }
    })
    .await?;
    ensure!(
        seen["progress"] == "DONE" && seen["wanted"] == "relay-1",
        "{seen}"
    );
    ensure!(code(&seen, "relay-1") == "OWNER", "{seen}");
    ensure!(code(&seen, "relay-2") == "DRAINING", "{seen}");
    ensure!(code(&seen, "relay-3") == "LOST", "{seen}");
    ensure!(
        seen.to_string().contains("drained by ana: kernel"),
        "{seen}"
    );
    let agent = explained(&fleet, &["relay-2"]).await?;
    ensure!(
        agent["load"] == 0 && agent["coming"] == json!([]),
        "{agent}"
    );
    let agent = explained(&fleet, &["relay-1"]).await?;
    ensure!(
        agent["verdict"]["code"] == "ELIGIBLE" && agent["wanted_load"] == 3,
        "{agent}"
    );
    Ok(())
}
