//! Load that is measured, planned by and evened out: by plans that somebody asks for, and by itself.

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
    let both = owners.get("hot-1").zip(owners.get("hot-2"));
    // One that is on its way has no owner for a moment.
    Ok(both.is_some_and(|(one, other)| one.agent != other.agent))
}

async fn count(fleet: &Fleet, sql: &'static str) -> Result<i64> {
    Ok(sqlx::query_scalar(sql).fetch_one(fleet.pool()).await?)
}

const REBALANCES: &str = "SELECT count(*) FROM tide.operations WHERE kind = 'rebalance'";
const CLAIMS: &str = "SELECT count(*) FROM tide.events WHERE kind = 'ownership.gained'";

/// Waits until the load has been measured for so long from now.
async fn measured_for(fleet: &Fleet, time: Duration) -> Result<()> {
    let begun: f64 = seconds_measured(fleet).await?;
    let waited = eventually(SOON, "more measurements", async || -> Result<_> {
        let passed = seconds_measured(fleet).await? - begun;
        Ok((passed >= time.as_secs_f64()).then_some(()))
    });
    Ok(waited.await?)
}

async fn seconds_measured(fleet: &Fleet) -> Result<f64> {
    let newest =
        "SELECT coalesce(max(extract(epoch FROM sampled_at)), 0)::float8 FROM tide.relay_costs";
    Ok(sqlx::query_scalar(newest).fetch_one(fleet.pool()).await?)
}

/// A control plane that may even out the load, and looks ten times a second whether it is uneven.
async fn balancer(fleet: &Fleet, name: &str, cooldown: &str, warm_up: &str) -> Result<Replica> {
    let flags = [
        ("--warm-up", warm_up),
        ("--rebalance", "auto"),
        ("--rebalance-cooldown", cooldown),
        ("--rebalance-interval", "100ms"),
    ];
    Replica::start_with(fleet, name, Duration::from_secs(3), &flags).await
}

/// Agents that report to nobody are not waited for.
const COLD: &str = "0";

/// What a control plane would do now, in words.
async fn decision(fleet: &Fleet, control_plane: &Replica) -> Result<String> {
    let status = json(fleet, control_plane, &["rebalance", "status"]).await?;
    let decision = status["decision"].as_str();
    Ok(decision.with_context(|| status.to_string())?.to_owned())
}

/// Waits until a decision begins like this.
async fn decides(fleet: &Fleet, control_plane: &Replica, words: &str) -> Result<()> {
    let waited = eventually(SOON, words, async || {
        let decision = decision(fleet, control_plane).await?;
        ensure!(decision.starts_with(words), "{decision}");
        anyhow::Ok(Some(()))
    });
    Ok(waited.await?)
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

#[tokio::test]
async fn an_uneven_load_is_evened_out_by_itself_once_and_then_left_alone() -> Result<()> {
    // GIVEN load that is uneven by what pipelines deliver
    let mut fleet = lopsided().await?;
    // WHEN a control plane may even it out by itself
    let control_plane = balancer(&fleet, "control-plane", "1s", COLD).await?;
    // THEN it does, and says why
    let evened = eventually(SOON, "the load to be evened out", async || {
        anyhow::Ok(apart(&fleet).await?.then_some(()))
    });
    evened.await?;
    let (actor, reason): (String, String) = sqlx::query_as(
        "SELECT actor, reason FROM tide.operations WHERE kind = 'rebalance' ORDER BY created_at LIMIT 1",
    )
    .fetch_one(fleet.pool())
    .await?;
    ensure!(actor == "tide-control-plane", "{actor}");
    ensure!(
        reason.starts_with("uneven: the fullest agent has 1."),
        "{reason}"
    );
    // and then leaves it alone, although the cooldown is soon over
    fleet
        .wait_for_sql(
            "the operation to end",
            "SELECT NOT EXISTS (SELECT FROM tide.operations WHERE state = 'running')",
        )
        .await?;
    let before = (
        count(&fleet, REBALANCES).await?,
        count(&fleet, CLAIMS).await?,
    );
    measured_for(&fleet, Duration::from_secs(4)).await?;
    let after = (
        count(&fleet, REBALANCES).await?,
        count(&fleet, CLAIMS).await?,
    );
    ensure!(before == after, "{before:?} {after:?}");
    let decision = decision(&fleet, &control_plane).await?;
    ensure!(
        decision.starts_with("balanced") || decision.starts_with("bearable"),
        "{decision}"
    );
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn what_somebody_moved_lately_is_left_where_it_is_over_a_restart_too() -> Result<()> {
    // GIVEN load that somebody has just made uneven
    let mut fleet = lopsided().await?;
    // WHEN a control plane may even it out, and dies, and comes back
    for name in ["first", "second"] {
        let mut control_plane = balancer(&fleet, name, "1h", COLD).await?;
        // THEN it waits for what it has never seen, and each time
        decides(&fleet, &control_plane, "cooling down until ").await?;
        measured_for(&fleet, Duration::from_secs(1)).await?;
        control_plane.process.kill9()?;
    }
    ensure!(count(&fleet, REBALANCES).await? == 0);
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn only_the_active_control_plane_acts_and_not_while_somebody_wants_it_left_alone()
-> Result<()> {
    // GIVEN load that is uneven, an active one that has heard of too few agents, and a standby
    let mut fleet = lopsided().await?;
    let mut active = balancer(&fleet, "active", "1s", "300").await?;
    let standby = balancer(&fleet, "standby", "1s", COLD).await?;
    decides(&fleet, &active, "warming up: ").await?;
    measured_for(&fleet, Duration::from_secs(2)).await?;
    ensure!(
        count(&fleet, REBALANCES).await? == 0,
        "who may not has acted"
    );
    // WHEN somebody wants it left alone, and the standby takes over
    let pause = ["rebalance", "pause", "--for", "2h", "--reason", "sale"];
    let paused = tidectl(&fleet, &active, &pause).await?;
    ensure!(paused.code == Some(0), "{paused:?}");
    active.process.kill9()?;
    // THEN it obeys
    decides(&fleet, &standby, "paused by ").await?;
    measured_for(&fleet, Duration::from_secs(1)).await?;
    ensure!(count(&fleet, REBALANCES).await? == 0, "it is paused");
    // and acts once nobody minds
    let resumed = tidectl(&fleet, &standby, &["rebalance", "resume"]).await?;
    ensure!(resumed.code == Some(0), "{resumed:?}");
    let evened = eventually(SOON, "the load to be evened out", async || {
        anyhow::Ok(apart(&fleet).await?.then_some(()))
    });
    evened.await?;
    ensure!(count(&fleet, REBALANCES).await? == 1);
    proof::exactly_once(&fleet.settle_and_check().await?)
}
