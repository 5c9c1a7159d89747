//! The failure policy and the rate limit, the same for every sink.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tide_catalog::outboxes::{NewMessage, outbox_publish};
use tide_model::PipelineState;
use tide_sandbox::http::{Behaviour, Receiver, Request};
use tide_tests::{Fleet, FleetOptions, SOON, by_hand::publish, proof};
use time::{Duration, OffsetDateTime};

const FIRST: &str = "relay-1";

/// Publishes so many messages in one transaction.
async fn publish_at_once(fleet: &Fleet, count: usize) -> Result<()> {
    let mut transaction = fleet.pool().begin().await?;
    for number in 0..count {
        let message = NewMessage {
            outbox: "events".to_owned(),
            payload: json!({"n": number}),
            headers: json!({}),
            key: Some("k".to_owned()),
            event_id: None,
        };
        outbox_publish(&mut transaction, &message).await?;
    }
    Ok(transaction.commit().await?)
}

/// Waits until a metric of a pipeline shows this.
async fn wait_for_metric(fleet: &mut Fleet, name: &str, value: &str) -> Result<()> {
    let line = format!("{name} {value}");
    let agent = fleet.agent(FIRST);
    let address = agent.address().await?;
    tide_sandbox::wait::eventually(SOON, format!("{line:?} on {address}"), async || {
        let metrics = agent.get("/metrics").await?.body;
        anyhow::Ok(metrics.lines().any(|shown| shown == line).then_some(()))
    })
    .await?;
    Ok(())
}

fn sizes(requests: &[Request], path: &str) -> Vec<usize> {
    let here = requests.iter().filter(|request| request.path == path);
    here.map(|request| request.envelopes.as_ref().map_or(0, Vec::len))
        .collect()
}

#[tokio::test]
async fn a_sink_that_fails_and_fails_is_asked_about_one_message_until_it_answers() -> Result<()> {
    // GIVEN batches for a sink that is down, one without a breaker, and a neighbour
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    for (pipeline, failures) in [("down", 2), ("naive", 0), ("fine", 2)] {
        let more = json!({"batch": true, "batch_size": 50, "breaker_failures": failures});
        fleet
            .add_webhook_pipeline(pipeline, "events", &receiver, more)
            .await?;
    }
    for path in ["/down", "/naive"] {
        receiver.by_default(path, Behaviour::Respond(503));
    }
    let mut connection = fleet.connection().await?;
    for _ in 0..20 {
        let entry = fleet.drafts.draw("events", "k");
        publish(&mut connection, &entry).await?;
    }
    fleet.start_agent(FIRST).await?;
    // THEN after two attempts with the whole batch there is one message in each
    receiver
        .wait_until(SOON, "probes", |requests| {
            sizes(requests, "/down").len() >= 4 && sizes(requests, "/naive").len() >= 4
        })
        .await?;
    let asked = sizes(&receiver.requests(), "/down");
    ensure!(asked[..4] == [20, 20, 1, 1], "{asked:?}");
    let asked = sizes(&receiver.requests(), "/naive");
    ensure!(asked.iter().all(|size| *size == 20), "{asked:?}");
    // and status and metrics say so
    let row = fleet
        .wait_for_state("down", PipelineState::Retrying)
        .await?;
    let reason = row.state_reason.unwrap_or_default();
    ensure!(
        reason == "HTTP 503; the circuit is open: one message at a time is tried",
        "{reason}"
    );
    let circuit = |pipeline| format!("pg_tide_relay_circuit_state{{pipeline=\"{pipeline}\"}}");
    wait_for_metric(&mut fleet, &circuit("down"), "2").await?;
    wait_for_metric(&mut fleet, &circuit("naive"), "0").await?;
    // and the neighbour has everything
    fleet.wait_for_deliveries("fine", 20).await?;
    // WHEN the sink is back THEN the probe goes first and all the rest at once
    for path in ["/down", "/naive"] {
        receiver.by_default(path, Behaviour::Respond(200));
    }
    fleet.wait_for_deliveries("down", 20).await?;
    let asked = sizes(&receiver.requests(), "/down");
    ensure!(asked.ends_with(&[1, 19]), "{asked:?}");
    wait_for_metric(&mut fleet, &circuit("down"), "0").await?;
    fleet.agent(FIRST).log("circuit closed").await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_refused_message_opens_no_circuit() -> Result<()> {
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    let more = json!({"breaker_failures": 1});
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, more)
        .await?;
    receiver.script("/hook", [Behaviour::Respond(400); 3]);
    publish_at_once(&fleet, 5).await?;
    fleet.start_agent(FIRST).await?;
    fleet.wait_for_deliveries("hook", 2).await?;
    let log = fleet.agent(FIRST).whole_log();
    ensure!(!log.contains("circuit"), "{log}");
    Ok(())
}

#[tokio::test]
async fn no_more_messages_than_the_limit_and_a_burst() -> Result<()> {
    // GIVEN 60 messages for a pipeline that takes 40 a second, 20 at once
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    let more = json!({"rate_limit": 40, "rate_burst": 20});
    fleet
        .add_webhook_pipeline("slow", "events", &receiver, more)
        .await?;
    publish_at_once(&fleet, 60).await?;
    // WHEN they are delivered
    let begun = OffsetDateTime::now_utc();
    fleet.start_agent(FIRST).await?;
    receiver.wait_for_deliveries("/slow", 60, SOON).await?;
    // THEN those after the burst took at least their time
    let requests = receiver.requests();
    let last = requests.last().context("none")?;
    ensure!(last.at - begun >= Duration::seconds(1), "{last:?}");
    ensure!(requests.len() == 60, "{}", requests.len());
    Ok(())
}

#[tokio::test]
async fn a_slow_pipeline_stops_at_once_and_its_successor_repeats_nothing() -> Result<()> {
    // GIVEN one page that would take minutes
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    let more = json!({"rate_limit": 1, "rate_burst": 1});
    fleet
        .add_webhook_pipeline("slow", "events", &receiver, more)
        .await?;
    let mut transaction = fleet.pool().begin().await?;
    for _ in 0..100 {
        let entry = fleet.drafts.draw("events", "k");
        publish(&mut transaction, &entry).await?;
    }
    transaction.commit().await?;
    fleet.start_agent(FIRST).await?;
    // THEN its position is stored in the middle of it
    fleet
        .wait_for_sql(
            "a position in the middle",
            "SELECT EXISTS (SELECT FROM tide.relay_consumer_offsets WHERE last_change_id BETWEEN 2 AND 90)",
        )
        .await?;
    waits_are_counted(&mut fleet).await?;
    // WHEN its owner is asked to stop THEN it does, in good order
    fleet.agent(FIRST).stop().await?;
    let row = fleet.row("slow").await?;
    let delivered = receiver.deliveries("/slow").len() as i64;
    ensure!(row.last_change_id == delivered, "{row:?}, {delivered}");
    // WHEN the limit is gone THEN the rest comes, and nothing twice
    fleet
        .reconfigure("slow", json!({"rate_limit": null, "rate_burst": null}))
        .await?;
    fleet.start_agent("relay-2").await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

async fn waits_are_counted(fleet: &mut Fleet) -> Result<()> {
    let metrics = fleet.agent(FIRST).get("/metrics").await?.body;
    let waits = metrics
        .lines()
        .find_map(|line| {
            line.strip_prefix("pg_tide_relay_rate_limit_waits_total{pipeline=\"slow\"} ")
        })
        .context("no waits are shown")?;
    ensure!(waits.parse::<u64>()? > 0, "{waits}");
    Ok(())
}
