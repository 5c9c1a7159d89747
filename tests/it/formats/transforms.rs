//! Transforms at two sinks that tell positions differently: a webhook, whose positions the agent
//! stores, and an inbox of the outbox's own database, which stores them with the messages.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tide_sandbox::http::{Behaviour, Receiver};
use tide_tests::{Fleet, FleetOptions, SOON, scrape};

const PIPELINES: [&str; 2] = ["hook", "inbox"];
/// More decimals than any number type of ours has.
const PRICE: &str = "1.10000000000000000000000000000000000001";
const FILTERED: &str = "pg_tide_relay_messages_filtered_total";

/// Publishes a message for each number; every tenth does not say which it is.
async fn publish(fleet: &Fleet, from: i64, to: i64) -> Result<()> {
    let sql = format!(
        "SELECT tide.outbox_publish('events',
             CASE WHEN g % 10 = 0 THEN '{{}}'::jsonb ELSE jsonb_build_object('n', g) END
                 || '{{\"price\": {PRICE}, \"secret\": \"s\"}}', '{{}}', 'k' || g % 3)
         FROM generate_series({from}, {to}) g"
    );
    sqlx::query(AssertSqlSafe(sql))
        .execute(fleet.pool())
        .await?;
    Ok(())
}

async fn wait_for_positions(fleet: &Fleet, id: i64) -> Result<()> {
    let sql = format!(
        "SELECT count(*) = 2 AND bool_and(last_change_id >= {id}) FROM tide.relay_consumer_offsets"
    );
    let what = format!("both to be through with {id}");
    fleet.wait_for_sql(&what, &sql).await
}

/// What the agent has filtered out of each pipeline.
async fn filtered(fleet: &mut Fleet, agent: &str) -> Result<Vec<f64>> {
    let metrics = fleet.agent(agent).get("/metrics").await?.body;
    let samples = scrape::samples(&metrics, FILTERED, "pipeline")?;
    PIPELINES
        .iter()
        .map(|pipeline| {
            let sample = samples.get(*pipeline).copied();
            sample.with_context(|| format!("no {FILTERED} of {pipeline}"))
        })
        .collect()
}

/// Payloads that the webhook has accepted, as they are written in the envelopes, in their order.
fn accepted(receiver: &Receiver) -> Vec<String> {
    receiver.inspect(|requests| {
        requests
            .iter()
            .filter(|request| request.is_accepted())
            .map(|request| {
                let body = String::from_utf8_lossy(&request.body).into_owned();
                let payload = body.split("\"payload\":").nth(1).unwrap_or_default();
                let payload = payload.split(",\"created_at\":").next();
                payload.unwrap_or_default().to_owned()
            })
            .collect()
    })
}

async fn letters(fleet: &Fleet, pipeline: &str) -> Result<Vec<(i64, String, String)>> {
    let sql = "SELECT message_id, payload::text, error FROM tide.relay_dlq WHERE pipeline = $1 ORDER BY message_id";
    Ok(sqlx::query_as(sql)
        .bind(pipeline)
        .fetch_all(fleet.pool())
        .await?)
}

/// GIVEN two pipelines that keep every other message, change it, and fail on every tenth WHEN their
/// agent is killed in the middle and another takes over THEN what is kept arrives in its order as
/// it was made, nothing else does, what failed is put aside as it was published, and positions pass
/// what is filtered out, which is counted.
#[tokio::test]
async fn what_is_kept_arrives_as_it_was_made_and_nothing_else_over_a_crash() -> Result<()> {
    // GIVEN
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    let transforms = json!([
        {"filter": "payload.n % 2 == 0"},
        {"drop": ["payload.secret"]},
        {"set": {"payload.copy": "payload.price", "headers.parity": "'even'"}},
    ]);
    let both = json!({"batch_size": 20, "transforms": transforms});
    let url = fleet.url();
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, both.clone())
        .await?;
    fleet
        .add_inbox_pipeline("inbox", "events", &url, both)
        .await?;
    fleet.wait_until_running().await?;
    // WHEN
    receiver.script("/hook", [Behaviour::Respond(200); 13]);
    receiver.by_default("/hook", Behaviour::Hang);
    publish(&fleet, 1, 60).await?;
    receiver
        .wait_until(SOON, "the one that hangs", |requests| requests.len() == 14)
        .await?;
    fleet.crash("relay-1").await?;
    receiver.by_default("/hook", Behaviour::Respond(200));
    fleet.start_agent("relay-2").await?;
    // THEN
    wait_for_positions(&fleet, 60).await?;
    let kept: Vec<i64> = (1..=60).filter(|n| n % 2 == 0 && n % 10 != 0).collect();
    let expected: Vec<String> = kept
        .iter()
        .map(|n| format!(r#"{{"n": {n}, "price": {PRICE}, "copy": {PRICE}}}"#))
        .collect();
    let mut seen = BTreeSet::new();
    let payloads = accepted(&receiver);
    let firsts: Vec<&String> = payloads
        .iter()
        .filter(|payload| seen.insert(*payload))
        .collect();
    ensure!(firsts.iter().copied().eq(&expected), "{payloads:#?}");
    let stored: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT payload->>'n', payload::text, headers->>'parity' FROM tide.inbox_inbox ORDER BY (payload->>'n')::int",
    )
    .fetch_all(fleet.pool())
    .await?;
    let in_inbox: Vec<(String, String, String)> = kept
        .iter()
        .map(|n| {
            let payload = format!(r#"{{"n": {n}, "copy": {PRICE}, "price": {PRICE}}}"#);
            (n.to_string(), payload, "even".to_owned())
        })
        .collect();
    ensure!(stored == in_inbox, "{stored:#?}");
    for pipeline in PIPELINES {
        let letters = letters(&fleet, pipeline).await?;
        let ids: Vec<i64> = letters.iter().map(|(id, ..)| *id).collect();
        ensure!(ids == [10, 20, 30, 40, 50, 60], "{pipeline}: {letters:#?}");
        for (_, payload, error) in &letters {
            ensure!(
                *payload == format!(r#"{{"price": {PRICE}, "secret": "s"}}"#),
                "{payload}"
            );
            ensure!(
                error.contains("transforms[0].filter: n is missing"),
                "{error}"
            );
        }
    }
    // Positions pass a batch of which nothing is for the sink, and each message counts once.
    let before = filtered(&mut fleet, "relay-2").await?;
    let so_many = accepted(&receiver).len();
    for odd in [61, 63, 65] {
        publish(&fleet, odd, odd).await?;
    }
    wait_for_positions(&fleet, 63).await?;
    let after = filtered(&mut fleet, "relay-2").await?;
    let more: Vec<f64> = after
        .iter()
        .zip(&before)
        .map(|(after, before)| after - before)
        .collect();
    ensure!(more == [3.0, 3.0], "{before:?} {after:?}");
    ensure!(accepted(&receiver).len() == so_many);
    Ok(())
}
