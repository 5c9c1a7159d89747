//! Inboxes: in the outbox's own database exactly once, whatever happens to owners; elsewhere once
//! to whoever looks into the inbox.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tide_catalog::{
    inboxes::{Arrivals, Owner, inbox_create, inbox_find, inbox_store_at},
    messages::Message,
    offsets::offsets_claim,
    schema,
};
use tide_model::{Cursor, Incarnation, PipelineState};
use tide_sandbox::{
    inbox::InboxReader,
    postgres::{Auth, Postgres, PostgresOptions},
    proxy::Proxy,
};
use tide_tests::{
    Fleet, FleetOptions, Network, SOON,
    by_hand::publish,
    catalog::{Catalog, execute},
    command::run,
    fleet::{Tap, owners},
    proof,
};
use time::OffsetDateTime;
use uuid::Uuid;

/// A lease to wait for.
const LEASE: Duration = Duration::from_secs(1);

/// Counts every row that was ever inserted, conflicts not among them, and forgets none.
const COUNT_INSERTS: &str = "
    CREATE TABLE IF NOT EXISTS public.arrivals (inbox text, event_id uuid);
    CREATE OR REPLACE FUNCTION public.count_arrival() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.arrivals VALUES (TG_TABLE_NAME, NEW.event_id);
        RETURN NULL;
    END $$;";

async fn query<T>(fleet: &Fleet, sql: &str) -> Result<T>
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    Ok(sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(fleet.pool())
        .await?)
}

/// Three agents under load, and two pipelines to inboxes of the outbox's own database: one that is
/// told nothing, and one that is told another address of the same server.
async fn at_home(options: FleetOptions) -> Result<(Fleet, Proxy)> {
    let mut fleet = Fleet::start(options).await?;
    let detour = Proxy::to_port(fleet.postgres.port()).await?;
    let url = fleet.url();
    let other_name = fleet
        .postgres
        .url_via(detour.port(), tide_tests::fleet::DATABASE);
    fleet
        .add_inbox_pipeline("plain", "events", &url, json!({}))
        .await?;
    fleet
        .add_inbox_pipeline("named", "events", &url, json!({"postgres_url": other_name}))
        .await?;
    let mut connection = fleet.connection().await?;
    execute(&mut connection, COUNT_INSERTS).await?;
    for inbox in ["plain", "named"] {
        let sql = format!(
            "CREATE TRIGGER count_arrival AFTER INSERT ON tide.inbox_{inbox}
             FOR EACH ROW EXECUTE FUNCTION public.count_arrival();
             GRANT ALL ON public.arrivals TO PUBLIC"
        );
        execute(&mut connection, sql).await?;
    }
    drop(connection);
    fleet.wait_until_running().await?;
    fleet.publish().await?;
    fleet.publish_more(100).await?;
    Ok((fleet, detour))
}

/// The owner of a pipeline.
async fn owner(fleet: &Fleet, pipeline: &str) -> Result<String> {
    fleet.wait_until_running().await?;
    Ok(fleet.owners().await?[pipeline].agent.clone())
}

async fn taken_from(fleet: &Fleet, pipeline: &str, from: &str) -> Result<()> {
    fleet
        .wait_until("another to take over", |view| {
            let owners = owners(view);
            owners
                .get(pipeline)
                .is_some_and(|owner| owner.agent != from)
        })
        .await
        .map(drop)
}

#[tokio::test]
async fn in_the_outbox_s_own_database_nothing_comes_twice_whoever_is_killed() -> Result<()> {
    // GIVEN pipelines to inboxes of the same database, under load, whose consumers forget at once
    // what they have processed, so that no event id is remembered
    let (mut fleet, _detour) = at_home(FleetOptions::agents(3)).await?;
    fleet.disregard("plain");
    execute(
        &mut *fleet.connection().await?,
        "CREATE FUNCTION public.forget() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN DELETE FROM tide.inbox_plain WHERE event_id IN (SELECT event_id FROM arrived); RETURN NULL; END $$;
         CREATE TRIGGER forget AFTER INSERT ON tide.inbox_plain REFERENCING NEW TABLE AS arrived
         FOR EACH STATEMENT EXECUTE FUNCTION public.forget()",
    )
    .await?;
    // WHEN owners are killed again and again
    for _ in 0..6 {
        for pipeline in ["plain", "named"] {
            let victim = owner(&fleet, pipeline).await?;
            fleet.crash(&victim).await?;
            taken_from(&fleet, pipeline, &victim).await?;
            fleet.start_agent(&victim).await?;
        }
        fleet.publish_more(40).await?;
    }
    // THEN both have inserted every message exactly once, in the order of its key
    let published = fleet.settle_load().await?;
    fleet.wait_until_delivered(&published).await?;
    let counted = format!(
        "SELECT count(*) = {} FROM public.arrivals WHERE inbox = 'inbox_plain'",
        published.len()
    );
    fleet
        .wait_for_sql("everything to have come by", &counted)
        .await?;
    fleet.stop_agents().await?;
    let doubles: i64 = query(
        &fleet,
        "SELECT count(*) - count(DISTINCT (inbox, event_id)) FROM public.arrivals",
    )
    .await?;
    ensure!(doubles == 0, "{doubles} messages were inserted twice");
    let arrived: i64 = query(&fleet, "SELECT count(*) FROM public.arrivals").await?;
    ensure!(arrived == 2 * published.len() as i64, "{arrived}");
    proof::exactly_once(&fleet.judge(&published)?)
}

#[tokio::test]
async fn in_the_outbox_s_own_database_a_frozen_owner_writes_nothing_when_it_thaws() -> Result<()> {
    // GIVEN agents under load, each behind a network of its own
    let (mut fleet, _detour) = at_home(FleetOptions {
        lease: LEASE,
        network: Network::Proxied,
        ..FleetOptions::agents(2)
    })
    .await?;
    for _ in 0..3 {
        // WHEN an owner freezes, another goes on, and the first thaws
        let victim = owner(&fleet, "plain").await?;
        fleet.freeze(&victim).await?;
        taken_from(&fleet, "plain", &victim).await?;
        fleet.publish_more(50).await?;
        fleet.agent(&victim).thaw()?;
        fleet.wait_until_balanced().await?;
        fleet.publish_more(20).await?;
    }
    // THEN nothing came twice, and nothing under an older epoch after a newer one
    let accounts = fleet.settle_and_check().await?;
    ensure!(accounts.totals().stale_epochs.is_empty(), "{accounts}");
    proof::exactly_once(&accounts)?;
    let doubles: i64 = query(
        &fleet,
        "SELECT count(*) - count(DISTINCT (inbox, event_id)) FROM public.arrivals",
    )
    .await?;
    ensure!(doubles == 0, "{doubles} messages were inserted twice");
    Ok(())
}

#[tokio::test]
async fn an_old_epoch_puts_nothing_into_an_inbox_and_moves_no_position() -> Result<()> {
    // GIVEN a pipeline that was claimed by one agent and then by another
    let catalog = Catalog::with_pipeline("events", "p").await?;
    let mut connection = catalog.connect().await?;
    inbox_create(&mut connection, "arrivals", None).await?;
    let relation = inbox_find(&mut connection, "arrivals").await?.unwrap();
    let (group, unit) = ("default".parse()?, "p".parse()?);
    let mut claims = Vec::new();
    for agent in ["relay-1", "relay-2"] {
        let incarnation = Incarnation(Uuid::now_v7());
        let units = std::slice::from_ref(&unit);
        let agent = agent.parse()?;
        let claimed = offsets_claim(&mut connection, &group, &agent, incarnation, units);
        claims.extend(claimed.await?);
    }
    let message = Message {
        id: 7,
        event_id: Uuid::now_v7(),
        key: Some("k".to_owned()),
        payload: "{\"a\": 1}".to_owned(),
        headers: "{}".to_owned(),
        created_at: OffsetDateTime::now_utc(),
    };
    let arrivals = Arrivals {
        relation: &relation,
        source: "events",
        messages: std::slice::from_ref(&message),
        headers: &["{}".to_owned()],
    };
    let position = Cursor::beginning().advanced(Some(7), "5:5:".parse()?);
    let rows = "SELECT (SELECT count(*) FROM tide.inbox_arrivals),
                       (SELECT last_change_id FROM tide.relay_consumer_offsets)";
    // WHEN each of them stores a message and a position THEN only the newest epoch's is there
    for (claim, accepted, expected) in [(&claims[0], false, (0, 0)), (&claims[1], true, (1, 7))] {
        let owner = Owner {
            group: &group,
            pipeline: &unit,
            epoch: claim.epoch,
        };
        let stored = inbox_store_at(&mut connection, &arrivals, owner, Some(&position)).await?;
        ensure!(stored == accepted);
        let found: (i64, i64) = sqlx::query_as(rows).fetch_one(&mut connection).await?;
        ensure!(found == expected, "{found:?}");
    }
    // and without a position nothing but the epoch counts
    let old = Owner {
        group: &group,
        pipeline: &unit,
        epoch: claims[0].epoch,
    };
    ensure!(!inbox_store_at(&mut connection, &arrivals, old, None).await?);
    Ok(())
}

#[tokio::test]
async fn in_another_database_redeliveries_show_nowhere() -> Result<()> {
    // GIVEN an inbox on another server, and one in another database of the same server, under load
    let mut fleet = Fleet::start(FleetOptions::agents(3)).await?;
    let other = Postgres::start(PostgresOptions {
        auth: Auth::Password("p@ss/word".to_owned()),
        ..PostgresOptions::default()
    })
    .await?;
    let away = other.create_database("shop").await?;
    let beside = fleet.postgres.create_database("beside").await?;
    for url in [&away, &beside] {
        schema::migrate(&mut PgConnection::connect(url).await?).await?;
    }
    let file = fleet.scratch.path().join("password");
    std::fs::write(&file, "p@ss/word\n")?;
    let told = format!(
        "postgres://postgres:${{file:{}}}@127.0.0.1:{}/shop",
        file.display(),
        other.port()
    );
    fleet
        .add_inbox_pipeline("away", "events", &away, json!({"postgres_url": told}))
        .await?;
    fleet
        .add_inbox_pipeline("beside", "events", &beside, json!({"postgres_url": beside}))
        .await?;
    fleet.wait_until_running().await?;
    fleet.publish().await?;
    // WHEN owners are killed, and the other server is restarted
    for _ in 0..3 {
        for pipeline in ["away", "beside"] {
            let victim = owner(&fleet, pipeline).await?;
            fleet.crash(&victim).await?;
            taken_from(&fleet, pipeline, &victim).await?;
            fleet.start_agent(&victim).await?;
        }
        fleet.publish_more(50).await?;
    }
    // THEN each message is there once, in the order of its key
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn what_the_consumer_s_own_rules_refuse_goes_to_the_dead_letters() -> Result<()> {
    // GIVEN an inbox with a constraint of its consumer's
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let url = fleet.url();
    fleet
        .add_inbox_pipeline("strict", "events", &url, json!({"batch_size": 100}))
        .await?;
    execute(
        &mut *fleet.connection().await?,
        "ALTER TABLE tide.inbox_strict ADD CONSTRAINT wanted CHECK ((payload ->> 'sequence')::int NOT IN (5, 31))",
    )
    .await?;
    // WHEN a transaction brings messages that do not fit among others that do
    let mut connection = fleet.connection().await?;
    execute(&mut connection, "BEGIN").await?;
    for _ in 0..40 {
        publish(&mut connection, &fleet.drafts.draw("events", "k")).await?;
    }
    execute(&mut connection, "COMMIT").await?;
    drop(connection);
    // THEN exactly those are put aside, with the reason, and the others arrive in order
    fleet.wait_for_deliveries("strict", 38).await?;
    let refused: Vec<(serde_json::Value, String)> =
        sqlx::query_as("SELECT payload -> 'sequence', error FROM tide.relay_dlq ORDER BY id")
            .fetch_all(fleet.pool())
            .await?;
    ensure!(
        refused
            .iter()
            .map(|(sequence, _)| sequence)
            .eq([&json!(5), &json!(31)]),
        "{refused:?}"
    );
    ensure!(refused[0].1.contains("\"wanted\""), "{refused:?}");
    let entries = fleet.drafts.entries().to_vec();
    for gone in [5, 31] {
        fleet.drafts.forget(entries[gone].event_id);
    }
    let arrived = fleet.deliveries("strict")?;
    let expected: Vec<Uuid> = fleet
        .drafts
        .entries()
        .iter()
        .map(|entry| entry.event_id)
        .collect();
    ensure!(arrived.iter().map(|one| one.envelope.event_id).eq(expected));
    let row = fleet.row("strict").await?;
    ensure!(
        row.last_change_id == 40 && row.state == Some(PipelineState::Running),
        "{row:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_missing_inbox_is_named_and_heals_when_it_is_created() -> Result<()> {
    // GIVEN a pipeline to an inbox that nobody has created
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let config = json!({"sink_type": "pg-inbox", "inbox": "later"});
    let tap = Tap::Inbox(InboxReader::new(&fleet.url(), "later"));
    fleet.add("later", "events", config, tap).await?;
    let row = fleet
        .wait_for_state("later", PipelineState::Misconfigured)
        .await?;
    // THEN it says what to do
    let reason = row.state_reason.unwrap_or_default();
    ensure!(reason.contains("inbox later does not exist"), "{reason}");
    ensure!(reason.contains("tidectl inbox create later"), "{reason}");
    // WHEN that is done THEN it runs; and the same when the inbox goes and comes back
    let url = fleet.url();
    for attempt in 1..=2 {
        let words = ["inbox", "create", "later", "--source", "database"];
        let environment = [("TIDE_POSTGRES_URL", url.as_str())];
        let created = run("tidectl", &words, &environment, SOON).await?;
        ensure!(created.code == Some(0), "{created:?}");
        fleet
            .wait_for_state("later", PipelineState::Running)
            .await?;
        let entry = fleet.drafts.draw("events", "k");
        publish(&mut *fleet.connection().await?, &entry).await?;
        fleet.wait_for_deliveries("later", 1).await?;
        if attempt == 1 {
            fleet.drafts.forget(entry.event_id);
            let mut connection = fleet.connection().await?;
            execute(&mut connection, "SELECT tide.inbox_drop('later')").await?;
            let entry = fleet.drafts.draw("events", "k");
            publish(&mut connection, &entry).await?;
            fleet.drafts.forget(entry.event_id);
            fleet
                .wait_for_state("later", PipelineState::Misconfigured)
                .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn no_password_of_another_database_is_ever_shown() -> Result<()> {
    // GIVEN an inbox on a server that takes another password than the pipeline has
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    let other = Postgres::start(PostgresOptions {
        auth: Auth::Password("right".to_owned()),
        ..PostgresOptions::default()
    })
    .await?;
    other.create_database("shop").await?;
    let mut spec = fleet.spec("relay-1");
    spec.env
        .push(("INBOX_PASSWORD".to_owned(), "geheim".to_owned()));
    fleet.start_as(spec).await?;
    let port = other.port();
    let told = format!("postgres://postgres:${{env:INBOX_PASSWORD}}@127.0.0.1:{port}/shop");
    let config = json!({"sink_type": "pg-inbox", "inbox": "o", "postgres_url": told});
    fleet.add("away", "events", config, Tap::Nothing).await?;
    // THEN it says that, and where, and not with which password
    let row = fleet
        .wait_for_state("away", PipelineState::Misconfigured)
        .await?;
    let reason = row.state_reason.unwrap_or_default();
    ensure!(
        reason.contains(&format!("127.0.0.1:{port}/shop")) && reason.contains("password"),
        "{reason}"
    );
    let log = fleet.agent("relay-1").whole_log();
    ensure!(
        !log.contains("geheim") && !reason.contains("geheim"),
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn a_lock_on_an_inbox_holds_up_that_inbox_and_nothing_else() -> Result<()> {
    // GIVEN pipelines to an inbox and to a file, of one agent
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let url = fleet.url();
    fleet
        .add_inbox_pipeline("locked", "events", &url, json!({}))
        .await?;
    fleet.add_file_pipeline("file", "events").await?;
    fleet.wait_until_running().await?;
    // WHEN somebody locks the inbox for long
    let mut connection = PgConnection::connect(&url).await?;
    execute(&mut connection, "BEGIN; LOCK TABLE tide.inbox_locked").await?;
    for _ in 0..100 {
        let entry = fleet.drafts.draw("events", "k");
        publish(&mut *fleet.connection().await?, &entry).await?;
    }
    // THEN the other pipeline delivers and stores its position, and the first says what is in the way
    fleet.wait_for_deliveries("file", 100).await?;
    fleet
        .wait_for_sql(
            "the position",
            "SELECT last_change_id = 100 FROM tide.relay_consumer_offsets WHERE name = 'file'",
        )
        .await?;
    let row = fleet
        .wait_for_state("locked", PipelineState::Retrying)
        .await?;
    let reason = row.state_reason.unwrap_or_default();
    ensure!(reason.contains("holds a lock on the inbox"), "{reason}");
    // and goes on when the lock is gone
    execute(&mut connection, "COMMIT").await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_consumer_settles_messages_and_the_janitor_deletes_only_those() -> Result<()> {
    // GIVEN an inbox that remembers nothing, a consumer that was let in, and an agent that cleans up
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    let url = fleet.url();
    fleet
        .add_inbox_pipeline("orders", "events", &url, json!({}))
        .await?;
    let mut connection = fleet.connection().await?;
    execute(
        &mut connection,
        "UPDATE tide.inboxes SET retention = '0';
         CREATE ROLE shop LOGIN; SELECT tide.inbox_grant('orders', 'shop')",
    )
    .await?;
    fleet
        .launch_changed("relay-1", |spec| spec.with("--janitor-interval", "0.05"))
        .await?;
    for _ in 0..3 {
        publish(&mut connection, &fleet.drafts.draw("events", "k")).await?;
    }
    fleet.wait_for_deliveries("orders", 3).await?;
    // WHEN it settles one message, and fails with another
    let entries = fleet.drafts.entries().to_vec();
    execute(&mut connection, "SET ROLE shop").await?;
    let settled: i64 = sqlx::query_scalar("SELECT tide.inbox_mark_processed('orders', $1, $1)")
        .bind(entries[0].event_id)
        .fetch_one(&mut *connection)
        .await?;
    let failed: bool =
        sqlx::query_scalar("SELECT tide.inbox_mark_failed('orders', $1, 'no stock')")
            .bind(entries[1].event_id)
            .fetch_one(&mut *connection)
            .await?;
    ensure!(settled == 1 && failed);
    let refused = execute(&mut connection, "DELETE FROM tide.inbox_orders").await;
    ensure!(refused.is_err(), "a consumer deletes nothing");
    execute(&mut connection, "RESET ROLE").await?;
    // THEN the janitor takes the first and leaves the others, whatever their age
    fleet
        .wait_for_sql(
            "the settled message to be gone",
            "SELECT count(*) = 2 AND bool_and(processed_at IS NULL) FROM tide.inbox_orders",
        )
        .await?;
    let (pending, tried): (i64, i64) =
        sqlx::query_as("SELECT pending, failed FROM tide.inbox_status('orders')")
            .fetch_one(&mut *connection)
            .await?;
    ensure!((pending, tried) == (2, 1));
    // and a second settling of all says how many were left
    let rest: i64 = sqlx::query_scalar(
        "SELECT tide.inbox_mark_processed('orders', VARIADIC (SELECT array_agg(event_id) FROM tide.outbox_events))",
    )
    .fetch_one(&mut *connection)
    .await?;
    ensure!(rest == 2, "{rest}");
    fleet
        .wait_for_sql(
            "an empty inbox",
            "SELECT NOT EXISTS (SELECT FROM tide.inbox_orders)",
        )
        .await
}
