//! Every kind of session that an agent has may be ended by the server, alone and together; and two
//! agents may be given one name.

use std::time::Duration;

use anyhow::{Result, ensure};
use tide_sandbox::history::Cause;
use tide_tests::{Fleet, FleetOptions, fleet::owners, proof};

/// The sessions that hold locks.
const LOCKS: &str = "pid IN (SELECT pid FROM tide.advisory_locks)";
/// Those that listen.
const LISTENERS: &str = "query ILIKE '%LISTEN %'";
/// Those that wait for a neighbour to be gone.
const WATCHES: &str = "query LIKE '-- agent_gone%'";

async fn under_load(options: FleetOptions) -> Result<Fleet> {
    let mut fleet = Fleet::start(options).await?;
    fleet.add_file_pipelines(6).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    fleet.publish_more(50).await?;
    Ok(fleet)
}

/// How many sessions of agents there are of a kind.
async fn sessions(fleet: &Fleet, kind: &str) -> Result<i64> {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE application_name LIKE 'tide-agent/%' AND pid <> pg_backend_pid() AND ({kind})"
    );
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_one(fleet.pool())
        .await?)
}

/// Ends them, and says how many they were.
async fn end(fleet: &Fleet, kind: &str) -> Result<i64> {
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name LIKE 'tide-agent/%' AND pid <> pg_backend_pid() AND ({kind})"
    );
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_one(fleet.pool())
        .await?)
}

/// Waits until so many sessions of a kind are there.
async fn wait_for_sessions(fleet: &Fleet, kind: &str, count: usize) -> Result<()> {
    let sql = format!(
        "SELECT count(*) = {count} FROM pg_stat_activity
         WHERE application_name LIKE 'tide-agent/%' AND ({kind})"
    );
    fleet
        .wait_for_sql(&format!("{count} of: {kind}"), &sql)
        .await
}

#[tokio::test]
async fn the_loss_of_every_watch_hides_no_crash() -> Result<()> {
    // GIVEN agents that watch each other, and would not look by themselves while this lasts
    let mut fleet = under_load(FleetOptions {
        discovery_interval: Duration::from_mins(10),
        ..FleetOptions::agents(3)
    })
    .await?;
    wait_for_sessions(&fleet, WATCHES, 3).await?;
    // WHEN the server ends exactly the watching sessions, and one agent is killed at once
    ensure!(end(&fleet, WATCHES).await? == 3);
    let orphans = fleet.crash("relay-1").await?;
    // THEN it is noticed nevertheless: whoever watches again finds the name free
    fleet
        .wait_until("others to take over", |view| {
            let owners = owners(view);
            orphans.iter().all(|name| {
                owners
                    .get(name)
                    .is_some_and(|owner| owner.agent != "relay-1")
            })
        })
        .await?;
    wait_for_sessions(&fleet, WATCHES, 2).await?;
    fleet.publish_more(50).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn the_loss_of_every_pooled_session_changes_no_owner_and_repeats_nothing() -> Result<()> {
    // GIVEN agents under load
    let mut fleet = under_load(FleetOptions::agents(2)).await?;
    let before = fleet.owners().await?;
    let pooled = format!("NOT ({LOCKS}) AND NOT ({LISTENERS}) AND NOT ({WATCHES})");
    // WHEN the server ends exactly the sessions that read messages and store positions, repeatedly
    for _ in 0..5 {
        let any = format!(
            "SELECT count(*) > 0 FROM pg_stat_activity
             WHERE application_name LIKE 'tide-agent/%' AND ({pooled})"
        );
        fleet.wait_for_sql("sessions to end", &any).await?;
        let ended = end(&fleet, &pooled).await?;
        ensure!(ended <= 8, "{ended} sessions were ended");
        fleet.publish_more(30).await?;
    }
    // THEN everything stays where it is, and what was read and not stored is not delivered again
    ensure!(fleet.owners().await? == before, "owners changed");
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn an_idle_lock_session_that_ends_is_noticed_without_asking() -> Result<()> {
    // GIVEN an agent that nobody watches, and that asks its lock session something every 100 seconds
    let mut fleet = under_load(FleetOptions {
        lease: Duration::from_mins(5),
        ..FleetOptions::agents(1)
    })
    .await?;
    let before = fleet.owners().await?;
    // WHEN the server ends that session while it has nothing to do
    fleet.excuse(Cause::Partition, before.keys().map(String::as_str));
    ensure!(end(&fleet, LOCKS).await? == 1);
    // THEN the agent claims everything anew, on another one, long before it would have asked
    fleet
        .wait_until("new epochs", |view| {
            let now = owners(view);
            before
                .iter()
                .all(|(name, was)| now.get(name).is_some_and(|is| is.epoch > was.epoch))
        })
        .await?;
    fleet
        .agent("relay-1")
        .log("ended the session while it was idle")
        .await?;
    fleet.publish_more(50).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn every_session_of_the_fleet_may_end_at_once() -> Result<()> {
    // GIVEN agents under load
    let mut fleet = under_load(FleetOptions::agents(3)).await?;
    let before = fleet.owners().await?;
    let pipelines: Vec<&str> = before.keys().map(String::as_str).collect();
    // WHEN the server ends every session of theirs, those with locks among them
    fleet.excuse(Cause::Partition, pipelines.iter().copied());
    let ended = end(&fleet, "true").await?;
    ensure!(ended >= 9, "{ended} sessions were ended");
    // THEN every pipeline is claimed anew, and each agent is whole again
    fleet
        .wait_until("new epochs", |view| {
            let now = owners(view);
            before
                .iter()
                .all(|(name, was)| now.get(name).is_some_and(|is| is.epoch > was.epoch))
        })
        .await?;
    fleet.wait_until_balanced().await?;
    wait_for_sessions(&fleet, LOCKS, 3).await?;
    wait_for_sessions(&fleet, LISTENERS, 3).await?;
    wait_for_sessions(&fleet, WATCHES, 3).await?;
    fleet.publish_more(50).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn an_agent_that_waits_for_its_name_gets_it_when_the_holder_dies() -> Result<()> {
    // GIVEN an agent with everything, and a second of the same name that waits
    let mut fleet = Fleet::start(FleetOptions {
        // It waits for as long as a dead session can last: longer than this test takes.
        lease: Duration::from_secs(25),
        ..FleetOptions::agents(1)
    })
    .await?;
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    let before = fleet.owners().await?;
    let mut twin = fleet.spec("relay-1");
    twin.name = "twin".to_owned();
    twin.env.push(("TIDE_LOG".to_owned(), "debug".to_owned()));
    fleet.launch_as(twin)?;
    fleet.agent("twin").log("name is taken").await?;
    ensure!(fleet.owners().await? == before, "the first was disturbed");
    // WHEN the first dies
    fleet.crash("relay-1").await?;
    // THEN the second is the agent of that name, and goes on with everything under new epochs
    fleet.agent("twin").log("agent started").await?;
    fleet
        .wait_until("the second to run everything", |view| {
            let now = owners(view);
            before.iter().all(|(name, was)| {
                now.get(name)
                    .is_some_and(|is| is.agent == "relay-1" && is.epoch > was.epoch)
            })
        })
        .await?;
    fleet.publish_more(50).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn agents_that_only_look_at_intervals_have_no_other_news_and_still_take_over() -> Result<()> {
    // GIVEN agents that neither listen nor watch, and look every second
    let mut fleet = Fleet::start(FleetOptions {
        discovery_interval: Duration::from_secs(1),
        ..FleetOptions::agents(0)
    })
    .await?;
    for name in ["relay-1", "relay-2"] {
        let spec = fleet.spec(name).with_flag("--discovery-only");
        fleet.start_as(spec).await?;
    }
    fleet.add_file_pipelines(4).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    let silent = format!("({LISTENERS}) OR ({WATCHES})");
    ensure!(sessions(&fleet, &silent).await? == 0, "somebody has news");
    // WHEN one is killed
    fleet.crash("relay-1").await?;
    // THEN the other's next looks find it
    fleet
        .wait_until("relay-2 to run everything", |view| {
            let owners = owners(view);
            owners.len() == 4 && owners.values().all(|owner| owner.agent == "relay-2")
        })
        .await?;
    ensure!(sessions(&fleet, &silent).await? == 0, "somebody has news");
    fleet.publish_more(50).await?;
    proof::clean(&fleet.settle_and_check().await?)
}
