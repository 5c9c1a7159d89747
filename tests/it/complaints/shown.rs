//! What is shown, by whom, and how that is known.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tide_sandbox::wait::eventually;
use tide_tests::SOON;

use super::stage::{Stage, document, named};

/// Complaint 19. There is one view, of which every command shows a part and cites the revision: what
/// cites the same one agrees.
#[tokio::test]
async fn c19_two_commands_disagree() -> Result<()> {
    // GIVEN a fleet, which is looked at again and again
    let mut stage = Stage::with_agents(2).await?;
    stage.fleet.add_file_pipelines(4).await?;
    stage.fleet.wait_until_balanced().await?;
    // WHEN three commands have caught the same revision
    let caught = eventually(SOON, "answers of one revision", async || {
        let agents = stage.says(&["agent", "list", "-o", "wide"]).await?.stdout;
        let status = stage.says(&["fleet", "status", "-o", "json"]).await?;
        let pipelines = stage
            .says(&["pipeline", "list", "-o", "wide"])
            .await?
            .stdout;
        let status = document(&status)?;
        let revision = status["revision"].as_u64().context("no revision")?;
        let cited = format!("  revision {revision}\n");
        ensure!(
            agents.ends_with(&cited) && pipelines.ends_with(&cited),
            "{agents}{pipelines}"
        );
        Ok::<_, anyhow::Error>(Some((agents, status, pipelines)))
    });
    let (agents, status, pipelines) = caught.await?;
    // THEN they say the same of every agent and of every pipeline
    for name in ["relay-1", "relay-2"] {
        let agent = named(&status["agents"], name);
        let row = row(&agents, name)?;
        let pipelines = agent["pipelines"].to_string();
        ensure!(row[4] == pipelines, "{row:?} {agent}");
        ensure!(
            row.contains(&agent["backend_pid"].to_string().as_str()),
            "{row:?} {agent}"
        );
        let owned = rows(&status["pipelines"]).filter(|row| row["owner"] == name);
        ensure!(owned.count().to_string() == row[4], "{status}");
    }
    for pipeline in rows(&status["pipelines"]) {
        let row = row(&pipelines, pipeline["name"].as_str().unwrap_or_default())?;
        ensure!(
            Some(row[3]) == pipeline["owner"].as_str(),
            "{row:?} {pipeline}"
        );
        for key in ["epoch", "last_change_id", "backend_pid"] {
            let value = pipeline[key].to_string();
            ensure!(row.contains(&value.as_str()), "{key}: {row:?} {pipeline}");
        }
    }
    Ok(())
}

/// Complaint 19, across the two sources: what is not measured but known is the same, whoever is asked.
#[tokio::test]
async fn c19_two_commands_disagree_unless_both_sources_say_the_same() -> Result<()> {
    // GIVEN a fleet that is at rest
    let mut stage = Stage::with_agents(2).await?;
    stage.fleet.add_file_pipelines(4).await?;
    stage.fleet.wait_until_balanced().await?;
    let list = ["pipeline", "list", "--sort", "name:desc", "-o", "ndjson"];
    // THEN the control plane and PostgreSQL show the same rows in the same order
    let same = eventually(SOON, "both to say the same", async || {
        let control = known(&stage.says(&list).await?.stdout)?;
        let database = known(&stage.says_database(&list).await?.stdout)?;
        ensure!(control == database, "{control:?} {database:?}");
        Ok::<_, anyhow::Error>(Some(control))
    });
    let rows = same.await?;
    ensure!(rows.len() == 4 && rows[0][0] == "file-4", "{rows:?}");
    Ok(())
}

/// What does not change while a fleet is at rest.
fn known(lines: &str) -> Result<Vec<[Value; 5]>> {
    let rows = lines.lines().map(|line| {
        let row: Value = serde_json::from_str(line)?;
        let keys = ["name", "owner", "epoch", "state", "backend_pid"];
        Ok(keys.map(|key| row[key].clone()))
    });
    rows.collect()
}

fn rows(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The fields of the row of a table that begins with a name.
fn row<'a>(table: &'a str, name: &str) -> Result<Vec<&'a str>> {
    let rows = table.lines().map(|line| line.split_whitespace().collect());
    let mut rows = rows.filter(|fields: &Vec<&str>| fields.first() == Some(&name));
    rows.next().with_context(|| format!("no {name} in {table}"))
}
