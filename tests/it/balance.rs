//! Load that is measured, planned by and evened out, by plans.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tide_sandbox::{publisher::PublishPlan, wait::eventually};
use tide_tests::{
    Fleet, FleetOptions, SOON,
    command::{self, Finished},
    proof,
    replica::Replica,
};

/// Two agents with two pipelines each: relay-1 has both of the busy outbox, relay-2 both of the idle
/// one. By their number nothing is uneven.
async fn lopsided() -> Result<Fleet> {
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    for name in ["relay-1", "relay-2"] {
        let spec = fleet.spec(name);
        fleet
            .start_as(spec.with("--janitor-interval", "100ms"))
            .await?;
    }
    for (pipeline, outbox) in [
        ("hot-1", "hot"),
        ("hot-2", "hot"),
        ("cold-1", "cold"),
        ("cold-2", "cold"),
    ] {
        fleet.add_file_pipeline(pipeline, outbox).await?;
    }
    fleet.wait_until_running().await?;
    let placed = fleet.move_to(&[
        ("hot-1", "relay-1"),
        ("hot-2", "relay-1"),
        ("cold-1", "relay-2"),
        ("cold-2", "relay-2"),
    ]);
    let placed = placed.await?;
    fleet.succeeded(placed).await?;
    fleet
        .publish_as(|plan| PublishPlan {
            outboxes: vec!["hot".to_owned()],
            ..plan
        })
        .await?;
    fleet.publish_more(200).await?;
    Ok(fleet)
}

async fn tidectl(fleet: &Fleet, control_plane: &Replica, words: &[&str]) -> Result<Finished> {
    let url = control_plane.url();
    let arguments = [&["--control-plane", url.as_str()], words].concat();
    command::run(
        "tidectl",
        &arguments,
        &[("TIDE_POSTGRES_URL", &fleet.url())],
        SOON,
    )
    .await
}

async fn json(fleet: &Fleet, control_plane: &Replica, words: &[&str]) -> Result<Value> {
    let finished = tidectl(fleet, control_plane, &[words, &["-o", "json"]].concat()).await?;
    serde_json::from_str(&finished.stdout).with_context(|| format!("{finished:?}"))
}

/// Whether the two busy ones are apart.
async fn apart(fleet: &Fleet) -> Result<bool> {
    let owners = fleet.owners().await?;
    Ok(owners["hot-1"].agent != owners["hot-2"].agent)
}

#[tokio::test]
async fn a_plan_by_load_is_applied_once_and_a_stale_one_not_at_all() -> Result<()> {
    // GIVEN load that is uneven by what pipelines deliver and even by their number
    let mut fleet = lopsided().await?;
    // Agents that report to nobody are not waited for.
    let lease = Duration::from_secs(3);
    let cold = [("--warm-up", "0")];
    let control_plane = Replica::start_with(&fleet, "control-plane", lease, &cold).await?;
    let by_number = tidectl(&fleet, &control_plane, &["rebalance", "plan"]);
    ensure!(by_number.await?.code == Some(0));
    let plan = eventually(SOON, "a plan by load", async || {
        let plan = json(
            &fleet,
            &control_plane,
            &["rebalance", "plan", "--by", "load"],
        )
        .await?;
        let moves = plan["moves"].as_array().context("moves")?.len();
        ensure!(moves > 0, "{plan}");
        anyhow::Ok(Some(plan))
    });
    let plan = plan.await?;
    let id = plan["id"].as_str().context("an id")?.to_owned();
    // WHEN another agent joins THEN that plan is refused
    fleet.start_agent("relay-3").await?;
    let apply = ["rebalance", "apply", &id, "--yes", "--detach"];
    let refused = tidectl(&fleet, &control_plane, &apply).await?;
    refused.explains(7, "agent relay-3 has joined", "tidectl rebalance plan")?;
    fleet.agent("relay-3").stop().await?;
    fleet.wait_until_running().await?;
    // WHEN a new one is applied, twice THEN it is one operation, and what it says happens
    let words = ["rebalance", "plan", "--by", "load"];
    let plan = json(&fleet, &control_plane, &words).await?;
    let id = plan["id"].as_str().context("an id")?.to_owned();
    let apply = ["rebalance", "apply", &id, "--yes"];
    let first = json(&fleet, &control_plane, &apply).await?;
    let again = json(&fleet, &control_plane, &apply).await?;
    ensure!(first["id"] == again["id"], "{first} {again}");
    ensure!(first["state"] == "succeeded", "{first}");
    let owners = fleet.owners().await?;
    for planned in plan["moves"].as_array().context("moves")? {
        let pipeline = planned["pipeline"].as_str().context("a pipeline")?;
        ensure!(owners[pipeline].agent == planned["to"].as_str().context("to")?);
    }
    ensure!(apart(&fleet).await?, "{owners:?}");
    proof::exactly_once(&fleet.settle_and_check().await?)
}
