//! The support archive: what every view says, and nothing that must not leave the house.

use std::{collections::BTreeMap, io::Read as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tide_tests::{Fleet, FleetOptions, SOON, command::run, fleet::Tap};

/// In a configuration, a message and a key: nowhere else.
const SECRET: &str = "Tr0ub4dor";

/// The files of an archive, by their names without the folder.
fn read(archive: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(GzDecoder::new(std::fs::File::open(archive)?)).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let (folder, name) = path.split_once('/').context("no folder")?;
        ensure!(folder.starts_with("tide-bundle-"), "{folder}");
        let name = name.to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        files.insert(name, text);
    }
    Ok(files)
}

async fn collect(url: &str, archive: &Path) -> Result<tide_tests::command::Finished> {
    let file = archive.display().to_string();
    let words = [
        "bundle", "collect", "--file", &file, "-o", "json", "--source", "database",
    ];
    run("tidectl", &words, &[("TIDE_POSTGRES_URL", url)], SOON).await
}

#[tokio::test]
async fn it_has_every_view_and_no_secret() -> Result<()> {
    // GIVEN a fleet with a password in a configuration, and messages that are nobody's business
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    let config = json!({
        "sink_type": "webhook", "url": "http://127.0.0.1:9/", "allow_networks": ["127.0.0.1"],
        "headers": {"X-Customer": SECRET},
    });
    fleet.add("hook", "events", config, Tap::Nothing).await?;
    fleet.wait_until_running().await?;
    sqlx::query("SELECT tide.outbox_publish('events', jsonb_build_object('card', $1), '{}', $1)")
        .bind(SECRET)
        .execute(fleet.pool())
        .await?;
    // WHEN everything is gathered
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("bundle.tar.gz");
    let url = fleet.url();
    let collected = collect(&url, &archive).await?;
    ensure!(collected.code == Some(0), "{collected:?}");
    // THEN each view is in it, as its command prints it
    let files = read(&archive)?;
    let index: Vec<Value> = serde_json::from_str(&files["index.json"])?;
    ensure!(
        serde_json::from_str::<Value>(&collected.stdout)?["parts"] == json!(index),
        "{collected:?}"
    );
    ensure!(index.len() >= 12, "{index:?}");
    for part in &index {
        let name = part["name"].as_str().context("a name")?;
        ensure!(part.get("error").is_none(), "{part}");
        let text = files
            .get(&format!("{name}.json"))
            .with_context(|| name.to_owned())?;
        serde_json::from_str::<Value>(text).with_context(|| format!("{name}: {text}"))?;
    }
    ensure!(
        files["status.json"].contains("relay-1"),
        "{}",
        files["status.json"]
    );
    // and nothing that must not leave the house
    for (name, text) in &files {
        ensure!(!text.contains(SECRET), "{name}: {text}");
    }
    // WHEN it is there already THEN it stays as it is
    let before = std::fs::read(&archive)?;
    let again = collect(&url, &archive).await?;
    ensure!(
        again.code == Some(7) && again.stderr.contains("exists already"),
        "{again:?}"
    );
    ensure!(std::fs::read(&archive)? == before);
    fleet.stop_agents().await
}

#[tokio::test]
async fn what_does_not_answer_is_part_of_the_answer() -> Result<()> {
    // GIVEN no database
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("bundle.tar.gz");
    // WHEN everything is gathered
    let collected = collect("postgres://nobody@127.0.0.1:1/none", &archive).await?;
    // THEN the archive says who did not answer, and why
    ensure!(collected.code == Some(0), "{collected:?}");
    let files = read(&archive)?;
    let index: Vec<Value> = serde_json::from_str(&files["index.json"])?;
    let status = index
        .iter()
        .find(|part| part["name"] == "status")
        .context("no status")?;
    let error = status["error"].as_str().context("no error")?;
    ensure!(
        error.contains("could not connect to PostgreSQL at 127.0.0.1:1"),
        "{error}"
    );
    ensure!(
        files["doctor.json"].contains("database.reachable"),
        "{files:?}"
    );
    Ok(())
}
