//! Strict order: a refused message parks its key, later ones follow it into the dead letters, and what
//! operators do about that keeps the order of the key, whoever owns the pipeline meanwhile.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tide_catalog::{
    messages::Message,
    offsets::offsets_claim,
    parking::{Parked, Refusal, letters_park},
};
use tide_model::{Incarnation, ParkingLimits, PipelineState};
use tide_sandbox::{
    http::{Behaviour, Receiver},
    wait::eventually,
};
use tide_tests::{
    Fleet, FleetOptions, SOON,
    by_hand::publish,
    catalog::{Catalog, execute},
    command::run,
    proof,
};
use time::OffsetDateTime;
use uuid::Uuid;

const STRICT: &str = "strict";
const NO_LETTERS: &str = "SELECT NOT EXISTS (SELECT FROM tide.relay_dlq)";

/// An inbox that refuses the keys that a table names.
const REFUSALS: &str = "
    CREATE TABLE public.refused (key text PRIMARY KEY);
    GRANT SELECT ON public.refused TO PUBLIC;
    CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM public.refused r WHERE r.key = NEW.key) THEN
            RAISE EXCEPTION 'no %s today', NEW.key USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON tide.inbox_strict FOR EACH ROW EXECUTE FUNCTION public.refuse();";

/// A strict pipeline to such an inbox.
async fn strict(options: FleetOptions, more: Value) -> Result<Fleet> {
    let mut fleet = Fleet::start(options).await?;
    let mut config = json!({"on_rejected": "park_key"});
    let settings = config.as_object_mut().context("an object")?;
    settings.extend(more.as_object().cloned().unwrap_or_default());
    let url = fleet.url();
    fleet
        .add_inbox_pipeline(STRICT, "events", &url, config)
        .await?;
    execute(&mut *fleet.connection().await?, REFUSALS).await?;
    fleet.wait_until_running().await?;
    Ok(fleet)
}

async fn refuse(fleet: &Fleet, keys: &[&str]) -> Result<()> {
    sqlx::query("INSERT INTO public.refused SELECT unnest($1::text[]) ON CONFLICT DO NOTHING")
        .bind(keys)
        .execute(fleet.pool())
        .await?;
    Ok(())
}

async fn accept(fleet: &Fleet) -> Result<()> {
    sqlx::query("DELETE FROM public.refused")
        .execute(fleet.pool())
        .await?;
    Ok(())
}

/// Publishes a message of each key, one after the other.
async fn publish_keys(fleet: &mut Fleet, keys: &[&str]) -> Result<()> {
    let mut connection = fleet.connection().await?;
    for key in keys {
        publish(&mut connection, &fleet.drafts.draw("events", key)).await?;
    }
    Ok(())
}

async fn letters_are(fleet: &Fleet, count: usize) -> Result<()> {
    let sql = format!("SELECT count(*) = {count} FROM tide.relay_dlq");
    fleet.wait_for_sql(&format!("{count} letters"), &sql).await
}

async fn arrived(fleet: &Fleet, count: usize) -> Result<Vec<i64>> {
    fleet.wait_for_deliveries(STRICT, count).await?;
    let arrived = fleet.deliveries(STRICT)?;
    Ok(arrived.iter().map(|one| one.envelope.id).collect())
}

async fn ended(fleet: &Fleet, words: &[&str]) -> Result<tide_tests::command::Finished> {
    let url = fleet.url();
    let words = [
        words,
        &["--source", "database", "--actor", "ana", "-o", "json"],
    ]
    .concat();
    run(
        "tidectl",
        &words,
        &[("TIDE_POSTGRES_URL", url.as_str())],
        SOON,
    )
    .await
}

async fn tidectl(fleet: &Fleet, words: &[&str]) -> Result<Value> {
    let ended = ended(fleet, words).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    Ok(serde_json::from_str(&ended.stdout)?)
}

#[tokio::test]
async fn a_refused_message_parks_its_key_until_all_of_it_is_delivered_in_order() -> Result<()> {
    // GIVEN a strict pipeline whose sink refuses one of two keys
    let mut fleet = strict(FleetOptions::agents(1), json!({})).await?;
    refuse(&fleet, &["a"]).await?;
    publish_keys(&mut fleet, &["a", "b", "a", "b", "a", "b"]).await?;
    // THEN that key waits, in order, and the other goes on
    letters_are(&fleet, 3).await?;
    ensure!(arrived(&fleet, 3).await? == [2, 4, 6]);
    let keys = tidectl(&fleet, &["dlq", "keys", "--pipeline", STRICT]).await?;
    let parked = &keys[0];
    ensure!(
        parked["key"] == "a" && parked["letters"] == 3 && parked["attempts"] == 1,
        "{keys}"
    );
    ensure!(
        parked["error"].to_string().contains("no as today"),
        "{keys}"
    );
    let letters = tidectl(&fleet, &["dlq", "list", "--key", "a"]).await?;
    ensure!(letters[1]["message_id"] == 3 && letters[1]["parked"] == true);
    ensure!(
        letters[1]["attempts"] == 0 && letters[1]["error"].to_string().contains("waits behind"),
        "{letters}"
    );
    // WHEN a later letter is to overtake an earlier one THEN that is refused, and says what to do
    let second = letters[1]["id"].to_string();
    let refused = ended(&fleet, &["dlq", "replay", "--id", &second]).await?;
    ensure!(
        refused.code != Some(0) && refused.stderr.contains("--pipeline strict --key 'a'"),
        "{refused:?}"
    );
    // WHEN all of it is replayed too early THEN the first is refused again and nothing overtakes it
    tidectl(&fleet, &["dlq", "replay", "--key", "a"]).await?;
    fleet
        .wait_for_sql(
            "the first to be refused again and the others to wait",
            "SELECT array_agg(attempts ORDER BY id) = '{2,0,0}' AND bool_and(replay IS NULL) FROM tide.relay_dlq",
        )
        .await?;
    let told = "SELECT count(*) = 1 FROM tide.events WHERE kind = 'dlq.replayed' AND detail ->> 'delivered' = '0'";
    fleet.wait_for_sql("the replay to be over", told).await?;
    // WHEN the sink takes it THEN everything comes in order, and the key is open
    accept(&fleet).await?;
    tidectl(&fleet, &["dlq", "replay", "--key", "a"]).await?;
    publish_keys(&mut fleet, &["a", "b"]).await?;
    fleet
        .wait_for_sql("no letter to be left", NO_LETTERS)
        .await?;
    publish_keys(&mut fleet, &["a"]).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)?;
    letters_are(&fleet, 0).await
}

#[tokio::test]
async fn messages_without_a_key_fail_alone_and_a_discard_opens_the_key() -> Result<()> {
    // GIVEN a sink that takes nothing without a key, and not this one
    let mut fleet = strict(FleetOptions::agents(1), json!({})).await?;
    refuse(&fleet, &["a"]).await?;
    let sql = "ALTER TABLE tide.inbox_strict ADD CONSTRAINT keyed CHECK (key IS NOT NULL)";
    execute(&mut *fleet.connection().await?, sql).await?;
    let mut connection = fleet.connection().await?;
    for _ in 0..2 {
        let keyless = fleet.drafts.draw_keyless("events");
        publish(&mut connection, &keyless).await?;
        fleet.drafts.forget(keyless.event_id);
    }
    publish_keys(&mut fleet, &["a", "b", "a"]).await?;
    letters_are(&fleet, 4).await?;
    let parked = "SELECT array_agg(parked ORDER BY id) = '{f,f,t,t}' FROM tide.relay_dlq";
    fleet.wait_for_sql("two to be parked", parked).await?;
    // WHEN what waits is discarded, and the sink takes the key again
    accept(&fleet).await?;
    let discarded = tidectl(&fleet, &["dlq", "discard", "--key", "a", "--yes"]).await?;
    ensure!(discarded == json!({"discarded": 2}), "{discarded}");
    publish_keys(&mut fleet, &["a", "b"]).await?;
    // THEN the key goes on with the next message
    ensure!(arrived(&fleet, 3).await? == [4, 6, 7]);
    letters_are(&fleet, 2).await
}

#[tokio::test]
async fn when_too_many_wait_the_pipeline_waits_and_says_so() -> Result<()> {
    // GIVEN room for three messages of two keys
    let limits = json!({"max_parked_keys": 2, "max_parked_messages": 3, "batch_size": 1});
    let mut fleet = strict(FleetOptions::agents(1), limits).await?;
    refuse(&fleet, &["a", "c"]).await?;
    // WHEN a fourth comes
    publish_keys(&mut fleet, &["a", "a", "a", "b", "a", "b"]).await?;
    // THEN nothing goes on, and it is told why and what to do
    let row = fleet.wait_for_state(STRICT, PipelineState::Paused).await?;
    let reason = row.state_reason.unwrap_or_default();
    ensure!(
        reason.contains("max_parked_messages 3")
            && reason.contains("tidectl dlq keys --pipeline strict"),
        "{reason}"
    );
    letters_are(&fleet, 3).await?;
    ensure!(arrived(&fleet, 1).await? == [4]);
    // WHEN operators have some delivered again meanwhile THEN it goes on by itself
    accept(&fleet).await?;
    tidectl(&fleet, &["dlq", "replay", "--key", "a"]).await?;
    ensure!(arrived(&fleet, 6).await? == [4, 1, 2, 3, 5, 6]);
    fleet.wait_for_state(STRICT, PipelineState::Running).await?;
    // and keys are limited too
    refuse(&fleet, &["d", "e", "f"]).await?;
    publish_keys(&mut fleet, &["d", "e", "f"]).await?;
    fleet.wait_for_state(STRICT, PipelineState::Paused).await?;
    letters_are(&fleet, 2).await?;
    // and what was refused before there was room waits like the others
    accept(&fleet).await?;
    replay_all(&fleet).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn order_holds_over_refusals_replays_crashes_and_new_shards() -> Result<()> {
    // GIVEN three agents, two shards, and load over many keys
    let options = FleetOptions::agents(3);
    let mut fleet = strict(options, json!({"shards": 2})).await?;
    fleet.publish().await?;
    fleet.publish_more(50).await?;
    let keys: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT key FROM tide.outbox_events WHERE key IS NOT NULL ORDER BY key LIMIT 6",
    )
    .fetch_all(fleet.pool())
    .await?;
    ensure!(keys.len() > 2, "{keys:?}");
    // WHEN keys are refused, owners die, shards change, and operators try again too early
    for (round, shards) in [3, 1, 4].into_iter().enumerate() {
        let some: Vec<&str> = keys[round % 2..].iter().map(String::as_str).collect();
        refuse(&fleet, &some).await?;
        let parked = "SELECT count(*) > 10 FROM tide.relay_dlq WHERE parked";
        fleet.wait_for_sql("messages to be parked", parked).await?;
        tidectl(&fleet, &["dlq", "replay", "--all", "--yes"]).await?;
        let victim = fleet
            .owners()
            .await?
            .into_values()
            .next()
            .context("nobody owns anything")?
            .agent;
        fleet.crash(&victim).await?;
        fleet.publish_more(50).await?;
        fleet.start_agent(&victim).await?;
        fleet.reconfigure(STRICT, json!({"shards": shards})).await?;
        fleet
            .wait_until("the new shards to run", |view| {
                view.pipelines.len() == shards
                    && view.pipelines.iter().all(|row| {
                        row.state == Some(PipelineState::Running) && row.reshard_to.is_none()
                    })
            })
            .await?;
        fleet.publish_more(50).await?;
        accept(&fleet).await?;
        tidectl(&fleet, &["dlq", "replay", "--all", "--yes"]).await?;
    }
    // THEN, once everything that waits was asked for, it is all there, in the order of every key
    let published = fleet.settle_load().await?;
    replay_all(&fleet).await?;
    fleet.wait_until_delivered(&published).await?;
    fleet.stop_agents().await?;
    proof::clean(&fleet.judge(&published)?)
}

#[tokio::test]
async fn an_old_epoch_parks_nothing() -> Result<()> {
    // GIVEN two owners, one after the other
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
    let message = |id| Message {
        id,
        event_id: Uuid::now_v7(),
        key: Some("k".to_owned()),
        payload: "1".to_owned(),
        headers: "{}".to_owned(),
        created_at: OffsetDateTime::now_utc(),
    };
    let (first, second, third) = (message(1), message(2), message(3));
    let limits = ParkingLimits {
        keys: 1,
        messages: 2,
    };
    let refusal = Some(Refusal {
        error: "no",
        attempts: 1,
    });
    let aside = |opened: &[&str]| Parked::Aside {
        opened: opened.iter().map(ToString::to_string).collect(),
    };
    // WHEN the first parks a key THEN it is told that it may not, and nothing is written
    let mut park = async |epoch, messages: &[&Message], refusal| {
        letters_park(
            &mut connection,
            &group,
            &unit,
            epoch,
            messages,
            refusal,
            limits,
        )
        .await
    };
    ensure!(park(epochs[0], &[&first], refusal).await? == Parked::Fenced);
    // What follows nothing is given back, and what follows is written once.
    ensure!(park(epochs[1], &[&second], None).await? == aside(&["k"]));
    ensure!(park(epochs[1], &[&first], refusal).await? == aside(&[]));
    ensure!(park(epochs[0], &[&second], None).await? == Parked::Fenced);
    ensure!(park(epochs[1], &[&second], None).await? == aside(&[]));
    ensure!(park(epochs[1], &[&first, &second], None).await? == aside(&[]));
    ensure!(park(epochs[1], &[&third], None).await? == Parked::Full);
    let found: Vec<(i64, i32)> =
        sqlx::query_as("SELECT message_id, attempts FROM tide.relay_dlq ORDER BY id")
            .fetch_all(&mut connection)
            .await?;
    ensure!(found == [(1, 1), (2, 0)], "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_key_is_parked_after_the_position_before_it_is_stored() -> Result<()> {
    // GIVEN a pipeline whose position cannot be stored for now
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    let config = json!({"on_rejected": "park_key"});
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, config)
        .await?;
    fleet.wait_until_running().await?;
    let mut holder = fleet.pool().begin().await?;
    sqlx::query("SELECT FROM tide.relay_consumer_offsets FOR SHARE")
        .execute(&mut *holder)
        .await?;
    // WHEN two messages of a key are delivered and the third is refused, and the owner dies
    let ok = Behaviour::Respond(200);
    let script = [ok, ok, Behaviour::Respond(422)];
    receiver.script("/hook", script);
    publish_keys(&mut fleet, &["k", "k", "k", "k"]).await?;
    receiver
        .wait_until(SOON, "the refusal", |requests| requests.len() >= 3)
        .await?;
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%offsets_advance%')";
    fleet.wait_for_sql("the position to wait", waiting).await?;
    let owner = fleet.owners().await?["hook"].agent.clone();
    fleet.crash(&owner).await?;
    // The server would go on with what the dead one had asked for.
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%offsets_advance%' AND pid <> pg_backend_pid()")
        .execute(fleet.pool())
        .await?;
    holder.rollback().await?;
    receiver.script("/hook", script);
    fleet.start_agent("relay-2").await?;
    // THEN what was delivered waits behind nothing
    let parked =
        "SELECT coalesce(array_agg(message_id ORDER BY id) = '{3,4}', false) FROM tide.relay_dlq";
    fleet
        .wait_for_sql("the last two to be parked", parked)
        .await?;
    tidectl(&fleet, &["dlq", "replay", "--all"]).await?;
    fleet
        .wait_for_sql("no letter to be left", NO_LETTERS)
        .await?;
    proof::clean(&fleet.settle_and_check().await?)
}

/// Has everything that waits delivered, again and again until nothing waits any more.
async fn replay_all(fleet: &Fleet) -> Result<()> {
    eventually(SOON, "no letter to be left", async || {
        tidectl(fleet, &["dlq", "replay", "--all", "--yes"]).await?;
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM tide.relay_dlq")
            .fetch_one(fleet.pool())
            .await?;
        let view = fleet.view().await?;
        let lag: i64 = view.pipelines.iter().map(|row| row.lag_rows).sum();
        ensure!(left == 0 && lag == 0, "{left} letters, {lag} behind");
        Ok(Some(()))
    })
    .await?;
    Ok(())
}
