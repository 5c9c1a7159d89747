//! The tour of `tidectl dev`: agents are drained, killed, frozen and restarted, and no message is
//! lost, reordered, or delivered twice without a cause. There is no control plane.

use std::{env, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tide_sandbox::{binaries, postgres};
use tide_tests::command;

/// Three times what it takes while other tests run.
const PATIENCE: Duration = Duration::from_secs(200);

#[tokio::test]
async fn a_tour_without_a_control_plane_settles_its_accounts() -> Result<()> {
    // WHEN the tour is played
    let arguments = [
        "dev",
        "--scenario",
        "tour",
        "--without-control-plane",
        "-o",
        "json",
    ];
    // It starts programs of this workspace and PostgreSQL, wherever they are.
    let places = [binaries::BIN_DIR, postgres::BIN_DIR];
    let places: Vec<(&str, String)> = places
        .into_iter()
        .filter_map(|name| Some((name, env::var(name).ok()?)))
        .collect();
    let environment: Vec<(&str, &str)> = places
        .iter()
        .map(|(name, place)| (*name, place.as_str()))
        .collect();
    let finished = command::run("tidectl", &arguments, &environment, PATIENCE).await?;

    // THEN it ends well, and standard output holds the accounts and nothing else
    ensure!(finished.code == Some(0), "{finished:#?}");
    let accounts: Value = serde_json::from_str(&finished.stdout).context(finished.stderr)?;
    for what in ["lost", "reordered", "phantom", "altered", "unexplained"] {
        ensure!(accounts[what] == 0, "{what}: {accounts:#}");
    }
    ensure!(
        accounts["clean"] == true && accounts["offences"] == json!([]),
        "{accounts:#}"
    );

    // AND they are about something
    ensure!(
        accounts["delivered"] == accounts["expected"],
        "{accounts:#}"
    );
    ensure!(accounts["published"].as_u64() > Some(1_000), "{accounts:#}");
    for gaps in ["crash_to_next_delivery", "freeze_to_next_delivery"] {
        let pipelines = accounts[gaps]["pipelines_ms"].as_object();
        ensure!(
            pipelines.is_some_and(|pipelines| !pipelines.is_empty()),
            "{gaps}: {accounts:#}"
        );
    }
    Ok(())
}
