//! What operators are shown where `pg_locks` and the agents' reports disagree, and before enough
//! agents have reported. Each scenario is named after a complaint about other fleets' tools.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tide_sandbox::wait::eventually;
use tide_tests::{
    Fleet, FleetOptions, SOON,
    command::{Finished, run},
    replica::Replica,
};

/// Longer than any scenario: no lease ends by itself.
const LONG: Duration = Duration::from_mins(5);
/// A lease that ends soon after its agent is frozen.
const SHORT: Duration = Duration::from_secs(2);
/// Reports count as missing after 15 seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// A control plane, and agents that report to it.
async fn fleet(agents: usize, lease: Duration) -> Result<(Fleet, Replica)> {
    let mut fleet = Fleet::start(FleetOptions {
        lease,
        ..FleetOptions::agents(0)
    })
    .await?;
    let replica = Replica::start(&fleet, "control", LONG).await?;
    for number in 1..=agents {
        let spec = fleet.spec(&format!("relay-{number}"));
        let spec = spec.with("--control-plane", &replica.url());
        fleet.start_as(spec).await?;
    }
    Ok((fleet, replica))
}

async fn tidectl(replica: &Replica, words: &[&str]) -> Result<Finished> {
    let url = replica.url();
    let source = ["--source", "control-plane", "--control-plane", &url];
    let words = [&source, words].concat();
    run("tidectl", &words, &[], SOON).await
}

async fn status(replica: &Replica) -> Result<Value> {
    let finished = tidectl(replica, &["fleet", "status", "-o", "json"]).await?;
    serde_json::from_str(&finished.stdout).with_context(|| format!("{finished:?}"))
}

/// The fleet, once a pipeline has this verdict.
async fn judged(replica: &Replica, pipeline: &str, verdict: &str) -> Result<Value> {
    let what = format!("{pipeline} to be {verdict}");
    let seen = eventually(PATIENCE, what, async || {
        let status = status(replica).await?;
        ensure!(row(&status, pipeline)["ownership"] == verdict, "{status}");
        Ok(Some(status))
    });
    Ok(seen.await?)
}

fn row<'a>(status: &'a Value, pipeline: &str) -> &'a Value {
    let mut rows = status["pipelines"].as_array().into_iter().flatten();
    rows.find(|row| row["name"] == pipeline)
        .unwrap_or(&Value::Null)
}

fn warns(status: &Value, words: &[&str]) -> bool {
    let mut warnings = status["warnings"].as_array().into_iter().flatten();
    warnings.any(|warning| {
        let warning = warning.as_str().unwrap_or_default();
        words.iter().all(|word| warning.contains(word))
    })
}

/// The first pipeline that an agent owns, once all run.
async fn some_pipeline(fleet: &Fleet, agent: &str) -> Result<String> {
    fleet.wait_until_running().await?;
    let owned = fleet.owned_by(agent).await?;
    owned.into_iter().next().context("it owns nothing")
}

/// Complaint 8.
#[tokio::test]
async fn complaint_running_but_dead() -> Result<()> {
    // GIVEN an agent that has its lease for long
    let (mut fleet, replica) = fleet(1, LONG).await?;
    fleet.add_file_pipelines(1).await?;
    let pipeline = some_pipeline(&fleet, "relay-1").await?;
    let before = judged(&replica, &pipeline, "AGREED").await?;
    ensure!(before["coverage"]["told"] == 1, "{before}");
    // WHEN it is frozen THEN it is not shown as running only because it holds the lock
    fleet.agent("relay-1").freeze()?;
    let status = judged(&replica, &pipeline, "STALE").await?;
    ensure!(status["agents"][0]["state"] == "STALE", "{status}");
    ensure!(row(&status, &pipeline)["owner"] == "relay-1", "{status}");
    ensure!(
        warns(&status, &["relay-1", "stopped reporting"]),
        "{status}"
    );
    // WHEN it goes on THEN so does the picture
    fleet.agent("relay-1").thaw()?;
    let status = judged(&replica, &pipeline, "AGREED").await?;
    ensure!(status["agents"][0]["state"] == "ACTIVE", "{status}");
    Ok(())
}

/// Complaint 9, with a former owner that cannot know yet.
#[tokio::test]
async fn complaint_an_old_report_overwrites_a_new_one() -> Result<()> {
    // GIVEN two agents that share the work
    let (mut fleet, replica) = fleet(2, SHORT).await?;
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_balanced().await?;
    let pipeline = some_pipeline(&fleet, "relay-1").await?;
    judged(&replica, &pipeline, "AGREED").await?;
    // WHEN one is frozen until the other has taken over
    fleet.freeze("relay-1").await?;
    // THEN both words are shown, and the lock decides who owns it
    let status = judged(&replica, &pipeline, "SPLIT").await?;
    let split = row(&status, &pipeline);
    ensure!(
        split["owner"] == "relay-2" && split["state"] == "running",
        "{split}"
    );
    ensure!(
        split["claimed_by"] == serde_json::json!(["relay-1"]),
        "{split}"
    );
    ensure!(
        warns(
            &status,
            &[
                &pipeline,
                "SPLIT",
                "relay-2 holds its lock",
                "log of relay-1"
            ]
        ),
        "{status}"
    );
    // WHEN it wakes up and learns THEN they agree again
    fleet.agent("relay-1").thaw()?;
    judged(&replica, &pipeline, "AGREED").await?;
    Ok(())
}

/// Complaint 21, from the other side: who says to run it, and does not.
#[tokio::test]
async fn complaint_nobody_holds_the_lock_of_what_seems_to_run() -> Result<()> {
    let (mut fleet, replica) = fleet(1, SHORT).await?;
    fleet.add_file_pipelines(1).await?;
    let pipeline = some_pipeline(&fleet, "relay-1").await?;
    judged(&replica, &pipeline, "AGREED").await?;
    // WHEN an agent is frozen, and there is nobody to take over
    fleet.freeze("relay-1").await?;
    let status = judged(&replica, &pipeline, "GHOST").await?;
    let ghost = row(&status, &pipeline);
    ensure!(
        ghost["owner"].is_null() && ghost["state"] == "unowned",
        "{ghost}"
    );
    ensure!(
        warns(&status, &[&pipeline, "GHOST", "relay-1 says to run it"]),
        "{status}"
    );
    fleet.agent("relay-1").thaw()?;
    judged(&replica, &pipeline, "AGREED").await?;
    Ok(())
}

/// Complaint 21.
#[tokio::test]
async fn complaint_an_orphan_lock_lets_nobody_take_over() -> Result<()> {
    let (mut fleet, replica) = fleet(1, LONG).await?;
    fleet.add_file_pipelines(1).await?;
    let pipeline = some_pipeline(&fleet, "relay-1").await?;
    judged(&replica, &pipeline, "AGREED").await?;
    // WHEN a session that is no agent's gets the lock after a crash
    fleet.crash("relay-1").await?;
    let mut stranger = fleet.connection().await?;
    let backend: i32 = sqlx::query_scalar(
        "SELECT pg_backend_pid() FROM (SELECT pg_advisory_lock(hashtext($1), hashtext($2))) AS l",
    )
    .bind(fleet.group().as_str())
    .bind(&pipeline)
    .fetch_one(&mut *stranger)
    .await?;
    // THEN it is shown whose it is and what to do, also while an agent is there
    let spec = fleet
        .spec("relay-1")
        .with("--control-plane", &replica.url());
    fleet.start_as(spec).await?;
    let status = judged(&replica, &pipeline, "ORPHAN").await?;
    let words = [
        &*pipeline,
        "ORPHAN",
        &backend.to_string(),
        "tidectl locks orphans",
    ];
    ensure!(warns(&status, &words), "{status}");
    // WHEN the session ends THEN the agent takes over
    drop(stranger.detach());
    let status = judged(&replica, &pipeline, "AGREED").await?;
    ensure!(row(&status, &pipeline)["owner"] == "relay-1", "{status}");
    Ok(())
}

/// Complaint 20.
#[tokio::test]
async fn complaint_a_new_leader_acts_on_half_a_picture() -> Result<()> {
    // GIVEN a control plane that has just started, and an agent that reports to nobody
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_running().await?;
    let replica = Replica::start_with(&fleet, "control", LONG, &[("--warm-up", "300")]).await?;
    let status = status(&replica).await?;
    ensure!(status["coverage"]["warming"] == true, "{status}");
    ensure!(
        status["coverage"]["agents"] == 1 && status["coverage"]["told"] == 0,
        "{status}"
    );
    // THEN it shows what the database knows, and how little that is
    ensure!(
        status["pipelines"].as_array().context("pipelines")?.len() == 2,
        "{status}"
    );
    let shown = tidectl(&replica, &["fleet", "status"]).await?;
    ensure!(
        shown.stdout.contains("coverage 0/1 agents (warming up)"),
        "{shown:?}"
    );
    // but neither plans nor drains by it
    for words in [&["rebalance", "plan"][..], &["drain", "relay-1"]] {
        let refused = tidectl(&replica, words).await?;
        ensure!(refused.code != Some(0), "{refused:?}");
        ensure!(
            refused.stderr.contains("0 of 1 agents have reported")
                && refused.stderr.contains("hint: wait a few seconds"),
            "{refused:?}"
        );
    }
    // WHEN the agent comes back and reports THEN it plans
    fleet.agent("relay-1").stop().await?;
    let spec = fleet
        .spec("relay-1")
        .with("--control-plane", &replica.url());
    fleet.start_as(spec).await?;
    let planned = eventually(SOON, "a plan", async || {
        let planned = tidectl(&replica, &["rebalance", "plan"]).await?;
        ensure!(matches!(planned.code, Some(0 | 3)), "{planned:?}");
        Ok::<_, anyhow::Error>(Some(()))
    });
    planned.await?;
    Ok(())
}
