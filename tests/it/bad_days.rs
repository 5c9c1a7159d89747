//! Days on which PostgreSQL, the network or an operator makes it hard to hold a lock: what is wrong
//! is said, with what helps, and once it is over the agents go on by themselves.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tide_sandbox::{
    files::FileReader,
    postgres::{Mode, Postgres, PostgresOptions},
    wait::eventually,
};
use tide_tests::{
    Fleet, FleetOptions, Network, SOON, by_hand,
    command::run,
    fleet::{DATABASE, Tap},
    proof,
};
use uuid::Uuid;

async fn gauge(fleet: &mut Fleet, agent: &str, metric: &str, value: u32) -> Result<()> {
    let line = format!("{metric} {value}");
    let agent = fleet.agent(agent);
    let seen = eventually(SOON, line.clone(), async || {
        let page = agent.get("/metrics").await?.body;
        anyhow::Ok(page.lines().any(|one| one == line).then_some(()))
    });
    Ok(seen.await?)
}

#[tokio::test]
async fn a_full_lock_table_stops_nothing_that_runs() -> Result<()> {
    // GIVEN an agent under load, and a server whose lock table somebody else has all but filled
    let options = FleetOptions {
        postgres: PostgresOptions {
            max_connections: 30,
            settings: vec![
                ("max_locks_per_transaction".to_owned(), "10".to_owned()),
                ("max_prepared_transactions".to_owned(), "0".to_owned()),
            ],
            ..PostgresOptions::default()
        },
        ..FleetOptions::agents(1)
    };
    let mut fleet = Fleet::start(options).await?;
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_running().await?;
    let before = fleet.owners().await?;
    let backend = fleet.lock_backend("relay-1").await?;
    let mut hog = PgConnection::connect(&fleet.url()).await?;
    sqlx::raw_sql(
        "DO $$
         DECLARE n integer := 0;
         BEGIN
             BEGIN
                 LOOP
                     PERFORM pg_advisory_lock(4242, n);
                     n := n + 1;
                 END LOOP;
             EXCEPTION WHEN out_of_memory THEN NULL;
             END;
             FOR i IN n - 120 .. n - 1 LOOP
                 PERFORM pg_advisory_unlock(4242, i);
             END LOOP;
         END $$",
    )
    .execute(&mut hog)
    .await?;
    // WHEN more pipelines are added than there is room for
    sqlx::raw_sql(
        "INSERT INTO tide.pipelines (name, outbox, config)
         SELECT 'null-' || n, 'events_a', '{\"sink_type\": \"null\"}' FROM generate_series(1, 240) n",
    )
    .execute(fleet.pool())
    .await?;
    // THEN the agent says which have to wait and what helps, and keeps what it has
    let said = fleet.agent("relay-1").log("lock table is full").await?;
    ensure!(
        said.contains("null-") && said.contains("max_locks_per_transaction"),
        "{said}"
    );
    let mut connection = fleet.connection().await?;
    for _ in 0..20 {
        by_hand::publish(&mut connection, &fleet.drafts.draw("events_b", "k")).await?;
    }
    drop(connection);
    fleet.wait_for_deliveries("file-1", 20).await?;
    ensure!(
        fleet.lock_backend("relay-1").await? == backend,
        "the session was given up"
    );
    for (name, owner) in &before {
        ensure!(
            fleet.owners().await?.get(name) == Some(owner),
            "{name} was lost"
        );
    }
    // AND runs the rest as soon as there is room
    hog.close().await?;
    fleet.wait_until_running().await?;
    fleet.agent("relay-1").log("has found room").await?;
    gauge(
        &mut fleet,
        "relay-1",
        "pg_tide_relay_unlockable_pipelines",
        0,
    )
    .await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

/// Sessions until there is no room for another.
async fn crowd(fleet: &Fleet) -> Vec<PgConnection> {
    let mut crowd = Vec::new();
    while let Ok(connection) = PgConnection::connect(&fleet.url()).await {
        crowd.push(connection);
    }
    crowd
}

#[tokio::test]
async fn a_server_without_room_for_another_session_is_waited_for() -> Result<()> {
    // GIVEN a server that is out of connections
    let options = FleetOptions {
        postgres: PostgresOptions {
            max_connections: 25,
            ..PostgresOptions::default()
        },
        ..FleetOptions::agents(0)
    };
    let mut fleet = Fleet::start(options).await?;
    let others = crowd(&fleet).await;
    // WHEN an agent starts THEN it says what is missing, and starts once there is room
    fleet.launch("relay-1").await?;
    let said = fleet.agent("relay-1").log("waiting for PostgreSQL").await?;
    ensure!(said.contains("max_connections"), "{said}");
    drop(others);
    fleet.agent("relay-1").log("agent started").await?;
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_running().await?;
    fleet.publish().await?;
    fleet.publish_more(20).await?;
    // WHEN it loses its lock session, and others are quicker to take its place
    let others = eventually(SOON, "others to be quicker", async || {
        let mut others = crowd(&fleet).await;
        if let Some(backend) = fleet.lock_backend("relay-1").await? {
            fleet.end_backend(backend).await?;
        }
        others.extend(crowd(&fleet).await);
        let log = fleet.agents_log("relay-1");
        let said = log.lines().any(|line| {
            line.contains("could not open a lock session") && line.contains("max_connections")
        });
        anyhow::Ok(said.then_some(others))
    })
    .await?;
    fleet.excuse(
        tide_sandbox::history::Cause::Partition,
        ["file-1", "file-2"],
    );
    // THEN it has said so, and goes on once there is room
    drop(others);
    fleet.wait_until_running().await?;
    fleet.publish_more(20).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_server_that_goes_away_while_an_agent_starts_is_waited_for() -> Result<()> {
    // GIVEN an agent that is starting, far from its server
    let options = FleetOptions {
        network: Network::Proxied,
        ..FleetOptions::agents(0)
    };
    let mut fleet = Fleet::start(options).await?;
    fleet.launch("relay-1").await?;
    fleet.network("relay-1").delay(Duration::from_millis(100));
    let there =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'tide-agent/%'";
    fleet
        .wait_for_sql("the agent's first session", there)
        .await?;
    // WHEN the server restarts
    fleet.restart_postgres(Mode::Fast).await?;
    // THEN the agent says that it waits, and starts
    fleet.agent("relay-1").log("waiting for PostgreSQL").await?;
    fleet.network("relay-1").delay(Duration::ZERO);
    fleet.agent("relay-1").log("agent started").await?;
    Ok(())
}

#[tokio::test]
async fn a_lease_shorter_than_the_round_trip_is_noticed() -> Result<()> {
    // GIVEN an agent whose network is fast enough for its lease
    let options = FleetOptions {
        lease: Duration::from_secs(1),
        network: Network::Proxied,
        ..FleetOptions::agents(1)
    };
    let mut fleet = Fleet::start(options).await?;
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_running().await?;
    // WHEN every answer takes longer than the lease
    fleet.excuse(
        tide_sandbox::history::Cause::Partition,
        ["file-1", "file-2"],
    );
    fleet.network("relay-1").delay(Duration::from_millis(700));
    // THEN the server ends the session again and again, and the agent says what helps
    let hint = eventually(SOON, "a hint", async || {
        let log = fleet.agents_log("relay-1");
        let said = log.lines().any(|line| line.contains("raise --lease"));
        anyhow::Ok(said.then_some(()))
    });
    hint.await.with_context(|| fleet.agents_log("relay-1"))?;
    // AND goes on by itself when the network is fast again
    fleet.network("relay-1").delay(Duration::ZERO);
    fleet.publish().await?;
    fleet.publish_more(50).await?;
    fleet.wait_until_running().await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn every_missing_right_is_named_at_once() -> Result<()> {
    // GIVEN a user with all but some of the rights of an agent
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    sqlx::raw_sql(
        "CREATE ROLE almost LOGIN;
         GRANT tide_relay TO almost;
         REVOKE UPDATE ON tide.agents FROM tide_relay;
         REVOKE USAGE ON SEQUENCE tide.epoch FROM tide_relay;
         REVOKE INSERT ON tide.events FROM tide_relay",
    )
    .execute(fleet.pool())
    .await?;
    let url = fleet.postgres.url_for("almost", "", DATABASE);
    let arguments = ["--metrics-addr", "127.0.0.1:0", "--name", "relay-1"];
    let environment = [("TIDE_POSTGRES_URL", url.as_str())];
    // WHEN an agent starts as that user THEN it says which are missing, and begins nothing
    let refused = run("tide-agent", &arguments, &environment, SOON).await?;
    for right in [
        "UPDATE ON tide.agents",
        "USAGE ON tide.epoch",
        "INSERT ON tide.events",
    ] {
        refused.explains(1, right, "GRANT tide_relay TO almost")?;
    }
    ensure!(!refused.stderr.contains("SELECT ON"), "{}", refused.stderr);
    // AND starts once they are granted, each as it was written
    sqlx::raw_sql(
        "GRANT UPDATE ON tide.agents TO almost;
         GRANT USAGE ON tide.epoch TO almost;
         GRANT INSERT ON tide.events TO almost",
    )
    .execute(fleet.pool())
    .await?;
    let spec = fleet.spec("relay-1").at(&url);
    fleet.start_as(spec).await?;
    fleet.add_file_pipelines(1).await?;
    fleet.publish().await?;
    fleet.wait_until_running().await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn holds_on_nobody_affect_nobody() -> Result<()> {
    // GIVEN agents
    let mut fleet = Fleet::start(FleetOptions::agents(2)).await?;
    fleet.add_file_pipelines(4).await?;
    fleet.wait_until_balanced().await?;
    let before = fleet.owners().await?;
    // WHEN holds name an agent that nobody knows, and what cannot be an agent at all
    for agent in ["ghost", "no agent's name!"] {
        sqlx::query("INSERT INTO tide.holds (relay_group_id, agent, kind, actor) VALUES ('default', $1, 'drain', 'me')")
            .bind(agent)
            .execute(fleet.pool())
            .await?;
    }
    sqlx::raw_sql("NOTIFY tide_intent, 'default'")
        .execute(fleet.pool())
        .await?;
    // THEN it is mentioned, and nothing changes
    let said = fleet
        .agent("relay-1")
        .log("holds name agents that nobody knows")
        .await?;
    ensure!(said.contains("ghost"), "{said}");
    ensure!(fleet.owners().await? == before, "something moved");
    fleet.add_file_pipeline("added", "events_a").await?;
    fleet.publish().await?;
    fleet.wait_until_running().await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn an_agent_that_comes_back_under_another_name_leaves_its_holds_behind() -> Result<()> {
    // GIVEN a drained agent
    let mut fleet = Fleet::start(FleetOptions::agents(2)).await?;
    fleet.add_file_pipelines(4).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    fleet.succeeded(fleet.drain("relay-1").await?).await?;
    // WHEN it is restarted as somebody else
    fleet.agent("relay-1").stop().await?;
    fleet.start_agent("relay-new").await?;
    // THEN that one gets work, and the former name is gone with the hold on it
    fleet.wait_until_balanced().await?;
    ensure!(fleet.owned_by("relay-new").await?.len() == 2);
    let view = fleet.view().await?;
    let former = view.agent(&"relay-1".parse()?).context("it is known")?;
    ensure!(!former.alive && former.stopped_at.is_some(), "{former:?}");
    ensure!(
        view.holds
            .iter()
            .all(|hold| hold.target.as_str() == "relay-1")
    );
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn pipelines_whose_names_hash_alike_live_together() -> Result<()> {
    // GIVEN two pipelines that share a lock, and two that do not
    let mut fleet = Fleet::start(FleetOptions::agents(2)).await?;
    let (one, two): (String, String) = sqlx::query_as(
        "SELECT min(name), max(name)
         FROM (SELECT 'p-' || n AS name FROM generate_series(1, 300000) n) names
         GROUP BY hashtext(name) HAVING count(*) > 1 ORDER BY 1 LIMIT 1",
    )
    .fetch_one(fleet.pool())
    .await?;
    for name in [one.as_str(), two.as_str()] {
        fleet.add_file_pipeline(name, "events_a").await?;
    }
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    let together = async |fleet: &Fleet| {
        let owners = fleet.owners().await?;
        ensure!(owners[&one].agent == owners[&two].agent, "{owners:?}");
        anyhow::Ok(owners[&one].agent.clone())
    };
    let owner = together(&fleet).await?;
    let other = if owner == "relay-1" {
        "relay-2"
    } else {
        "relay-1"
    };
    // WHEN one of them is moved, and disabled and enabled again
    let moved = fleet.move_to(&[(&one, other)]).await?;
    fleet.succeeded(moved).await?;
    fleet.wait_until_running().await?;
    // THEN both went, and the one goes on while the other rests
    ensure!(together(&fleet).await? == other, "they did not move");
    for switch in ["relay_disable", "relay_enable"] {
        sqlx::query(sqlx::AssertSqlSafe(format!("SELECT tide.{switch}($1)")))
            .bind(&one)
            .execute(fleet.pool())
            .await?;
        fleet.publish_more(20).await?;
        fleet.wait_until_running().await?;
    }
    together(&fleet).await?;
    // WHEN it is split, THEN the lock that the other still holds is not taken for its own
    let parts = ["1-of-2", "2-of-2"].map(|part| {
        let mut path = fleet.file(&one).into_os_string();
        path.push(format!(".{part}"));
        FileReader::new(path)
    });
    fleet.continues_in(&one, Tap::Files(parts.to_vec()));
    fleet.reconfigure(&one, json!({"shards": 2})).await?;
    fleet
        .wait_until("both shards to run", |view| {
            let shards = view.pipelines.iter();
            let shards = shards.filter(|row| row.name.pipeline_str() == one);
            shards.filter(|row| row.name.shard().is_some()).count() == 2
        })
        .await?;
    fleet.wait_until_running().await?;
    fleet.publish_more(20).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)?;
    Ok(())
}

#[tokio::test]
async fn a_failover_to_a_promoted_standby_is_noticed_and_survived() -> Result<()> {
    // GIVEN agents behind an address that can be led elsewhere, and a standby
    let options = FleetOptions {
        network: Network::Proxied,
        ..FleetOptions::agents(2)
    };
    let mut fleet = Fleet::start(options).await?;
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_balanced().await?;
    let standby = Postgres::start_standby(&fleet.postgres).await?;
    let mut connection = fleet.connection().await?;
    for number in 0..60 {
        let outbox = ["events_a", "events_b"][number % 2];
        by_hand::publish(&mut connection, &fleet.drafts.draw(outbox, "k")).await?;
    }
    drop(connection);
    fleet
        .wait_for_sql(
            "the standby to keep up",
            "SELECT count(*) > 0 AND bool_and(replay_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication",
        )
        .await?;
    // WHEN the address leads to the standby before it is promoted
    fleet.postgres.stop_fast().await?;
    for name in fleet.agent_names() {
        fleet.network(&name).lead_to(standby.port());
    }
    let said = fleet
        .agent("relay-1")
        .log("the server is a standby")
        .await?;
    ensure!(said.contains("target_session_attrs"), "{said}");
    standby.promote().await?;
    // THEN the agents notice that they are elsewhere, and go on there
    for name in fleet.agent_names() {
        fleet.agent(&name).log("PostgreSQL failed over").await?;
    }
    let mut connection = PgConnection::connect(&standby.url(DATABASE)).await?;
    for number in 0..60 {
        let outbox = ["events_a", "events_b"][number % 2];
        by_hand::publish(&mut connection, &fleet.drafts.draw(outbox, "k")).await?;
    }
    for pipeline in ["file-1", "file-2"] {
        let outbox = fleet.pipeline(pipeline).outbox.clone();
        let expected: BTreeSet<Uuid> = fleet
            .drafts
            .entries()
            .iter()
            .filter(|entry| entry.outbox == outbox)
            .map(|entry| entry.event_id)
            .collect();
        let arrived = eventually(
            SOON,
            format!("{pipeline} to deliver everything"),
            async || {
                let arrived: BTreeSet<Uuid> = fleet
                    .deliveries(pipeline)?
                    .iter()
                    .map(|delivery| delivery.envelope.event_id)
                    .collect();
                if arrived == expected {
                    return Ok(Some(()));
                }
                Err(anyhow::anyhow!("{} of {}", arrived.len(), expected.len()))
            },
        );
        arrived.await.with_context(|| fleet.agents_log("relay-1"))?;
    }
    Ok(())
}
