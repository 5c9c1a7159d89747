//! One pipeline, several owners: split by key, and split anew while messages flow.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use tide_model::{PipelineState, fleet::DatabaseView};
use tide_sandbox::http::{Behaviour, Receiver};
use tide_tests::{Fleet, FleetOptions, by_hand::publish, catalog::execute, proof};

const HOOK: &str = "hook";

/// Agents that share one pipeline of so many shards, under load.
async fn sharded(agents: usize, shards: u16) -> Result<(Fleet, Arc<Receiver>)> {
    let mut fleet = Fleet::start(FleetOptions::agents(agents)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    let config = json!({"batch_size": 10, "batch": true, "shards": shards});
    fleet
        .add_webhook_pipeline(HOOK, "events", &receiver, config)
        .await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    fleet.publish_more(100).await?;
    Ok((fleet, receiver))
}

/// Asks for another number of shards and waits until all of them run.
async fn reshard(fleet: &mut Fleet, shards: u16) -> Result<DatabaseView> {
    fleet.reconfigure(HOOK, json!({"shards": shards})).await?;
    in_force(fleet, shards).await
}

async fn in_force(fleet: &Fleet, shards: u16) -> Result<DatabaseView> {
    fleet
        .wait_until(&format!("{shards} shards to run"), |view| {
            view.pipelines.len() == usize::from(shards)
                && view.pipelines.iter().all(|row| {
                    row.owner.is_some()
                        && row.reshard_to.is_none()
                        && row.state.is_some_and(PipelineState::is_healthy)
                })
        })
        .await
}

fn loads(view: &DatabaseView) -> BTreeMap<String, usize> {
    let mut loads = BTreeMap::new();
    for owner in view.pipelines.iter().filter_map(|row| row.owner.as_ref()) {
        *loads.entry(owner.to_string()).or_default() += 1;
    }
    loads
}

#[tokio::test]
async fn shards_are_shared_out_and_every_key_keeps_its_order() -> Result<()> {
    // GIVEN a pipeline of four shards
    let (mut fleet, _receiver) = sharded(2, 4).await?;
    // THEN each agent has two of them, every shard works, and nothing is lost, doubled or reordered
    let view = fleet.view().await?;
    let names: Vec<&str> = view.pipelines.iter().map(|row| row.name.as_str()).collect();
    ensure!(
        names == ["hook#1/4", "hook#2/4", "hook#3/4", "hook#4/4"],
        "{names:?}"
    );
    ensure!(
        loads(&view).values().all(|load| *load == 2),
        "{:?}",
        loads(&view)
    );
    fleet.publish_more(300).await?;
    let accounts = fleet.settle_and_check().await?;
    let shards = fleet.deliveries(HOOK)?.into_iter().filter_map(|delivery| {
        let shard = delivery.envelope.headers.get("tide-shard")?;
        Some(shard.as_str()?.to_owned())
    });
    let shards: std::collections::BTreeSet<String> = shards.collect();
    ensure!(shards.len() == 4, "only {shards:?} delivered anything");
    proof::exactly_once(&accounts)
}

#[tokio::test]
async fn a_change_of_shards_under_load_costs_nothing() -> Result<()> {
    // GIVEN a pipeline that is not split, and a neighbour
    let (mut fleet, _receiver) = sharded(3, 1).await?;
    // WHEN it is split, split anew and joined again while messages flow
    for shards in [4, 2, 3, 1] {
        let view = reshard(&mut fleet, shards).await?;
        let most = loads(&view).into_values().max();
        ensure!(
            most == Some(if shards > 3 { 2 } else { 1 }),
            "{:?}",
            loads(&view)
        );
        fleet.publish_more(60).await?;
    }
    // THEN nothing is lost, doubled or reordered
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_transaction_that_is_open_over_a_change_of_shards_is_delivered() -> Result<()> {
    // GIVEN a transaction that has written a message and stays open
    let (mut fleet, _receiver) = sharded(2, 2).await?;
    let mut open = fleet.connection().await?;
    execute(&mut open, "BEGIN").await?;
    for key in ["by-hand-a", "by-hand-b", "by-hand-c"] {
        let entry = fleet.drafts.draw("events", key);
        publish(&mut open, &entry).await?;
    }
    fleet.publish_more(50).await?;
    // WHEN the number of shards changes twice, and it commits
    reshard(&mut fleet, 3).await?;
    reshard(&mut fleet, 4).await?;
    execute(&mut open, "COMMIT").await?;
    drop(open);
    // THEN its messages are delivered once
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_crash_while_new_shards_catch_up_loses_nothing() -> Result<()> {
    // GIVEN a backlog that a slow receiver lets the new shards work off slowly
    let (mut fleet, receiver) = sharded(3, 2).await?;
    let slow = vec![Behaviour::Delay(Duration::from_millis(40)); 300];
    receiver.script("/hook", slow);
    fleet.publish_more(300).await?;
    fleet.reconfigure(HOOK, json!({"shards": 5})).await?;
    fleet
        .wait_until("five shards", |view| view.pipelines.len() == 5)
        .await?;
    // WHEN one of the owners dies
    fleet.crash("relay-2").await?;
    // THEN the others finish what it had
    fleet
        .wait_until("the survivors to own all", |view| {
            view.pipelines.iter().all(|row| {
                row.owner
                    .as_ref()
                    .is_some_and(|owner| owner.as_str() != "relay-2")
            })
        })
        .await?;
    in_force(&fleet, 5).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn an_owner_that_died_in_the_old_layout_holds_nothing_up() -> Result<()> {
    // GIVEN an owner of a shard that is frozen, and so lets go of nothing
    let (mut fleet, _receiver) = sharded(3, 3).await?;
    fleet.freeze("relay-3").await?;
    // WHEN the number of shards changes
    fleet.reconfigure(HOOK, json!({"shards": 2})).await?;
    // THEN the new shards run as soon as its lease is over
    in_force(&fleet, 2).await?;
    fleet.agent("relay-3").thaw()?;
    fleet.publish_more(60).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn nonsense_changes_no_layout_and_is_reported() -> Result<()> {
    let (mut fleet, _receiver) = sharded(2, 2).await?;
    // WHEN the number of shards is none
    fleet.reconfigure(HOOK, json!({"shards": "many"})).await?;
    // THEN each shard says so and keeps its position
    let view = fleet
        .wait_until("the mistake to be reported", |view| {
            view.pipelines.len() == 2
                && view.pipelines.iter().all(|row| {
                    row.state_reason.as_deref().is_some_and(|reason| {
                        reason.contains(
                            "\"shards\" is a string, expected a whole number from 1 to 64",
                        )
                    })
                })
        })
        .await?;
    ensure!(view.pipelines.iter().all(|row| row.reshard_to.is_none()));
    // AND goes on from there when it is mended
    fleet.reconfigure(HOOK, json!({"shards": 2})).await?;
    in_force(&fleet, 2).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_sharded_file_is_written_by_one_owner_each() -> Result<()> {
    // GIVEN a file pipeline of two shards, with a name for each shard's file in its path
    let mut fleet = Fleet::start(FleetOptions::agents(2)).await?;
    let path = fleet.file("part-{shard}");
    let config = json!({"sink_type": "file", "path": path, "shards": 2});
    let tap = tide_tests::fleet::Tap::Files(
        ["1-of-2", "2-of-2"]
            .map(|part| fleet.file(&format!("part-{part}")))
            .map(tide_sandbox::files::FileReader::new)
            .to_vec(),
    );
    fleet.add("parts", "events", config, tap).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    fleet.publish_more(100).await?;
    // THEN both agents write, each shard to its own file
    let accounts = fleet.settle_and_check().await?;
    for part in ["1-of-2", "2-of-2"] {
        let written = std::fs::read_to_string(fleet.file(&format!("part-{part}")))?;
        ensure!(!written.is_empty(), "nothing in {part}");
    }
    proof::exactly_once(&accounts)
}

#[tokio::test]
async fn a_sharded_pipeline_can_be_moved_whole_and_in_parts() -> Result<()> {
    let (mut fleet, _receiver) = sharded(2, 4).await?;
    let all_on = |agent: &'static str| {
        move |view: &DatabaseView| {
            view.pipelines.iter().all(|row| {
                row.owner
                    .as_ref()
                    .is_some_and(|owner| owner.as_str() == agent)
            })
        }
    };
    // WHEN the pipeline is moved by its name, THEN all shards go
    let operation = fleet.move_to(&[(HOOK, "relay-2")]).await?;
    fleet.succeeded(operation).await?;
    fleet
        .wait_until("all shards on relay-2", all_on("relay-2"))
        .await?;
    // WHEN one shard is moved, THEN only that goes
    let operation = fleet.move_to(&[("hook#3/4", "relay-1")]).await?;
    fleet.succeeded(operation).await?;
    let view = fleet.view().await?;
    ensure!(loads(&view) == BTreeMap::from([("relay-1".to_owned(), 1), ("relay-2".to_owned(), 3)]));
    fleet.publish_more(60).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}
