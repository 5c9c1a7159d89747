//! What is committed reaches the sink, once, in order, whatever the transaction looked like and
//! whatever the sink answers.

use std::{collections::BTreeSet, io::Write as _, sync::Arc};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sqlx::Row as _;
use tide_catalog::outboxes::{NewMessage, outbox_publish};
use tide_model::PipelineState;
use tide_sandbox::{
    history::Cause,
    http::{Behaviour, Receiver},
    kafka::{MockKafka, Topic},
    publisher::Entry,
};
use tide_tests::{
    Fleet, FleetOptions, SOON, by_hand::publish, catalog::execute, fleet::Tap, proof,
};

/// One agent and an endpoint.
async fn with_a_receiver() -> Result<(Fleet, Arc<Receiver>)> {
    let fleet = Fleet::start(FleetOptions::agents(1)).await?;
    Ok((fleet, Arc::new(Receiver::start().await?)))
}

/// Publishes so many messages of one key, each in a transaction of its own.
async fn publish_of_key(fleet: &mut Fleet, key: &str, count: usize) -> Result<Vec<Entry>> {
    let mut connection = fleet.connection().await?;
    let mut published = Vec::new();
    for _ in 0..count {
        let entry = fleet.drafts.draw("events", key);
        publish(&mut connection, &entry).await?;
        published.push(entry);
    }
    Ok(published)
}

#[tokio::test]
async fn every_transaction_shape_reaches_every_sink_exactly_once() -> Result<()> {
    // GIVEN pipelines from one outbox to every kind of sink
    let (mut fleet, receiver) = with_a_receiver().await?;
    let kafka = MockKafka::start(&[Topic::new("topic", 4)])?;
    fleet.add_file_pipeline("file", "events").await?;
    fleet
        .add_webhook_pipeline("single", "events", &receiver, json!({}))
        .await?;
    let batch = json!({"batch": true, "batch_size": 25});
    fleet
        .add_webhook_pipeline("batch", "events", &receiver, batch)
        .await?;
    fleet.add_kafka_pipeline("topic", "events", &kafka).await?;
    fleet.wait_until_running().await?;
    // WHEN messages are published in every shape: keyless, bulk, rolled back, savepoints, long
    // open, prepared, ...
    fleet.publish().await?;
    fleet.publish_more(500).await?;
    // THEN
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn an_envelope_has_exactly_its_seven_members() -> Result<()> {
    // GIVEN a message in which everything needs quoting
    let (mut fleet, receiver) = with_a_receiver().await?;
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({}))
        .await?;
    let payload = json!({"text": "\"quoted\" \\ \u{1F30A} \u{0007} </script>", "deep": [[], {"}": "{"}], "n": 1.50, "no": null});
    let headers =
        json!({"source": "shop \"1\"", "deep": {"a": [1, {"b": "}"}]}, "tide-epoch": "99999"});
    let message = NewMessage {
        outbox: "events".to_owned(),
        payload: payload.clone(),
        headers,
        key: Some("k\"\\\u{e9}\n1".to_owned()),
        event_id: None,
    };
    let event_id = outbox_publish(&mut *fleet.connection().await?, &message).await?;
    // WHEN it is delivered
    receiver.wait_for_deliveries("/hook", 1, SOON).await?;
    // THEN nothing is missing, added or changed
    let request = receiver.requests().remove(0);
    let body: Value = serde_json::from_slice(&request.body)?;
    let members: BTreeSet<&str> = body
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "event_id",
        "outbox",
        "id",
        "key",
        "headers",
        "payload",
        "created_at",
    ];
    assert_eq!(members, BTreeSet::from(expected));
    assert_eq!(body["event_id"], json!(event_id));
    assert_eq!(body["outbox"], "events");
    assert_eq!(body["id"], 1);
    assert_eq!(body["key"], "k\"\\\u{e9}\n1");
    assert_eq!(body["payload"], payload);
    let epoch = fleet.owners().await?["hook"].epoch.to_string();
    assert_eq!(
        body["headers"],
        json!({"source": "shop \"1\"", "deep": {"a": [1, {"b": "}"}]},
               "tide-group": "default", "tide-pipeline": "hook", "tide-epoch": epoch}),
        "headers that begin with tide- are Tide's own"
    );
    // The request repeats what receivers need without reading the body.
    assert_eq!(request.headers["webhook-id"], event_id.to_string());
    assert_eq!(request.headers["tide-epoch"], epoch);
    assert_eq!(request.headers["content-type"], "application/json");
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_stays_open_delays_nobody_and_is_delivered_when_it_commits() -> Result<()>
{
    // GIVEN a running pipeline and an open transaction with messages
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    fleet.wait_until_running().await?;
    let mut open = fleet.pool().acquire().await?;
    execute(&mut open, "BEGIN").await?;
    for _ in 0..5 {
        publish(&mut open, &fleet.drafts.draw("events", "late")).await?;
    }
    // WHEN others commit after it began
    publish_of_key(&mut fleet, "early", 30).await?;
    // THEN theirs arrive while it is open, and its own once it commits, in order
    fleet.wait_for_deliveries("file", 30).await?;
    execute(&mut open, "COMMIT").await?;
    fleet.wait_for_deliveries("file", 35).await?;
    publish_of_key(&mut fleet, "late", 5).await?;
    drop(open);
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_bulk_transaction_that_commits_late_pages_through() -> Result<()> {
    // GIVEN a pipeline with small batches, and an open transaction of fifty times that size
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    fleet.reconfigure("file", json!({"batch_size": 10})).await?;
    fleet.wait_until_running().await?;
    let mut bulk = fleet.pool().acquire().await?;
    execute(&mut bulk, "BEGIN").await?;
    for number in 0..500 {
        let entry = fleet.drafts.draw("events", &format!("bulk-{}", number % 3));
        publish(&mut bulk, &entry).await?;
    }
    publish_of_key(&mut fleet, "other", 25).await?;
    fleet.wait_for_deliveries("file", 25).await?;
    // WHEN it commits, and its keys go on at once
    execute(&mut bulk, "COMMIT").await?;
    for _ in 0..20 {
        publish_of_key(&mut fleet, "bulk-1", 1).await?;
        publish_of_key(&mut fleet, "bulk-2", 1).await?;
    }
    // THEN
    drop(bulk);
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_late_bulk_transaction_goes_on_in_the_middle() -> Result<()> {
    // GIVEN a late bulk transaction that is being paged through, slowly
    let (mut fleet, receiver) = with_a_receiver().await?;
    let batch = json!({"batch": true, "batch_size": 10});
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, batch)
        .await?;
    fleet.wait_until_running().await?;
    let mut bulk = fleet.pool().acquire().await?;
    execute(&mut bulk, "BEGIN").await?;
    for _ in 0..300 {
        publish(&mut bulk, &fleet.drafts.draw("events", "bulk")).await?;
    }
    publish_of_key(&mut fleet, "other", 1).await?;
    receiver.wait_for_deliveries("/hook", 1, SOON).await?;
    receiver.by_default(
        "/hook",
        Behaviour::Delay(std::time::Duration::from_millis(20)),
    );
    execute(&mut bulk, "COMMIT").await?;
    drop(bulk);
    fleet
        .wait_for_sql(
            "a stored position in the middle of the pass",
            "SELECT coalesce(pass_position, 0) >= 50 FROM tide.relay_consumer_offsets",
        )
        .await?;
    // WHEN the agent dies there
    fleet.crash("relay-1").await?;
    fleet.start_agent("relay-2").await?;
    // THEN its successor repeats a batch or two, not the whole transaction
    let accounts = fleet.settle_and_check().await?;
    proof::clean(&accounts)?;
    ensure!(accounts.totals().duplicates_total() <= 30, "{accounts}");
    Ok(())
}

#[tokio::test]
async fn a_prepared_transaction_is_delivered_when_it_is_committed() -> Result<()> {
    // GIVEN a prepared transaction, and a PostgreSQL that restarts meanwhile
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    fleet.wait_until_running().await?;
    let mut session = fleet.pool().acquire().await?;
    execute(&mut session, "BEGIN").await?;
    for _ in 0..3 {
        publish(&mut session, &fleet.drafts.draw("events", "prepared")).await?;
    }
    execute(&mut session, "PREPARE TRANSACTION 'orders'").await?;
    drop(session);
    publish_of_key(&mut fleet, "other", 5).await?;
    fleet.wait_for_deliveries("file", 5).await?;
    fleet
        .restart_postgres(tide_sandbox::postgres::Mode::Fast)
        .await?;
    publish_of_key(&mut fleet, "other", 5).await?;
    fleet.wait_for_deliveries("file", 10).await?;
    // WHEN it is committed
    execute(&mut *fleet.connection().await?, "COMMIT PREPARED 'orders'").await?;
    // THEN
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_torn_last_line_is_repaired_at_takeover() -> Result<()> {
    // GIVEN a file whose writer died in the middle of a line
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    publish_of_key(&mut fleet, "k", 10).await?;
    fleet.wait_for_deliveries("file", 10).await?;
    fleet.crash("relay-1").await?;
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(fleet.file("file"))?;
    file.write_all(br#"{"event_id":"6c1f7c0a-4f5c-4b59"#)?;
    drop(file);
    publish_of_key(&mut fleet, "k", 10).await?;
    // WHEN another takes over
    fleet.start_agent("relay-2").await?;
    // THEN every line is whole
    fleet
        .agent("relay-2")
        .log("removed a torn last line")
        .await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_rejected_message_becomes_a_dead_letter_and_the_rest_goes_on() -> Result<()> {
    // GIVEN a receiver that refuses the second of three messages
    let (mut fleet, receiver) = with_a_receiver().await?;
    receiver.script("/hook", [Behaviour::Respond(200), Behaviour::Respond(400)]);
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({}))
        .await?;
    fleet.wait_until_running().await?;
    // WHEN they are published
    let published = publish_of_key(&mut fleet, "k", 3).await?;
    receiver.wait_for_deliveries("/hook", 2, SOON).await?;
    // THEN it is put aside, whole, with the reason, and the others are delivered
    let refused = &published[1];
    let letter = sqlx::query(
        "SELECT pipeline, outbox, message_id, event_id, key, headers, payload, error, attempts, epoch
         FROM tide.relay_dlq",
    )
    .fetch_one(fleet.pool())
    .await?;
    assert_eq!(letter.get::<String, _>("pipeline"), "hook");
    assert_eq!(letter.get::<String, _>("outbox"), "events");
    assert_eq!(letter.get::<i64, _>("message_id"), 2);
    assert_eq!(letter.get::<uuid::Uuid, _>("event_id"), refused.event_id);
    assert_eq!(letter.get::<String, _>("key"), "k");
    assert_eq!(
        letter.get::<Value, _>("headers"),
        json!({"source": "by hand"})
    );
    assert_eq!(letter.get::<Value, _>("payload"), json!({"sequence": 1}));
    assert_eq!(letter.get::<i32, _>("attempts"), 1);
    assert_eq!(
        letter.get::<i64, _>("epoch"),
        fleet.owners().await?["hook"].epoch
    );
    let error: String = letter.get("error");
    assert!(error.contains("HTTP 400"), "{error}");
    fleet.drafts.forget(refused.event_id);
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn of_a_rejected_batch_only_the_culprit_is_put_aside() -> Result<()> {
    // GIVEN a receiver that refuses a batch, and of its messages, asked about each, the second
    let (mut fleet, receiver) = with_a_receiver().await?;
    let batch = json!({"batch": true});
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, batch)
        .await?;
    fleet.wait_until_running().await?;
    let answers = [422, 200, 422, 200].map(Behaviour::Respond);
    receiver.script("/hook", answers);
    // WHEN the batch is published
    let mut transaction = fleet.pool().begin().await?;
    let entries: Vec<Entry> = (0..3).map(|_| fleet.drafts.draw("events", "k")).collect();
    for entry in &entries {
        publish(&mut transaction, entry).await?;
    }
    transaction.commit().await?;
    // THEN
    receiver.wait_for_deliveries("/hook", 2, SOON).await?;
    fleet.drafts.forget(entries[1].event_id);
    let accounts = fleet.settle_and_check().await?;
    let aside: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT event_id FROM tide.relay_dlq")
        .fetch_all(fleet.pool())
        .await?;
    assert_eq!(aside, [entries[1].event_id]);
    proof::exactly_once(&accounts)
}

#[tokio::test]
async fn a_refusal_for_now_is_tried_again_and_keeps_the_order() -> Result<()> {
    // GIVEN a receiver that is not available at first
    let (mut fleet, receiver) = with_a_receiver().await?;
    receiver.by_default("/hook", Behaviour::Respond(503));
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({}))
        .await?;
    publish_of_key(&mut fleet, "k", 20).await?;
    // WHEN it says so, the pipeline says so too
    let row = fleet
        .wait_for_state("hook", PipelineState::Retrying)
        .await?;
    let reason = row.state_reason.unwrap_or_default();
    ensure!(reason.contains("HTTP 503"), "{reason}");
    // THEN everything arrives once it is back, and the reason is gone
    receiver.by_default("/hook", Behaviour::Respond(200));
    let row = fleet.wait_for_state("hook", PipelineState::Running).await?;
    ensure!(row.state_reason.is_none(), "{row:?}");
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_receiver_that_asks_for_patience_gets_it() -> Result<()> {
    // GIVEN a receiver that asks to be left alone for a second
    let (mut fleet, receiver) = with_a_receiver().await?;
    let patience = Behaviour::RetryAfter {
        status: 429,
        seconds: 1,
    };
    receiver.script("/hook", [patience]);
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({}))
        .await?;
    // WHEN a message is published THEN the second request comes no earlier
    publish_of_key(&mut fleet, "k", 1).await?;
    receiver.wait_for_deliveries("/hook", 1, SOON).await?;
    let requests = receiver.requests();
    ensure!(requests.len() == 2, "{requests:?}");
    let waited = requests[1].at - requests[0].at;
    ensure!(waited >= time::Duration::seconds(1), "{waited}");
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_lost_answer_costs_a_repetition_in_order() -> Result<()> {
    // GIVEN a receiver that accepts twice without saying so
    let (mut fleet, receiver) = with_a_receiver().await?;
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({}))
        .await?;
    fleet.wait_until_running().await?;
    receiver.script(
        "/hook",
        [Behaviour::FailAfterAccept, Behaviour::FailAfterAccept],
    );
    fleet.excuse(Cause::Retry, ["hook"]);
    // WHEN messages are published
    publish_of_key(&mut fleet, "k", 10).await?;
    // THEN these two come again, under the same event id, and nothing else does
    let accounts = fleet.settle_and_check().await?;
    proof::clean(&accounts)?;
    ensure!(accounts.totals().duplicates_total() == 2, "{accounts}");
    Ok(())
}

#[tokio::test]
async fn a_broker_that_goes_away_and_comes_back_gets_everything() -> Result<()> {
    // GIVEN a pipeline to a topic
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let kafka = MockKafka::start(&[Topic::new("topic", 2)])?;
    fleet.add_kafka_pipeline("topic", "events", &kafka).await?;
    fleet
        .reconfigure("topic", json!({"timeout_ms": 1000}))
        .await?;
    publish_of_key(&mut fleet, "k", 10).await?;
    fleet.wait_for_deliveries("topic", 10).await?;
    // WHEN its broker is down for a while
    fleet.excuse(Cause::Retry, ["topic"]);
    kafka.down()?;
    publish_of_key(&mut fleet, "k", 10).await?;
    fleet
        .wait_for_state("topic", PipelineState::Retrying)
        .await?;
    kafka.up()?;
    // THEN
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_message_larger_than_a_batch_goes_alone() -> Result<()> {
    // GIVEN batches of at most 2,000 bytes
    let (mut fleet, receiver) = with_a_receiver().await?;
    let limits = json!({"batch": true, "batch_bytes": 2000});
    receiver.by_default("/hook", Behaviour::Respond(503));
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, limits)
        .await?;
    // WHEN small messages surround one of 100,000
    let mut transaction = fleet.pool().begin().await?;
    for size in [10, 10, 100_000, 10, 10] {
        let message = NewMessage {
            outbox: "events".to_owned(),
            payload: json!("x".repeat(size)),
            headers: json!({}),
            key: None,
            event_id: None,
        };
        outbox_publish(&mut transaction, &message).await?;
    }
    transaction.commit().await?;
    receiver.by_default("/hook", Behaviour::Respond(200));
    // THEN all arrive, in order, and no batch has a message after it was full
    receiver.wait_for_deliveries("/hook", 5, SOON).await?;
    let ids: Vec<i64> = receiver
        .deliveries("/hook")
        .iter()
        .map(|delivery| delivery.envelope.id)
        .collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    for request in receiver.requests() {
        let envelopes = request.envelopes.unwrap();
        let before_last = envelopes.split_last().map_or(&[][..], |(_, rest)| rest);
        let large = before_last.iter().any(|one| one.id == 3);
        ensure!(!large, "something followed the large message in its batch");
    }
    Ok(())
}

#[tokio::test]
async fn a_pipeline_may_begin_at_the_end() -> Result<()> {
    // GIVEN an outbox with history
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    fleet.add_file_pipeline("all", "events").await?;
    let history = publish_of_key(&mut fleet, "k", 10).await?;
    fleet.wait_for_deliveries("all", 10).await?;
    // WHEN a pipeline is added that starts with what comes next
    let path = fleet.file("latest");
    let config = json!({"sink_type": "file", "path": path, "start": "latest"});
    let tap = Tap::File(tide_sandbox::files::FileReader::new(path));
    fleet.add("latest", "events", config, tap).await?;
    fleet.wait_until_running().await?;
    publish_of_key(&mut fleet, "k", 10).await?;
    // THEN it has that, and nothing of before
    fleet.wait_for_deliveries("latest", 10).await?;
    fleet.disregard("all");
    for entry in history {
        fleet.drafts.forget(entry.event_id);
    }
    proof::exactly_once(&fleet.settle_and_check().await?)
}
