//! What happens around the moment in which a pipeline changes hands.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tide_catalog::{
    connection::Server,
    handovers::{Arrival, Departure, handover_ready},
    lock_session::LockSession,
    offsets::offsets_claim,
};
use tide_model::{AgentName, GroupName, HandoverKind, Incarnation, UnitName};
use tide_sandbox::{
    kafka::{MockKafka, Topic},
    wait::eventually,
};
use tide_tests::{Fleet, FleetOptions, SOON, catalog::Catalog, proof};
use uuid::Uuid;

/// Agents with one pipeline to Kafka, under load, and who owns it.
async fn with_kafka(agents: usize) -> Result<(Fleet, MockKafka, String)> {
    let mut fleet = Fleet::start(FleetOptions::agents(agents)).await?;
    let kafka = MockKafka::start(&[Topic::new("topic", 2)])?;
    fleet.add_kafka_pipeline("topic", "events", &kafka).await?;
    fleet.wait_until_running().await?;
    fleet.publish().await?;
    fleet.publish_more(50).await?;
    let owner = fleet.owners().await?["topic"].agent.clone();
    Ok((fleet, kafka, owner))
}

/// The agent that has made itself ready for a crash.
async fn standby(fleet: &mut Fleet) -> Result<String> {
    let names = fleet.agent_names();
    eventually(SOON, "a standby to prepare its sink", async || {
        let ready = names.iter().find(|name| {
            let log = fleet.agent(name).whole_log();
            log.lines()
                .any(|line| line.contains("sink prepared") && line.contains("standby"))
        });
        anyhow::Ok(ready.cloned())
    })
    .await
    .context("nobody is ready")
}

#[tokio::test]
async fn the_first_backup_is_ready_for_a_crash() -> Result<()> {
    // GIVEN a pipeline to Kafka, whose owner's first backup has prepared its sink
    let (mut fleet, _kafka, owner) = with_kafka(3).await?;
    let backup = standby(&mut fleet).await?;
    ensure!(backup != owner, "the owner is its own backup");
    let metrics = fleet.agent(&backup).get("/metrics").await?;
    ensure!(
        metrics.body.contains("pg_tide_relay_prepared_sinks 1"),
        "{}",
        metrics.body
    );
    // WHEN the owner is killed
    fleet.crash(&owner).await?;
    // THEN that backup has the pipeline, and did not have to begin with its sink
    fleet.agent(&backup).log("sink was prepared").await?;
    fleet.wait_until_running().await?;
    ensure!(fleet.owners().await?["topic"].agent == backup);
    fleet.publish_more(50).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_successor_is_ready_before_the_owner_lets_go() -> Result<()> {
    // GIVEN a pipeline to Kafka, and an agent that is neither its owner nor ready for a crash
    let (mut fleet, _kafka, owner) = with_kafka(3).await?;
    let backup = standby(&mut fleet).await?;
    let mut names = fleet.agent_names().into_iter();
    let other = names
        .find(|name| *name != owner && *name != backup)
        .context("there are three")?;
    drop(names);
    // WHEN the pipeline is moved to it
    let operation = fleet.move_to(&[("topic", &other)]).await?;
    fleet.succeeded(operation).await?;
    // THEN it had made its sink ready before it got the pipeline
    fleet.agent(&other).log("sink was prepared").await?;
    let log = fleet.agent(&other).whole_log();
    let place = |text: &str| log.lines().position(|line| line.contains(text));
    ensure!(
        place("reason=\"offered\"") < place("acquired lock"),
        "{log}"
    );
    fleet.publish_more(50).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_newcomer_is_ready_before_anybody_gives_it_anything() -> Result<()> {
    // GIVEN pipelines to Kafka, all of one agent
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let topics: Vec<String> = (0..6).map(|number| format!("topic-{number}")).collect();
    let on_broker: Vec<Topic> = topics.iter().map(|name| Topic::new(name, 2)).collect();
    let kafka = MockKafka::start(&on_broker)?;
    for name in &topics {
        fleet.add_kafka_pipeline(name, "events", &kafka).await?;
    }
    fleet.wait_until_running().await?;
    fleet.publish().await?;
    for newcomer in ["relay-2", "relay-3", "relay-4"] {
        // WHEN another joins, who has seen none of them before
        fleet.start_agent(newcomer).await?;
        fleet.wait_until_balanced().await?;
        // THEN every sink that it was given was ready by then
        let given = fleet.owned_by(newcomer).await?;
        ensure!(!given.is_empty(), "{newcomer} was given nothing");
        for pipeline in given {
            let text = format!("sink was prepared pipeline.id={pipeline}");
            fleet.agent(newcomer).log(&text).await?;
        }
    }
    fleet.publish_more(50).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

/// Waits until a hand-over of this kind from this agent is on record, for every pipeline that it
/// had, and returns how many hand-overs there are by now.
async fn recorded(fleet: &Fleet, kind: &str, from: &str, count: usize) -> Result<i64> {
    let sql = format!(
        "SELECT count(*) = {count} FROM tide.events
         WHERE kind = 'ownership.handed_over' AND detail ->> 'kind' = '{kind}' AND detail ->> 'from' = '{from}'
           AND (detail ->> 'gap_seconds')::numeric BETWEEN 0 AND 60"
    );
    fleet
        .wait_for_sql(&format!("{count} of kind {kind} from {from}"), &sql)
        .await?;
    total(fleet).await
}

async fn total(fleet: &Fleet) -> Result<i64> {
    let sql = "SELECT count(*) FROM tide.events WHERE kind = 'ownership.handed_over'";
    Ok(sqlx::query_scalar(sql).fetch_one(fleet.pool()).await?)
}

#[tokio::test]
async fn every_hand_over_is_measured_and_says_why_it_was() -> Result<()> {
    // GIVEN two agents with one pipeline each
    let mut fleet = Fleet::start(FleetOptions::agents(2)).await?;
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    ensure!(total(&fleet).await? == 0, "first owners take from nobody");
    let owned = fleet.owned_by("relay-1").await?;
    let pipeline = owned.iter().next().context("it has one")?;
    // WHEN a pipeline is moved, an agent is drained and comes back, stops and comes back, and dies
    let moved = fleet.move_to(&[(pipeline, "relay-2")]).await?;
    fleet.succeeded(moved).await?;
    recorded(&fleet, "move", "relay-1", 1).await?;
    recorded(&fleet, "rebalance", "relay-2", 1).await?;
    fleet.succeeded(fleet.drain("relay-2").await?).await?;
    recorded(&fleet, "drain", "relay-2", 1).await?;
    fleet.undrain("relay-2").await?;
    recorded(&fleet, "move", "relay-1", 2).await?;
    fleet.agent("relay-2").stop().await?;
    recorded(&fleet, "shutdown", "relay-2", 1).await?;
    fleet.wait_until_running().await?;
    fleet.crash("relay-1").await?;
    fleet.start_agent("relay-2").await?;
    recorded(&fleet, "crash", "relay-1", 2).await?;
    fleet.start_agent("relay-1").await?;
    // THEN each was recorded as what it was, in the events and in the metrics
    let before = recorded(&fleet, "rebalance", "relay-2", 2).await?;
    let metrics = fleet.agent("relay-2").get("/metrics").await?;
    ensure!(
        metrics
            .body
            .contains("pg_tide_relay_handover_gap_seconds_count{kind=\"crash\"} 2"),
        "{}",
        metrics.body
    );
    // A restart for a new configuration is no hand-over, nor is a stop with nobody to take over.
    fleet
        .reconfigure(pipeline, json!({"batch_size": 10}))
        .await?;
    fleet.publish_more(50).await?;
    for name in fleet.agent_names() {
        fleet.agent(&name).stop().await?;
    }
    let last = total(&fleet).await?;
    fleet.start_agent("relay-1").await?;
    fleet.wait_until_running().await?;
    ensure!(
        total(&fleet).await? == last && last <= before + 1,
        "only the first of the two had a successor"
    );
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn an_owner_does_not_take_its_own_leave_for_its_arrival() -> Result<()> {
    // GIVEN two agents' sessions and a pipeline
    let catalog = Catalog::with_pipeline("events", "p").await?;
    let group: GroupName = "default".parse()?;
    let (one, two): (AgentName, AgentName) = ("relay-1".parse()?, "relay-2".parse()?);
    let incarnations = [(); 2].map(|()| Incarnation(Uuid::now_v7()));
    let unit: [UnitName; 1] = ["p".parse()?];
    let server = Server::parse(&catalog.url, "test")?;
    let lease = Duration::from_mins(5);
    let mut former = LockSession::open(&server, &group, lease).await?;
    let mut next = LockSession::open(&server, &group, lease).await?;
    let ready = |epoch| Arrival {
        pipeline: unit[0].clone(),
        epoch,
        ready: Duration::ZERO,
    };
    // WHEN an owner leaves before it has said that it was ready, and says so then
    former.try_lock(&unit).await?;
    let claims = offsets_claim(
        former.connection().await?,
        &group,
        &one,
        incarnations[0],
        &unit,
    )
    .await?;
    let departure = Departure {
        pipeline: unit[0].clone(),
        kind: Some(HandoverKind::Rebalance),
        to: Some(two.clone()),
        quiet: Duration::ZERO,
    };
    let unstamped = former.release(&one, incarnations[0], &[departure]).await?;
    ensure!(unstamped.is_none(), "{unstamped:?}");
    let late = [ready(claims[0].epoch)];
    let own = handover_ready(former.connection().await?, &group, &one, &late).await?;
    // THEN that is no hand-over, and its successor's is one
    ensure!(own.is_empty(), "{own:?}");
    ensure!(next.try_lock(&unit).await? == unit, "it is free");
    let claims = offsets_claim(
        next.connection().await?,
        &group,
        &two,
        incarnations[1],
        &unit,
    )
    .await?;
    let in_time = [ready(claims[0].epoch)];
    let handovers = handover_ready(next.connection().await?, &group, &two, &in_time).await?;
    let [handover] = handovers.as_slice() else {
        bail!("one hand-over: {handovers:?}");
    };
    ensure!(
        handover.kind == HandoverKind::Rebalance && handover.from == "relay-1",
        "{handover:?}"
    );
    Ok(())
}
