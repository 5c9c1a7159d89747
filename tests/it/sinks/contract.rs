//! The facts, stated once for every sink.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tide_catalog::outboxes::{NewMessage, outbox_publish};
use tide_model::PipelineState;
use tide_sandbox::{
    envelope::Delivery,
    history::{self, Accounts, Cause, Disturbance, Reach, Stream},
    publisher::Entry,
    wait::eventually,
};
use tide_tests::{Fleet, FleetOptions, SOON, by_hand::publish, fleet::Tap, proof};
use time::OffsetDateTime;

use super::bench::Bench;

/// What the first agent of a fleet is called.
const FIRST: &str = "relay-1";

async fn with_agents(agents: usize) -> Result<Fleet> {
    Fleet::start(FleetOptions::agents(agents)).await
}

/// A pipeline to a place of its name, in small batches.
async fn add<B: Bench>(fleet: &mut Fleet, bench: &B, place: &str, more: Value) -> Result<()> {
    let mut config = bench.config(place);
    let settings = config.as_object_mut().context("settings are an object")?;
    settings.insert("sink_type".to_owned(), B::KIND.into());
    settings.insert("batch_size".to_owned(), 50.into());
    settings.extend(more.as_object().cloned().unwrap_or_default());
    fleet.add(place, "events", config, Tap::Nothing).await
}

/// Publishes so many messages over so many keys, each in a transaction of its own.
async fn publish_over(fleet: &mut Fleet, count: usize, keys: usize) -> Result<()> {
    let mut connection = fleet.connection().await?;
    for number in 0..count {
        let entry = fleet
            .drafts
            .draw("events", &format!("key-{}", number % keys));
        publish(&mut connection, &entry).await?;
    }
    Ok(())
}

/// Judges what a place has so far.
async fn judge<B: Bench>(
    bench: &mut B,
    place: &str,
    published: &[Entry],
    disturbances: &[Disturbance],
) -> Result<Accounts> {
    let stream = Stream::new(place, "events", bench.deliveries(place).await?);
    Ok(history::check(published, &[stream], disturbances))
}

/// Waits until a place has everything, and judges.
async fn settle<B: Bench>(
    fleet: &mut Fleet,
    bench: &mut B,
    place: &str,
    disturbed: Option<Cause>,
) -> Result<Accounts> {
    let published = fleet.settle_load().await?;
    fleet
        .wait_until(&format!("everything to be in {place}"), |view| {
            view.pipelines.iter().any(|row| {
                row.name.as_str() == place
                    && row.lag_rows == 0
                    && row.state == Some(PipelineState::Running)
            })
        })
        .await?;
    // In good order, so that nothing can come after.
    fleet.stop_agents().await?;
    let disturbances: Vec<_> = disturbed
        .map(|cause| {
            let (from, until) = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::now_utc());
            Disturbance::new(cause, Reach::All, from, until)
        })
        .into_iter()
        .collect();
    // Whoever reads back may be a little behind.
    let accounts = eventually(
        SOON,
        format!("everything to be read from {place}"),
        async || {
            let accounts = judge(bench, place, &published, &disturbances).await?;
            if accounts.totals().lost == 0 {
                return Ok(Some(accounts));
            }
            Err(anyhow::anyhow!("{accounts}"))
        },
    );
    Ok(accounts.await?)
}

/// Of every key in order and exactly once, under concurrent writers in every transaction shape.
pub(super) async fn keeps_the_order_of_every_key<B: Bench>(bench: &mut B) -> Result<()> {
    // GIVEN a pipeline
    let mut fleet = with_agents(1).await?;
    bench.create("ordered").await?;
    add(&mut fleet, bench, "ordered", json!({})).await?;
    fleet.wait_until_running().await?;
    // WHEN messages are published in every shape
    fleet.publish().await?;
    fleet.publish_more(300).await?;
    // THEN
    proof::exactly_once(&settle(&mut fleet, bench, "ordered", None).await?)
}

/// An agent dies with messages on the wire: its successor repeats some, under the same ids.
pub(super) async fn repeats_ids_after_a_crash<B: Bench>(bench: &mut B) -> Result<()> {
    // GIVEN a pipeline under load
    let mut fleet = with_agents(1).await?;
    bench.create("crashed").await?;
    add(&mut fleet, bench, "crashed", json!({})).await?;
    fleet.publish().await?;
    fleet.publish_more(100).await?;
    // WHEN its owner dies, and what it had stored of its position is taken back, as if it had died
    // a little earlier
    fleet.crash(FIRST).await?;
    let delivered = bench.deliveries("crashed").await?.len();
    ensure!(delivered > 0, "nothing was delivered before the crash");
    take_back_the_position(&fleet).await?;
    fleet.start_agent("relay-2").await?;
    fleet.publish_more(100).await?;
    // THEN nothing is lost, and what came again came under the id that it had
    let accounts = settle(&mut fleet, bench, "crashed", Some(Cause::Crash)).await?;
    if B::KNOWS_DUPLICATES {
        return proof::exactly_once(&accounts);
    }
    proof::clean(&accounts)?;
    let again = accounts.totals().duplicates_total();
    ensure!(
        again >= delivered,
        "{again} of {delivered} came again: {accounts}"
    );
    Ok(())
}

/// A message that the sink will never take is put aside with the reason, and the others arrive.
pub(super) async fn puts_aside_what_is_refused<B: Bench>(bench: &mut B) -> Result<()> {
    const LIMIT: usize = 1_100_000;
    const CULPRIT: usize = 100;
    // GIVEN a page with a message in the middle that the sink refuses
    let mut fleet = with_agents(0).await?;
    let word = bench.refuse_larger("refusing", LIMIT, CULPRIT).await?;
    let one_page = json!({"batch_size": 200});
    add(&mut fleet, bench, "refusing", one_page).await?;
    let mut transaction = fleet.pool().begin().await?;
    let mut published = Vec::new();
    for number in 0..CULPRIT + 20 {
        let size = if number == CULPRIT {
            LIMIT + 100_000
        } else {
            10
        };
        let message = NewMessage {
            outbox: "events".to_owned(),
            // Not compressible, in case that somebody compresses.
            payload: json!({"n": number, "text": noise(size)}),
            headers: json!({}),
            // On the wire together, where a sink sends several keys at once.
            key: Some(format!("key-{number}")),
            event_id: None,
        };
        published.push(outbox_publish(&mut transaction, &message).await?);
    }
    transaction.commit().await?;
    // WHEN it is delivered
    fleet.start_agent(FIRST).await?;
    until_delivered(&fleet, published.len()).await?;
    // THEN that one is put aside, with the reason, and all others are there
    let aside: Vec<(uuid::Uuid, String)> =
        sqlx::query_as("SELECT event_id, error FROM tide.relay_dlq ORDER BY message_id")
            .fetch_all(fleet.pool())
            .await?;
    let culprit = published.remove(CULPRIT);
    ensure!(aside.len() == 1 && aside[0].0 == culprit, "{aside:?}");
    ensure!(
        aside[0].1.contains(word),
        "{word:?} is not in {:?}",
        aside[0].1
    );
    let arrived = bench.deliveries("refusing").await?;
    let arrived: BTreeSet<_> = arrived.iter().map(|one| one.envelope.event_id).collect();
    assert_eq!(arrived, published.into_iter().collect());
    Ok(())
}

/// The server goes away in the middle of everything and comes back.
pub(super) async fn loses_nothing_to_a_restart<B: Bench>(bench: &mut B) -> Result<()> {
    // GIVEN a pipeline under load
    let mut fleet = with_agents(1).await?;
    bench.create("restarted").await?;
    let patience = json!({"timeout_ms": 2_000});
    add(&mut fleet, bench, "restarted", patience).await?;
    fleet.wait_until_running().await?;
    fleet
        .publish_as(|mut plan| {
            plan.rate = Some(1_000.0);
            plan
        })
        .await?;
    fleet.publish_more(100).await?;
    // WHEN
    bench.restart().await?;
    fleet.publish_more(100).await?;
    // THEN
    let accounts = settle(&mut fleet, bench, "restarted", Some(Cause::Retry)).await?;
    if B::KNOWS_DUPLICATES {
        return proof::exactly_once(&accounts);
    }
    proof::clean(&accounts)
}

/// A sink that answers nothing keeps no agent from stopping.
pub(super) async fn stops_in_time_though_the_sink_is_frozen<B: Bench>(bench: &mut B) -> Result<()> {
    // GIVEN a pipeline whose sink is frozen with a batch on the wire
    let mut fleet = with_agents(1).await?;
    bench.create("frozen").await?;
    add(&mut fleet, bench, "frozen", json!({"timeout_ms": 1_000})).await?;
    publish_over(&mut fleet, 20, 4).await?;
    until_delivered(&fleet, 20).await?;
    bench.freeze().await?;
    publish_over(&mut fleet, 20, 4).await?;
    let row = fleet
        .wait_for_state("frozen", PipelineState::Retrying)
        .await?;
    let reason = row.state_reason.unwrap_or_default();
    ensure!(!reason.is_empty(), "it does not say why");
    // WHEN its agent is asked to stop THEN it does, in good order
    let shutdown = Duration::from_secs(20);
    let asked = tokio::time::Instant::now();
    fleet.agent(FIRST).stop().await?;
    ensure!(asked.elapsed() < shutdown, "it was forced");
    // and whoever comes next delivers everything
    bench.thaw().await?;
    fleet.start_agent("relay-2").await?;
    proof::clean(&settle(&mut fleet, bench, "frozen", Some(Cause::Retry)).await?)
}

/// What is missing is said, and when it is there all goes on by itself.
pub(super) async fn names_what_is_missing_and_heals<B: Bench>(bench: &mut B) -> Result<()> {
    // GIVEN a place that cannot be delivered to
    let mut fleet = with_agents(1).await?;
    let word = bench.spoil("missing").await?;
    add(&mut fleet, bench, "missing", json!({})).await?;
    publish_over(&mut fleet, 20, 4).await?;
    // THEN the pipeline says what is missing
    let row = fleet
        .wait_for_state("missing", PipelineState::Misconfigured)
        .await?;
    let reason = row.state_reason.unwrap_or_default();
    ensure!(reason.contains(word), "{word:?} is not in {reason:?}");
    // WHEN it is there THEN everything arrives
    bench.create("missing").await?;
    proof::exactly_once(&settle(&mut fleet, bench, "missing", None).await?)
}

/// A pipeline that cannot log in says so, and nobody reads the password anywhere.
pub(super) async fn says_that_it_cannot_log_in<B: Bench>(
    bench: &mut B,
    login: Value,
    secret: &str,
    word: &str,
) -> Result<()> {
    // GIVEN credentials that are wrong
    let mut fleet = with_agents(1).await?;
    add(&mut fleet, bench, "denied", login).await?;
    publish_over(&mut fleet, 1, 1).await?;
    // THEN
    let row = fleet
        .wait_for_state("denied", PipelineState::Misconfigured)
        .await?;
    let reason = row.state_reason.unwrap_or_default();
    ensure!(reason.contains(word), "{word:?} is not in {reason:?}");
    ensure!(!reason.contains(secret), "the reason holds the password");
    let log = fleet.agents_log(FIRST);
    ensure!(!log.contains(secret), "the log holds the password:\n{log}");
    Ok(())
}

/// With the right credentials everything arrives.
pub(super) async fn logs_in<B: Bench>(bench: &mut B, login: Value) -> Result<()> {
    let mut fleet = with_agents(1).await?;
    add(&mut fleet, bench, "denied", login).await?;
    publish_over(&mut fleet, 5, 2).await?;
    proof::exactly_once(&settle(&mut fleet, bench, "denied", None).await?)
}

/// Nothing goes to a server whose certificate nobody vouches for, and everything once somebody does.
pub(super) async fn delivers_only_to_whom_it_trusts<B: Bench>(
    bench: &mut B,
    url: &str,
    certificate: &str,
) -> Result<()> {
    // GIVEN an agent that knows nothing of the certificate
    let mut fleet = with_agents(1).await?;
    bench.create("sealed").await?;
    add(&mut fleet, bench, "sealed", json!({"url": url})).await?;
    publish_over(&mut fleet, 5, 2).await?;
    // THEN it does not deliver
    let row = fleet
        .wait_for_state("sealed", PipelineState::Misconfigured)
        .await?;
    let reason = row.state_reason.unwrap_or_default();
    ensure!(reason.contains("SSL_CERT_FILE"), "{reason}");
    fleet.stop_agents().await?;
    // GIVEN one that trusts it THEN everything arrives
    let mut spec = fleet.spec("relay-2");
    let trusted = ("SSL_CERT_FILE".to_owned(), certificate.to_owned());
    spec.env.push(trusted);
    fleet.start_as(spec).await?;
    proof::exactly_once(&settle(&mut fleet, bench, "sealed", None).await?)
}

/// Two pipelines, `first` and `second`, deliver ten messages each to the same place.
pub(super) async fn two_pipelines_into_one_place<B: Bench>(
    bench: &mut B,
    place: &str,
) -> Result<Vec<Delivery>> {
    let mut fleet = with_agents(1).await?;
    for name in ["first", "second"] {
        let mut config = bench.config(place);
        config["sink_type"] = B::KIND.into();
        fleet.add(name, "events", config, Tap::Nothing).await?;
    }
    publish_over(&mut fleet, 10, 2).await?;
    until_delivered(&fleet, 10).await?;
    bench.deliveries(place).await
}

/// Ten messages are delivered, `between` happens, and they are delivered again: what is there then.
pub(super) async fn delivers_again_after<B: Bench>(
    bench: &mut B,
    more: Value,
    between: impl AsyncFnOnce(&mut B, &str) -> Result<()>,
) -> Result<Vec<Delivery>> {
    const PLACE: &str = "again";
    bench.create(PLACE).await?;
    let mut fleet = with_agents(1).await?;
    add(&mut fleet, bench, PLACE, more).await?;
    publish_over(&mut fleet, 10, 2).await?;
    until_delivered(&fleet, 10).await?;
    fleet.stop_agents().await?;
    between(bench, PLACE).await?;
    take_back_the_position(&fleet).await?;
    fleet.start_agent("relay-2").await?;
    until_delivered(&fleet, 10).await?;
    let arrived = bench.deliveries(PLACE).await?;
    ensure!(!arrived.is_empty(), "nothing was delivered again");
    Ok(arrived)
}

/// What is left in a place of many messages.
pub(super) async fn last_of_many<B: Bench>(
    bench: &mut B,
    more: Value,
    count: usize,
) -> Result<Vec<Delivery>> {
    let mut fleet = with_agents(1).await?;
    add(&mut fleet, bench, "short", more).await?;
    publish_over(&mut fleet, count, 7).await?;
    until_delivered(&fleet, count).await?;
    bench.deliveries("short").await
}

/// A pipeline that lacks one thing after the other: `step` provides the next and says what is
/// missing then, or nothing when all is there.
pub(super) async fn heals_step_by_step<B: Bench>(
    mut config: Value,
    more: Value,
    step: impl AsyncFn(usize) -> Result<&'static str>,
) -> Result<()> {
    let mut fleet = with_agents(1).await?;
    config["sink_type"] = B::KIND.into();
    fleet.add("steps", "events", config, Tap::Nothing).await?;
    fleet.reconfigure("steps", more).await?;
    publish_over(&mut fleet, 5, 2).await?;
    for number in 0.. {
        let word = step(number).await?;
        if word.is_empty() {
            return until_delivered(&fleet, 5).await;
        }
        fleet
            .wait_until(&format!("steps to say {word:?}"), |view| {
                view.pipelines.iter().any(|row| {
                    row.state == Some(PipelineState::Misconfigured)
                        && row
                            .state_reason
                            .as_deref()
                            .unwrap_or_default()
                            .contains(word)
                })
            })
            .await?;
    }
    Ok(())
}

/// Waits until every pipeline's position is at the message of this number.
async fn until_delivered(fleet: &Fleet, last: usize) -> Result<()> {
    let behind = format!(
        "SELECT bool_and(coalesce(o.last_change_id, 0) >= {last})
         FROM tide.pipelines p LEFT JOIN tide.relay_consumer_offsets o ON o.pipeline = p.name"
    );
    fleet
        .wait_for_sql("everything to be delivered", &behind)
        .await
}

/// As if the owner had died before it stored anything.
async fn take_back_the_position(fleet: &Fleet) -> Result<()> {
    sqlx::query(
        "UPDATE tide.relay_consumer_offsets
         SET last_change_id = 0, snapshot = NULL, pass_snapshot = NULL, pass_position = NULL",
    )
    .execute(fleet.pool())
    .await?;
    Ok(())
}

/// Text of so many bytes without much of a pattern.
fn noise(size: usize) -> String {
    let mut state = 1_u32;
    let letters = (0..size).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + (state >> 24) as u8 % 26)
    });
    letters.collect()
}
