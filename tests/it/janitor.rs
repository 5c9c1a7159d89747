//! The janitor among real agents: delivered messages go, everything else stays, somebody does it.

use anyhow::{Context as _, Result, ensure};
use sqlx::Connection as _;
use tide_sandbox::wait::eventually;
use tide_tests::{Fleet, FleetOptions, SOON, by_hand::publish, catalog::execute, proof, scrape};

const EMPTY: &str = "SELECT NOT EXISTS (SELECT FROM tide.outbox_events)";

/// Agents that clean up often, with two pipelines on an outbox that keeps nothing.
async fn tidy_fleet(agents: usize) -> Result<Fleet> {
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    for number in 1..=agents {
        let spec = fleet.spec(&format!("relay-{number}"));
        fleet
            .start_as(spec.with("--janitor-interval", "50ms"))
            .await?;
    }
    for pipeline in ["one", "two"] {
        fleet.add_file_pipeline(pipeline, "events").await?;
    }
    let mut connection = fleet.connection().await?;
    execute(&mut connection, "UPDATE tide.outboxes SET retention = '0'").await?;
    drop(connection);
    fleet.wait_until_running().await?;
    Ok(fleet)
}

/// The agent that is the janitor now.
async fn janitor(fleet: &Fleet) -> Result<String> {
    let node = eventually(SOON, "a janitor", async || {
        let leader = "SELECT node_id FROM tide.leader_list() WHERE role = 'janitor' AND lock_held";
        sqlx::query_scalar::<_, String>(leader)
            .fetch_optional(fleet.pool())
            .await
    })
    .await?;
    Ok(node.rsplit('/').next().context("a name")?.to_owned())
}

#[tokio::test]
async fn delivered_messages_go_whoever_is_the_janitor() -> Result<()> {
    // GIVEN agents under load, one of which is the janitor
    let mut fleet = tidy_fleet(2).await?;
    fleet.publish().await?;
    fleet.publish_more(200).await?;
    let first = janitor(&fleet).await?;
    // WHEN that one is killed
    fleet.crash(&first).await?;
    fleet.publish_more(200).await?;
    // THEN the other one goes on, under a later epoch, and says what it did
    let other = if first == "relay-1" {
        "relay-2"
    } else {
        "relay-1"
    };
    eventually(SOON, "the other one to be the janitor", async || {
        let now = janitor(&fleet).await?;
        ensure!(now == other, "{now}");
        Ok(Some(()))
    })
    .await?;
    fleet.publish_more(50).await?;
    let published = fleet.settle_load().await?;
    fleet.wait_until_delivered(&published).await?;
    fleet.wait_for_sql("an empty outbox", EMPTY).await?;
    let metrics = fleet.agent(other).get("/metrics").await?.body;
    let name = "pg_tide_relay_janitor_messages_deleted_total";
    let deleted = scrape::samples(&metrics, name, "outbox")?;
    ensure!(deleted["events"] > 0.0, "{deleted:?}");
    let active = scrape::samples(&metrics, "pg_tide_relay_janitor_active", "")?;
    ensure!(active.values().sum::<f64>() > 0.0, "{active:?}");
    // and nothing was deleted that somebody still needed
    fleet.stop_agents().await?;
    proof::clean(&fleet.judge(&published)?)
}

#[tokio::test]
async fn what_a_late_transaction_or_a_disabled_pipeline_needs_stays() -> Result<()> {
    let mut fleet = tidy_fleet(1).await?;
    // GIVEN a transaction that drew its id first and is still open
    let late = fleet.drafts.draw("events", "late");
    let mut connection = sqlx::PgConnection::connect(&fleet.url()).await?;
    let mut open = connection.begin().await?;
    publish(&mut open, &late).await?;
    // WHEN a later message is delivered THEN it goes at once
    let early = fleet.drafts.draw("events", "early");
    publish(&mut *fleet.connection().await?, &early).await?;
    fleet.wait_for_deliveries("one", 1).await?;
    fleet.wait_for_deliveries("two", 1).await?;
    fleet.wait_for_sql("an empty outbox", EMPTY).await?;
    // WHEN a pipeline is disabled THEN it still needs what the other one has delivered
    let mut by_hand = fleet.connection().await?;
    execute(&mut by_hand, "SELECT tide.relay_disable('two')").await?;
    fleet
        .wait_for_sql(
            "the pipeline to stop",
            "SELECT NOT EXISTS (SELECT FROM tide.relay_status() WHERE name = 'two' AND owner IS NOT NULL)",
        )
        .await?;
    open.commit().await?;
    fleet.wait_for_deliveries("one", 2).await?;
    let held = fleet.drafts.draw("events", "held");
    publish(&mut by_hand, &held).await?;
    fleet.wait_for_deliveries("one", 3).await?;
    // The janitor has been there, and has seen both, when it has deleted what came after them in
    // an outbox that nobody reads.
    execute(
        &mut by_hand,
        "SELECT tide.outbox_create('unread', '0'); SELECT tide.outbox_publish('unread', '1')",
    )
    .await?;
    let unread = "SELECT NOT EXISTS (SELECT FROM tide.outbox_unread)";
    fleet
        .wait_for_sql("an outbox without readers to be empty", unread)
        .await?;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM tide.outbox_events")
        .fetch_one(&mut *by_hand)
        .await?;
    ensure!(left == 2, "{left} messages are left");
    // WHEN it is enabled again THEN it delivers them, and then they go
    execute(&mut by_hand, "SELECT tide.relay_enable('two')").await?;
    fleet.wait_for_deliveries("two", 3).await?;
    fleet.wait_for_sql("an empty outbox", EMPTY).await?;
    drop(by_hand);
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn an_outbox_that_cannot_be_swept_keeps_the_janitor_from_no_other() -> Result<()> {
    // GIVEN an outbox whose messages nobody may delete, and one after it in the alphabet
    let mut fleet = tidy_fleet(1).await?;
    let mut connection = fleet.connection().await?;
    execute(
        &mut connection,
        "SELECT tide.outbox_create('broken', '0'), tide.outbox_create('whole', '0');
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'these stay'; END $$;
         CREATE TRIGGER keep BEFORE DELETE ON tide.outbox_broken FOR EACH ROW EXECUTE FUNCTION keep();
         SELECT tide.outbox_publish('broken', '1'), tide.outbox_publish('whole', '1')",
    )
    .await?;
    // THEN the other one is swept all the same
    let whole = "SELECT NOT EXISTS (SELECT FROM tide.outbox_whole)";
    fleet
        .wait_for_sql("the other outbox to be empty", whole)
        .await?;
    // and the failure is counted, and told once
    let log = fleet.agent("relay-1").log("housekeeping failed").await?;
    ensure!(log.contains("these stay"), "{log}");
    eventually(SOON, "a few more rounds", async || {
        let metrics = fleet.agent("relay-1").get("/metrics").await?.body;
        let errors = scrape::samples(&metrics, "pg_tide_relay_janitor_errors_total", "")?;
        let errors = errors.values().sum::<f64>();
        ensure!(errors >= 3.0, "{errors} errors");
        Ok(Some(()))
    })
    .await?;
    let log = fleet.agent("relay-1").whole_log();
    ensure!(log.matches("housekeeping failed").count() == 1, "{log}");
    // WHEN it is mended THEN it is swept
    execute(&mut connection, "DROP TRIGGER keep ON tide.outbox_broken").await?;
    let broken = "SELECT NOT EXISTS (SELECT FROM tide.outbox_broken)";
    fleet.wait_for_sql("it to be empty", broken).await
}
