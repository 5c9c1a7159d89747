//! Agents, sessions and servers that go away without a word.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use tide_sandbox::{
    history::Accounts,
    http::{Behaviour, Receiver},
    kafka::{MockKafka, Topic},
    postgres::Mode,
};
use tide_tests::{Fleet, FleetOptions, Network, by_hand::publish, fleet::owners, proof};

/// A lease to wait for.
const LEASE: Duration = Duration::from_secs(1);

/// Three agents with six pipelines, under load.
async fn under_load(options: FleetOptions) -> Result<Fleet> {
    let mut fleet = Fleet::start(options).await?;
    fleet.add_file_pipelines(6).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    fleet.publish_more(100).await?;
    Ok(fleet)
}

/// Waits until none of these pipelines is owned by that agent, and all are owned.
async fn taken_over(fleet: &Fleet, orphans: &BTreeSet<String>, from: &str) -> Result<()> {
    fleet
        .wait_until("others to take over", |view| {
            let owners = owners(view);
            orphans
                .iter()
                .all(|name| owners.get(name).is_some_and(|owner| owner.agent != from))
        })
        .await?;
    Ok(())
}

/// All is well, and of a former owner no more than one message came after its successor's.
fn no_more_than_the_wire(accounts: &Accounts) -> Result<()> {
    proof::clean(accounts)?;
    let stale: usize = accounts.totals().stale_epochs.values().sum();
    ensure!(stale <= 1, "{accounts}");
    Ok(())
}

#[tokio::test]
async fn a_crash_loses_nothing_and_another_agent_goes_on() -> Result<()> {
    // GIVEN three agents under load
    let mut fleet = under_load(FleetOptions::agents(3)).await?;
    let before = fleet.owners().await?;
    // WHEN one of them is killed
    let orphans = fleet.crash("relay-1").await?;
    // THEN the others take over what it had, keep what they have, and everything is accounted for
    ensure!(orphans.len() == 2, "{orphans:?}");
    taken_over(&fleet, &orphans, "relay-1").await?;
    fleet.wait_until_balanced().await?;
    fleet.publish_more(100).await?;
    let orphans: Vec<&str> = orphans.iter().map(String::as_str).collect();
    proof::unchanged(&before, &fleet.owners().await?, &orphans)?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn the_last_of_three_takes_over_from_two_that_die_at_once() -> Result<()> {
    // GIVEN three agents under load
    let mut fleet = under_load(FleetOptions::agents(3)).await?;
    // WHEN two of them are killed at once, the watcher of one among them
    fleet.crash("relay-1").await?;
    fleet.crash("relay-2").await?;
    // THEN the third has everything
    fleet
        .wait_until("relay-3 to have everything", |view| {
            let owners = owners(view);
            owners.len() == 6 && owners.values().all(|owner| owner.agent == "relay-3")
        })
        .await?;
    fleet.publish_more(100).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_fleet_that_dies_and_comes_back_goes_on_where_it_was() -> Result<()> {
    // GIVEN agents under load
    let mut fleet = under_load(FleetOptions::agents(2)).await?;
    // WHEN all are killed, messages are committed meanwhile, and they are started again
    for name in fleet.agent_names() {
        fleet.crash(&name).await?;
    }
    fleet.publish_more(100).await?;
    for name in fleet.agent_names() {
        fleet.start_agent(&name).await?;
    }
    // THEN nothing is missing
    fleet.wait_until_balanced().await?;
    proof::clean(&fleet.settle_and_check().await?)
}

/// An agent that is posting 400 messages one by one, slowly, from one page that it has read, and
/// another one that owns nothing.
async fn in_the_middle_of_a_page(options: FleetOptions) -> Result<(Fleet, Arc<Receiver>)> {
    let mut fleet = Fleet::start(FleetOptions {
        agents: 1,
        network: Network::Proxied,
        ..options
    })
    .await?;
    let receiver = Arc::new(Receiver::start().await?);
    receiver.by_default("/slow", Behaviour::Delay(Duration::from_millis(15)));
    fleet
        .add_webhook_pipeline("slow", "events", &receiver, json!({}))
        .await?;
    fleet.wait_until_running().await?;
    fleet.start_agent("relay-2").await?;
    publish_400(&mut fleet).await?;
    fleet.wait_for_deliveries("slow", 5).await?;
    Ok((fleet, receiver))
}

async fn publish_400(fleet: &mut Fleet) -> Result<()> {
    let mut connection = fleet.connection().await?;
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    for number in 0..400 {
        let entry = fleet.drafts.draw("events", &format!("key-{}", number % 7));
        publish(&mut connection, &entry).await?;
    }
    sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
    Ok(())
}

#[tokio::test]
async fn a_thawed_agent_publishes_nothing_more_than_what_was_on_the_wire() -> Result<()> {
    // GIVEN an owner in the middle of a page
    let options = FleetOptions {
        lease: LEASE,
        ..FleetOptions::default()
    };
    let (mut fleet, receiver) = in_the_middle_of_a_page(options).await?;
    // WHEN it is frozen for longer than its lease, and goes on after another has taken over; the
    // news that its session is gone is on its way for longer than that, so that only its own clock
    // can stop it
    let orphans = fleet.freeze("relay-1").await?;
    fleet.network("relay-1").cut();
    taken_over(&fleet, &orphans, "relay-1").await?;
    let before = fleet.deliveries("slow")?.len();
    fleet.wait_for_deliveries("slow", before + 5).await?;
    fleet.agent("relay-1").thaw()?;
    fleet.wait_for_deliveries("slow", before + 30).await?;
    fleet.network("relay-1").heal();
    fleet.agent("relay-1").log("lock session lost").await?;
    receiver.by_default("/slow", Behaviour::Respond(200));
    // THEN of the former owner no more than the one message on the wire comes after the new one's
    let accounts = fleet.settle_and_check().await?;
    no_more_than_the_wire(&accounts)
}

#[tokio::test]
async fn a_thawed_agent_writes_no_file_behind_its_successor() -> Result<()> {
    // GIVEN agents that write files under load
    let mut fleet = under_load(FleetOptions {
        lease: LEASE,
        ..FleetOptions::agents(2)
    })
    .await?;
    // WHEN one is frozen for longer than its lease, and goes on after the other has taken over
    let orphans = fleet.freeze("relay-1").await?;
    taken_over(&fleet, &orphans, "relay-1").await?;
    let positions = fleet.view().await?;
    fleet.publish_more(100).await?;
    fleet.agent("relay-1").thaw()?;
    fleet.agent("relay-1").log("lock session lost").await?;
    fleet.publish_more(100).await?;
    // THEN no position goes back, and no more than one batch of each pipeline comes late
    let view = fleet.view().await?;
    for (was, is) in positions.pipelines.iter().zip(&view.pipelines) {
        ensure!(was.last_change_id <= is.last_change_id, "{was:?} {is:?}");
    }
    let accounts = fleet.settle_and_check().await?;
    proof::clean(&accounts)?;
    for account in &accounts.pipelines {
        let stale: usize = account.tally.stale_epochs.values().sum();
        ensure!(stale <= 20, "{accounts}");
    }
    Ok(())
}

#[tokio::test]
async fn a_thawed_agent_takes_back_what_its_kafka_client_has_not_sent() -> Result<()> {
    // GIVEN an owner in the middle of a page of 400 messages, all of them queued in its Kafka client,
    // which sends them one by one; and another agent that owns nothing
    let mut fleet = Fleet::start(FleetOptions {
        agents: 1,
        network: Network::Proxied,
        lease: LEASE,
        ..FleetOptions::default()
    })
    .await?;
    let kafka = MockKafka::start(&[Topic::new("slow", 1)])?;
    kafka.delay(Duration::from_millis(20))?;
    fleet.add_kafka_pipeline("slow", "events", &kafka).await?;
    let one_by_one =
        json!({"batch.num.messages": "1", "max.in.flight.requests.per.connection": "1"});
    fleet
        .reconfigure("slow", json!({"properties": one_by_one}))
        .await?;
    fleet.wait_until_running().await?;
    fleet.start_agent("relay-2").await?;
    publish_400(&mut fleet).await?;
    fleet.wait_for_deliveries("slow", 5).await?;
    // WHEN it is frozen for longer than its lease, and goes on after another has taken over, with
    // only its own clock to stop it
    let orphans = fleet.freeze("relay-1").await?;
    fleet.network("relay-1").cut();
    taken_over(&fleet, &orphans, "relay-1").await?;
    let before = fleet.deliveries("slow")?.len();
    fleet.wait_for_deliveries("slow", before + 5).await?;
    let was = fleet.view().await?.pipelines[0].last_change_id;
    fleet.agent("relay-1").thaw()?;
    fleet.wait_for_deliveries("slow", before + 60).await?;
    fleet.network("relay-1").heal();
    fleet.agent("relay-1").log("lock session lost").await?;
    kafka.delay(Duration::ZERO)?;
    // THEN no position goes back, and of the former owner comes what was on the wire, and perhaps
    // what the client's own thread sent before the agent's had its turn
    let is = fleet.view().await?.pipelines[0].last_change_id;
    ensure!(was <= is, "{was} {is}");
    let accounts = fleet.settle_and_check().await?;
    proof::clean(&accounts)?;
    let stale: usize = accounts.totals().stale_epochs.values().sum();
    ensure!(stale <= 10, "{accounts}");
    Ok(())
}

#[tokio::test]
async fn a_partitioned_owner_stops_publishing_before_its_lease_ends() -> Result<()> {
    // GIVEN an owner in the middle of a page
    let options = FleetOptions {
        lease: LEASE,
        ..FleetOptions::default()
    };
    let (mut fleet, receiver) = in_the_middle_of_a_page(options).await?;
    // WHEN it is cut off from PostgreSQL, but not from its sink, until another has taken over
    let orphans = fleet.cut("relay-1").await?;
    taken_over(&fleet, &orphans, "relay-1").await?;
    let before = fleet.deliveries("slow")?.len();
    fleet.wait_for_deliveries("slow", before + 20).await?;
    receiver.by_default("/slow", Behaviour::Respond(200));
    fleet.network("relay-1").heal();
    // THEN it has published nothing since
    let accounts = fleet.settle_and_check().await?;
    proof::clean(&accounts)?;
    ensure!(accounts.totals().stale_epochs.is_empty(), "{accounts}");
    Ok(())
}

#[tokio::test]
async fn a_short_partition_costs_a_pause_and_no_failover() -> Result<()> {
    // GIVEN an owner in the middle of a page
    let options = FleetOptions {
        lease: Duration::from_secs(3),
        ..FleetOptions::default()
    };
    let (mut fleet, receiver) = in_the_middle_of_a_page(options).await?;
    let before = fleet.owners().await?;
    // WHEN it is cut off until it trusts its locks no longer, but not until its lease ends
    fleet.cut("relay-1").await?;
    fleet.agent("relay-1").log("publishing paused").await?;
    fleet.network("relay-1").heal();
    let seen = fleet.deliveries("slow")?.len();
    fleet.wait_for_deliveries("slow", seen + 5).await?;
    receiver.by_default("/slow", Behaviour::Respond(200));
    // THEN it goes on by itself, under the same epoch
    fleet.wait_until_running().await?;
    ensure!(fleet.owners().await? == before, "the owner is another one");
    let accounts = fleet.settle_and_check().await?;
    proof::clean(&accounts)
}

#[tokio::test]
async fn a_stalled_server_costs_a_pause_and_no_failover() -> Result<()> {
    // GIVEN an owner in the middle of a page
    let options = FleetOptions {
        lease: Duration::from_secs(3),
        ..FleetOptions::default()
    };
    let (mut fleet, receiver) = in_the_middle_of_a_page(options).await?;
    let before = fleet.owners().await?;
    // WHEN the server stops in its tracks until the agent has noticed
    fleet.excuse(tide_sandbox::history::Cause::Freeze, ["slow"]);
    fleet.postgres.freeze()?;
    fleet.agent("relay-1").log("publishing paused").await?;
    fleet.postgres.thaw()?;
    let seen = fleet.deliveries("slow")?.len();
    fleet.wait_for_deliveries("slow", seen + 5).await?;
    receiver.by_default("/slow", Behaviour::Respond(200));
    // THEN it goes on by itself, under the same epoch
    fleet.wait_until_running().await?;
    ensure!(fleet.owners().await? == before, "the owner is another one");
    let accounts = fleet.settle_and_check().await?;
    proof::clean(&accounts)
}

#[tokio::test]
async fn a_lost_lock_session_is_replaced() -> Result<()> {
    // GIVEN agents under load
    let mut fleet = under_load(FleetOptions::agents(2)).await?;
    let before = fleet.owners().await?;
    let backend = fleet.lock_backend("relay-1").await?;
    // WHEN the server ends the session that holds an agent's locks
    let lost = fleet.end_lock_session("relay-1").await?;
    // THEN every pipeline of it is claimed anew, and the agent is back on a new session
    fleet
        .wait_until("new epochs", |view| {
            let now = owners(view);
            lost.iter().all(|name| {
                now.get(name)
                    .is_some_and(|owner| owner.epoch > before[name].epoch)
            })
        })
        .await?;
    fleet.wait_until_balanced().await?;
    ensure!(fleet.lock_backend("relay-1").await? != backend);
    fleet.publish_more(50).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

/// An owner in the middle of a page, which asks after its session every ten seconds only.
async fn rarely_asking() -> Result<(Fleet, Arc<Receiver>)> {
    in_the_middle_of_a_page(FleetOptions {
        lease: Duration::from_secs(30),
        ..FleetOptions::default()
    })
    .await
}

/// After a lock session ended in the server: of the former owner comes nothing but what was on the
/// wire once somebody owns the pipeline anew.
async fn silent_at_once(fleet: &mut Fleet, receiver: &Receiver, before: i64) -> Result<()> {
    fleet
        .wait_until("a new epoch", |view| {
            let now = owners(view);
            now.get("slow").is_some_and(|now| now.epoch > before)
        })
        .await?;
    let seen = fleet.deliveries("slow")?.len();
    fleet.wait_for_deliveries("slow", seen + 50).await?;
    receiver.by_default("/slow", Behaviour::Respond(200));
    let accounts = fleet.settle_and_check().await?;
    no_more_than_the_wire(&accounts)
}

#[tokio::test]
async fn an_owner_whose_lock_session_was_ended_is_silent_at_once() -> Result<()> {
    // GIVEN
    let (mut fleet, receiver) = rarely_asking().await?;
    let before = fleet.owners().await?["slow"].epoch;
    // WHEN the server ends that session
    fleet.end_lock_session("relay-1").await?;
    // THEN
    silent_at_once(&mut fleet, &receiver, before).await
}

#[tokio::test]
async fn an_owner_whose_server_restarts_is_silent_at_once() -> Result<()> {
    // GIVEN
    let (mut fleet, receiver) = rarely_asking().await?;
    let before = fleet.owners().await?["slow"].epoch;
    // WHEN the server ends every session, and others may own everything as soon as it is back
    fleet.restart_postgres(Mode::Fast).await?;
    // THEN
    silent_at_once(&mut fleet, &receiver, before).await
}

#[tokio::test]
async fn sessions_without_locks_may_die_and_nobody_notices() -> Result<()> {
    // GIVEN agents under load
    let mut fleet = under_load(FleetOptions::agents(2)).await?;
    let before = fleet.owners().await?;
    // WHEN the server ends every session of theirs that holds no locks, again and again: listeners,
    // crash watches, pools
    for _ in 0..3 {
        let ended: i64 = sqlx::query_scalar(
            "SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a
             WHERE a.application_name LIKE 'tide-agent/%'
               AND a.pid NOT IN (SELECT pid FROM tide.advisory_locks)",
        )
        .fetch_one(fleet.pool())
        .await?;
        ensure!(ended > 0, "nothing was ended");
        fleet.publish_more(50).await?;
    }
    // THEN ownership does not change, nothing comes twice, and changes are still noticed
    ensure!(fleet.owners().await? == before, "owners changed");
    fleet.add_file_pipeline("added", "events_a").await?;
    fleet.wait_until_running().await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn the_loss_of_every_listener_delays_no_change() -> Result<()> {
    // GIVEN agents that are listening, and look around every 30 seconds only
    let mut fleet = under_load(FleetOptions::agents(2)).await?;
    // WHEN the server ends exactly the listening sessions, and a pipeline is added at once
    let ended: i64 = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name LIKE 'tide-agent/%' AND query ILIKE '%LISTEN %' AND pid <> pg_backend_pid()",
    )
    .fetch_one(fleet.pool())
    .await?;
    ensure!(ended == 2, "{ended} listeners were ended");
    fleet.add_file_pipeline("added", "events_a").await?;
    // THEN it runs nevertheless: after a reconnect they look by themselves
    fleet.wait_until_running().await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

async fn restarted(mode: Mode) -> Result<()> {
    // GIVEN agents under load
    let mut fleet = under_load(FleetOptions::agents(3)).await?;
    // WHEN PostgreSQL goes down and comes up
    fleet.restart_postgres(mode).await?;
    // THEN the agents go on without having been restarted
    fleet.wait_until_balanced().await?;
    fleet.publish_more(100).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_fast_restart_of_postgresql_loses_nothing() -> Result<()> {
    restarted(Mode::Fast).await
}

#[tokio::test]
async fn an_immediate_restart_of_postgresql_loses_nothing() -> Result<()> {
    restarted(Mode::Immediate).await
}

#[tokio::test]
async fn a_killed_postgresql_loses_nothing() -> Result<()> {
    restarted(Mode::Kill).await
}
