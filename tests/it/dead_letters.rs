//! Dead letters are delivered again by the owner, in order, when an operator asks for it.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tide_catalog::{
    dead_letters::{DeadLetter, dead_letter_write, letter_refused, letters_delivered},
    messages::Message,
    offsets::offsets_claim,
};
use tide_model::Incarnation;
use tide_sandbox::http::{Behaviour, Outcome, Receiver};
use tide_tests::{
    Fleet, FleetOptions, SOON,
    by_hand::publish,
    catalog::{Catalog, execute},
    command::run,
    proof,
};
use time::OffsetDateTime;
use uuid::Uuid;

const NO_LETTERS: &str = "SELECT NOT EXISTS (SELECT FROM tide.relay_dlq)";

/// So many messages of each key, refused by a webhook and put aside.
async fn refused(
    options: FleetOptions,
    more: Value,
    keys: &[&str],
    each: usize,
) -> Result<(Fleet, Arc<Receiver>)> {
    let mut fleet = Fleet::start(options).await?;
    let receiver = Arc::new(Receiver::start().await?);
    receiver.by_default("/hook", Behaviour::Respond(422));
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, more)
        .await?;
    fleet.wait_until_running().await?;
    let mut connection = fleet.connection().await?;
    for _ in 0..each {
        for key in keys {
            publish(&mut connection, &fleet.drafts.draw("events", key)).await?;
        }
    }
    let all = format!(
        "SELECT count(*) = {} FROM tide.relay_dlq",
        each * keys.len()
    );
    fleet
        .wait_for_sql("all of them to be put aside", &all)
        .await?;
    Ok((fleet, receiver))
}

async fn tidectl(fleet: &Fleet, words: &[&str]) -> Result<Value> {
    let url = fleet.url();
    let words = [
        words,
        &["--source", "database", "--actor", "ana", "-o", "json"],
    ]
    .concat();
    let environment = [("TIDE_POSTGRES_URL", url.as_str())];
    let ended = run("tidectl", &words, &environment, SOON).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    Ok(serde_json::from_str(&ended.stdout)?)
}

/// What ended replays say of themselves.
async fn replayed(fleet: &Fleet) -> Result<Vec<Value>> {
    Ok(sqlx::query_scalar(
        "SELECT detail || jsonb_build_object('actor', actor, 'reason', reason) FROM tide.events
         WHERE kind = 'dlq.replayed' ORDER BY id",
    )
    .fetch_all(fleet.pool())
    .await?)
}

#[tokio::test]
async fn a_replay_delivers_in_order_and_takes_the_letters_away() -> Result<()> {
    // GIVEN letters of three keys
    let options = FleetOptions::agents(2);
    let (mut fleet, receiver) = refused(options, json!({}), &["a", "b", "c"], 50).await?;
    let letters = tidectl(&fleet, &["dlq", "list", "--pipeline", "hook", "--key", "b"]).await?;
    ensure!(
        letters
            .as_array()
            .is_some_and(|letters| letters.len() == 50)
    );
    ensure!(letters[0]["published_at"].is_string(), "{}", letters[0]);
    // WHEN the receiver has come to its senses and they are asked for, among new messages
    receiver.by_default("/hook", Behaviour::Respond(200));
    let foretold = tidectl(&fleet, &["dlq", "replay", "--all", "--dry-run"]).await?;
    ensure!(
        foretold == json!({"letters": 150, "pipelines": {"hook": 150}}),
        "{foretold}"
    );
    let words = [
        "dlq", "replay", "--all", "--yes", "--rate", "2000", "--reason", "fixed",
    ];
    let started = tidectl(&fleet, &words).await?;
    ensure!(started[0]["letters"] == 150, "{started}");
    for _ in 0..20 {
        let entry = fleet.drafts.draw("events", "new");
        publish(&mut *fleet.connection().await?, &entry).await?;
    }
    fleet
        .wait_for_sql("no letter to be left", NO_LETTERS)
        .await?;
    // THEN each came once, in the order of its key, under the owner's epoch
    let epoch = fleet.owners().await?["hook"].epoch;
    proof::exactly_once(&fleet.settle_and_check().await?)?;
    let epochs = proof::epoch_runs(&fleet.deliveries("hook")?);
    ensure!(epochs == [epoch], "{epochs:?}");
    // and who asked for what is on record
    let told = replayed(&fleet).await?;
    ensure!(told.len() == 1, "{told:?}");
    for (field, value) in [
        ("delivered", json!(150)),
        ("refused", json!(0)),
        ("actor", json!("ana")),
        ("reason", json!("fixed")),
    ] {
        ensure!(told[0][field] == value, "{told:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_letter_that_is_refused_again_stays_and_holds_nobody_up() -> Result<()> {
    // GIVEN ten letters
    let options = FleetOptions::agents(1);
    let (mut fleet, receiver) = refused(options, json!({}), &["a"], 10).await?;
    // WHEN the fourth of them is refused again, with other words
    receiver.by_default("/hook", Behaviour::Respond(200));
    let again = [200, 200, 200, 413].map(Behaviour::Respond);
    receiver.script("/hook", again);
    tidectl(&fleet, &["dlq", "replay", "--pipeline", "hook"]).await?;
    fleet
        .wait_for_sql(
            "one letter to be left",
            "SELECT count(*) = 1 AND bool_and(replay IS NULL) FROM tide.relay_dlq",
        )
        .await?;
    // THEN it says so, and the others have gone on in order
    let left = tidectl(&fleet, &["dlq", "list"]).await?;
    ensure!(
        left[0]["attempts"] == 2 && left[0]["message_id"] == 4,
        "{left}"
    );
    ensure!(
        left[0]["error"]
            .as_str()
            .is_some_and(|error| error.contains("413")),
        "{left}"
    );
    ensure!(replayed(&fleet).await?[0]["refused"] == 1);
    // and it can be asked for again, by what is wrong with it
    let words = ["dlq", "replay", "--error", "413"];
    tidectl(&fleet, &words).await?;
    fleet
        .wait_for_sql("no letter to be left", NO_LETTERS)
        .await?;
    let order: Vec<i64> = fleet
        .deliveries("hook")?
        .iter()
        .map(|delivery| delivery.envelope.id)
        .collect();
    ensure!(order == [1, 2, 3, 5, 6, 7, 8, 9, 10, 4], "{order:?}");
    fleet.stop_agents().await
}

#[tokio::test]
async fn a_replay_survives_its_owner_and_the_sink_s_bad_days() -> Result<()> {
    // GIVEN letters, and a receiver that keeps the second of them waiting
    let options = FleetOptions::agents(2);
    let (mut fleet, receiver) = refused(options, json!({}), &["a", "b"], 20).await?;
    receiver.by_default("/hook", Behaviour::Respond(200));
    receiver.script("/hook", [Behaviour::Respond(200), Behaviour::Hang]);
    tidectl(&fleet, &["dlq", "replay", "--all", "--yes"]).await?;
    receiver
        .wait_until(SOON, "a letter on its way", |requests| {
            requests
                .iter()
                .any(|request| request.outcome == Outcome::Pending)
        })
        .await?;
    // WHEN the owner dies with it on the wire
    let owner = fleet.owners().await?["hook"].agent.clone();
    fleet.crash(&owner).await?;
    receiver.script("/hook", [Behaviour::Respond(503), Behaviour::Respond(503)]);
    receiver.release();
    // THEN the next owner goes on with the rest, and nothing is lost or out of order
    fleet
        .wait_for_sql("no letter to be left", NO_LETTERS)
        .await?;
    fleet.start_agent(&owner).await?;
    fleet.wait_until_running().await?;
    let delivered = fleet.deliveries("hook")?;
    let mut of_key: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for delivery in &delivered {
        let seen = of_key
            .entry(delivery.envelope.key.clone().unwrap_or_default())
            .or_default();
        if !seen.contains(&delivery.envelope.id) {
            seen.push(delivery.envelope.id);
        }
    }
    for ids in of_key.values() {
        ensure!(ids.len() == 20 && ids.is_sorted(), "{ids:?}");
    }
    ensure!(delivered.len() <= 40 + 21, "{} deliveries", delivered.len());
    fleet.stop_agents().await
}

#[tokio::test]
async fn every_shard_delivers_its_own_letters_and_the_replay_ends_once() -> Result<()> {
    // GIVEN letters of a pipeline with four shards
    let keys = ["a", "b", "c", "d", "e", "f", "g"];
    let options = FleetOptions::agents(2);
    let (mut fleet, receiver) = refused(options, json!({"shards": 4}), &keys, 10).await?;
    // WHEN all of them are asked for
    receiver.by_default("/hook", Behaviour::Respond(200));
    tidectl(&fleet, &["dlq", "replay", "--all", "--yes"]).await?;
    fleet
        .wait_for_sql("no letter to be left", NO_LETTERS)
        .await?;
    // THEN each came once, from the owner of its shard, and the end was noted once
    proof::exactly_once(&fleet.settle_and_check().await?)?;
    let told = replayed(&fleet).await?;
    ensure!(told.len() == 1 && told[0]["delivered"] == 70, "{told:?}");
    Ok(())
}

#[tokio::test]
async fn discarding_what_is_being_replayed_ends_that() -> Result<()> {
    // GIVEN a replay that cannot get on, because the pipeline is paused
    let options = FleetOptions::agents(1);
    let (fleet, _receiver) = refused(options, json!({}), &["a"], 3).await?;
    tidectl(&fleet, &["pipeline", "pause", "hook"]).await?;
    tidectl(&fleet, &["dlq", "replay", "--all"]).await?;
    // WHEN its letters are discarded
    let discarded = tidectl(
        &fleet,
        &["dlq", "discard", "--all", "--yes", "--reason", "old"],
    )
    .await?;
    ensure!(discarded == json!({"discarded": 3}), "{discarded}");
    // THEN it is over, and both are on record
    let told = replayed(&fleet).await?;
    ensure!(told.len() == 1 && told[0]["delivered"] == 0, "{told:?}");
    let events: Value =
        sqlx::query_scalar("SELECT detail FROM tide.events WHERE kind = 'dlq.discarded'")
            .fetch_one(fleet.pool())
            .await?;
    ensure!(
        events["letters"] == 3
            && events["event_ids"]
                .as_array()
                .is_some_and(|ids| ids.len() == 3)
    );
    Ok(())
}

#[tokio::test]
async fn an_old_epoch_neither_takes_letters_away_nor_judges_them() -> Result<()> {
    // GIVEN a letter that is to be replayed, and two owners, one after the other
    let catalog = Catalog::with_pipeline("events", "p").await?;
    let mut connection = catalog.connect().await?;
    let (group, unit) = ("default".parse()?, "p".parse()?);
    let mut epochs = Vec::new();
    for agent in ["relay-1", "relay-2"] {
        let agent = agent.parse()?;
        let incarnation = Incarnation(Uuid::now_v7());
        let units = std::slice::from_ref(&unit);
        let claims = offsets_claim(&mut connection, &group, &agent, incarnation, units).await?;
        epochs.push(claims[0].epoch);
    }
    let message = Message {
        id: 1,
        event_id: Uuid::now_v7(),
        key: None,
        payload: "1".to_owned(),
        headers: "{}".to_owned(),
        created_at: OffsetDateTime::now_utc(),
    };
    let letter = DeadLetter {
        message: &message,
        error: "no",
        attempts: 1,
    };
    ensure!(dead_letter_write(&mut connection, &group, &unit, epochs[1], &letter).await?);
    execute(
        &mut connection,
        "SELECT * FROM tide.dlq_replay(pipeline => 'p')",
    )
    .await?;
    // WHEN the first settles it THEN it is told that it may not, and the letter is as it was
    ensure!(!letters_delivered(&mut connection, &group, &unit, epochs[0], &[1]).await?);
    ensure!(!letter_refused(&mut connection, &group, &unit, epochs[0], 1, ("stale", 1)).await?);
    let found: (String, i32, bool) =
        sqlx::query_as("SELECT error, attempts, replay IS NOT NULL FROM tide.relay_dlq")
            .fetch_one(&mut connection)
            .await?;
    ensure!(found == ("no".to_owned(), 1, true), "{found:?}");
    ensure!(letters_delivered(&mut connection, &group, &unit, epochs[1], &[1]).await?);
    Ok(())
}

#[tokio::test]
async fn a_letter_that_is_asked_for_again_while_the_others_are_on_their_way_is_not_forgotten()
-> Result<()> {
    // GIVEN a replay of two letters: the first is refused again, the second is on the wire
    let options = FleetOptions::agents(1);
    let (fleet, receiver) = refused(options, json!({}), &["k"], 2).await?;
    let ids: Vec<i64> = sqlx::query_scalar("SELECT id FROM tide.relay_dlq ORDER BY id")
        .fetch_all(fleet.pool())
        .await?;
    receiver.script("/hook", [Behaviour::Respond(422), Behaviour::Hang]);
    receiver.by_default("/hook", Behaviour::Respond(200));
    tidectl(&fleet, &["dlq", "replay", "--all", "--yes"]).await?;
    receiver
        .wait_until(SOON, "a letter on the wire", |requests| {
            requests
                .last()
                .is_some_and(|last| last.outcome == Outcome::Pending)
        })
        .await?;
    // WHEN the first is asked for once more before the second has arrived
    let first = ids[0].to_string();
    tidectl(&fleet, &["dlq", "replay", "--id", &first, "--yes"]).await?;
    receiver.release();
    // THEN it is delivered as well, and not just deleted
    fleet
        .wait_for_sql("no letter to be left", NO_LETTERS)
        .await?;
    let arrived: Vec<_> = receiver
        .deliveries("/hook")
        .iter()
        .map(|one| one.envelope.id)
        .collect();
    ensure!(arrived == [2, 1], "{arrived:?}");
    Ok(())
}
