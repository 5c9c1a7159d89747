//! Who can deliver what: a destination that one agent does not reach, and one that nobody does.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tide_model::fleet::DatabaseView;
use tide_sandbox::{brokers::Nats, ports};
use tide_tests::{by_hand::publish, fleet::Tap, proof};

use super::stage::Stage;

/// What `tidectl explain` says of one agent.
fn verdict<'a>(explained: &'a Value, agent: &str) -> &'a Value {
    let mut agents = explained["agents"].as_array().into_iter().flatten();
    let found = agents.find(|verdict| verdict["agent"] == agent);
    found.unwrap_or(&Value::Null)
}

fn says(verdict: &Value, words: &str) -> bool {
    let detail = verdict["detail"].as_str().unwrap_or_default();
    detail.contains(words)
}

/// Complaint 13. A pipeline is given to an agent that cannot reach its destination, and stands still
/// there while another one could deliver.
#[tokio::test]
async fn c13_a_destination_that_its_owner_cannot_reach() -> Result<()> {
    // GIVEN an agent for which nobody answers where the inbox should be, and which owns the pipeline
    let mut stage = Stage::with_agents(0).await?;
    let closed = ports::reserve()?;
    let url = stage.fleet.url();
    let elsewhere = format!("postgres://postgres@127.0.0.1:{}/app", closed.number());
    stage
        .start_agent_with("relay-1", &[("INBOX_URL", &elsewhere)])
        .await?;
    let told = json!({"postgres_url": "${env:INBOX_URL}"});
    let fleet = &mut stage.fleet;
    fleet
        .add_inbox_pipeline("orders", "events", &url, told)
        .await?;
    fleet.publish().await?;
    let owner = |view: &DatabaseView, agent: &str| {
        let mut rows = view.pipelines.iter();
        rows.any(|row| {
            row.owner
                .as_ref()
                .is_some_and(|owner| owner.as_str() == agent)
        })
    };
    fleet
        .wait_until("relay-1 to own it", |view| owner(view, "relay-1"))
        .await?;
    // WHEN there is one that can reach it THEN that one gets it and delivers
    stage
        .start_agent_with("relay-2", &[("INBOX_URL", &url)])
        .await?;
    stage
        .fleet
        .wait_until("relay-2 to own it", |view| owner(view, "relay-2"))
        .await?;
    stage.fleet.wait_until_running().await?;
    let explain = ["explain", "orders"];
    let shown = stage
        .shows_database_soon(&explain, "it to be at rest", |shown| {
            shown["progress"] == "DONE"
        })
        .await?;
    let former = verdict(&shown, "relay-1");
    ensure!(former["code"] == "UNREACHABLE", "{shown}");
    for words in [
        "cannot reach the sink",
        "refused",
        "since ",
        "tried again at ",
    ] {
        ensure!(says(former, words), "{words} is not in {shown}");
    }
    // WHEN an operator wants it there all the same THEN it goes there, and that is said
    let id = stage.begins(&["move", "orders", "--to", "relay-1"]).await?;
    stage.fleet.succeeded(id.parse()?).await?;
    let shown = stage
        .shows_database_soon(&explain, "it to fail there", |shown| {
            shown["owner"] == "relay-1" && shown["progress"] == "WAITING"
        })
        .await?;
    let because = shown["because"].as_str().unwrap_or_default();
    ensure!(because.contains("an operator placed it there"), "{shown}");
    ensure!(
        says(verdict(&shown, "relay-1"), "cannot reach the sink"),
        "{shown}"
    );
    // WHEN that is over THEN nothing is lost, and nothing came twice
    let id = stage.begins(&["move", "orders", "--to", "relay-2"]).await?;
    stage.fleet.succeeded(id.parse()?).await?;
    proof::exactly_once(&stage.fleet.settle_and_check().await?)
}

/// Complaint 13, the other way round: what nobody reaches is nobody's fault, and is not carried from
/// one agent to the next.
#[tokio::test]
async fn c13_a_destination_that_nobody_reaches_moves_nothing() -> Result<()> {
    // GIVEN three agents with a pipeline each into one broker
    let mut stage = Stage::with_agents(3).await?;
    let mut nats = Nats::start(&stage.fleet.scratch).await?;
    let names = ["one", "two", "three"];
    for name in names {
        nats.create_stream(name).await?;
        let config = json!({"sink_type": "nats", "url": nats.url(), "subject": name});
        let tap = Tap::Nats(nats.reader(name));
        stage.fleet.add(name, "events", config, tap).await?;
    }
    stage.fleet.wait_until_balanced().await?;
    let message = stage.fleet.drafts.draw("events", "k");
    publish(&mut *stage.fleet.connection().await?, &message).await?;
    let published = stage.fleet.drafts.entries().to_vec();
    stage.fleet.wait_until_delivered(&published).await?;
    let before = stage.fleet.owners().await?;
    // WHEN the broker is down for long enough, and everybody has looked for it
    nats.broker().kill().await?;
    let message = stage.fleet.drafts.draw("events", "k");
    publish(&mut *stage.fleet.connection().await?, &message).await?;
    for (what, agents) in [
        ("the owners to have missed the broker", 1),
        ("all to have missed it", 3),
    ] {
        let missed = |view: &DatabaseView| {
            let said = |name: &str| view.unreached_by(&name.parse().expect("a name")).len();
            names.into_iter().all(|name| said(name) >= agents)
        };
        stage.fleet.wait_until(what, missed).await?;
    }
    // THEN each pipeline is where it was, was not even interrupted, and says why
    let shown = stage
        .shows_database_soon(&["explain", "one"], "it to wait", |shown| {
            shown["progress"] == "WAITING"
        })
        .await?;
    let because = shown["because"].as_str().unwrap_or_default();
    ensure!(
        because.contains("no agent that may have it can reach the sink"),
        "{shown}"
    );
    proof::unchanged(&before, &stage.fleet.owners().await?, &[])?;
    // and an agent that is told to go is not kept
    let drained = stage.says(&["drain", "relay-3"]).await?;
    ensure!(drained.code == Some(0), "{drained:?}");
    let moved: BTreeMap<_, _> = before
        .iter()
        .filter(|(_, owner)| owner.agent != "relay-3")
        .map(|(name, owner)| (name.clone(), owner.clone()))
        .collect();
    proof::unchanged(&moved, &stage.fleet.owners().await?, &[])?;
    // WHEN the broker is back THEN everything is delivered, and nothing moves for that either
    let during = stage.fleet.owners().await?;
    nats.start_again().await?;
    stage.fleet.wait_until_running().await?;
    let published = stage.fleet.drafts.entries().to_vec();
    stage.fleet.wait_until_delivered(&published).await?;
    proof::unchanged(&during, &stage.fleet.owners().await?, &[])?;
    proof::exactly_once(&stage.fleet.settle_and_check().await?)
}
