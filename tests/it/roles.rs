//! Least privilege, by connecting as users that are in one role only.

use std::borrow::Cow;

use anyhow::{Result, bail, ensure};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tide_catalog::{
    holds::Breaking,
    intent::{Actor, MoveKind, drain_begin, move_begin, undrain},
    operations::{operation_cancel, operation_list, operation_settle},
    outboxes::{NewMessage, outbox_create, outbox_drop, outbox_publish, outbox_status},
    pipelines::{pipeline_delete, pipeline_disable, pipeline_enable, pipeline_set},
};
use tide_model::{PipelineState, hold::DrainTerms, operation::Move};
use tide_sandbox::{
    http::{Behaviour, Receiver},
    postgres::{Auth, PostgresOptions},
};
use tide_tests::{
    Fleet, FleetOptions, SOON, by_hand::publish, catalog::execute, command::run, proof,
};

const PASSWORD: &str = "open sesame";

/// A fleet without agents whose server asks for passwords, with an outbox, a pipeline and a user
/// for each role: `app`, `agent`, `alice` and `bob` (both administrators), and `nobody`.
async fn with_users() -> Result<Fleet> {
    let postgres = PostgresOptions {
        auth: Auth::Password("secret".to_owned()),
        ..PostgresOptions::default()
    };
    let mut fleet = Fleet::start(FleetOptions {
        postgres,
        ..FleetOptions::agents(0)
    })
    .await?;
    let mut connection = fleet.connection().await?;
    for (user, role) in [
        ("app", Some("tide_publisher")),
        ("agent", Some("tide_relay")),
        ("alice", Some("tide_admin")),
        ("bob", Some("tide_admin")),
        ("nobody", None),
    ] {
        execute(
            &mut connection,
            format!("CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'"),
        )
        .await?;
        if let Some(role) = role {
            execute(&mut connection, format!("GRANT {role} TO {user}")).await?;
        }
    }
    drop(connection);
    fleet.add_file_pipeline("file", "events").await?;
    Ok(fleet)
}

fn url(fleet: &Fleet, user: &str) -> String {
    fleet
        .postgres
        .url_for(user, PASSWORD, tide_tests::fleet::DATABASE)
}

async fn connect(fleet: &Fleet, user: &str) -> Result<PgConnection> {
    Ok(PgConnection::connect(&url(fleet, user)).await?)
}

/// Fails unless the server refuses the statement for want of rights.
async fn forbidden(connection: &mut PgConnection, sql: &str) -> Result<()> {
    let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await;
    let code = match refused {
        Ok(_) => bail!("permitted: {sql}"),
        Err(error) => error
            .as_database_error()
            .and_then(|error| error.code().map(Cow::into_owned)),
    };
    ensure!(code.as_deref() == Some("42501"), "{code:?}: {sql}");
    Ok(())
}

fn message(outbox: &str) -> NewMessage {
    NewMessage {
        outbox: outbox.to_owned(),
        payload: json!({"a": 1}),
        headers: json!({}),
        key: None,
        event_id: None,
    }
}

#[tokio::test]
async fn a_publisher_can_publish_and_nothing_else() -> Result<()> {
    // GIVEN a user that is in tide_publisher only
    let fleet = with_users().await?;
    let mut app = connect(&fleet, "app").await?;
    // THEN it may publish, through the function or with an INSERT of what is its to say
    outbox_publish(&mut app, &message("events")).await?;
    execute(
        &mut app,
        "INSERT INTO tide.outbox_events (key, payload, headers) VALUES ('k', '1', '{}')",
    )
    .await?;
    // and neither choose its place in the order, nor read, change or take back, nor manage
    for sql in [
        "INSERT INTO tide.outbox_events (id, payload) OVERRIDING SYSTEM VALUE VALUES (99, '1')",
        "INSERT INTO tide.outbox_events (xid, payload) VALUES ('5'::xid8, '1')",
        "INSERT INTO tide.outbox_events (created_at, payload) VALUES (now(), '1')",
        "SELECT * FROM tide.outbox_events",
        "UPDATE tide.outbox_events SET payload = '2'",
        "DELETE FROM tide.outbox_events",
        "TRUNCATE tide.outbox_events",
        "SELECT nextval('tide.outbox_events_id_seq')",
        "SELECT setval('tide.outbox_events_id_seq', 1)",
        "SELECT * FROM tide.pipelines",
        "SELECT * FROM tide.relay_dlq",
        "SELECT * FROM tide.relay_status()",
        "SELECT tide.relay_set_outbox('p', 'events', '{\"sink_type\": \"null\"}')",
        "SELECT tide.relay_disable('file')",
        "SELECT tide.relay_delete('file')",
        "SELECT tide.outbox_create('mine')",
        "SELECT tide.outbox_drop('events')",
        "SELECT tide.drain_begin('default', 'relay-1', 'me')",
        "INSERT INTO tide.events (relay_group_id, actor, kind, subject) VALUES ('', '', '', '')",
        "CREATE TABLE tide.mine (id int)",
    ] {
        forbidden(&mut app, sql).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_needs_no_more_than_the_relay_role() -> Result<()> {
    // GIVEN agents that log in as a user that is in tide_relay only
    let mut fleet = with_users().await?;
    let receiver = std::sync::Arc::new(Receiver::start().await?);
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({}))
        .await?;
    for name in ["relay-1", "relay-2"] {
        let spec = fleet.spec(name).at(&url(&fleet, "agent"));
        fleet.start_as(spec).await?;
    }
    fleet.wait_until_balanced().await?;
    // WHEN they do everything that agents do: deliver, put a message aside, pause, hand over, drain,
    // take over from a dead one, go on in a new session
    receiver.script("/hook", [Behaviour::Respond(400)]);
    let refused = fleet.drafts.draw("events", "k");
    publish(&mut *fleet.connection().await?, &refused).await?;
    fleet
        .wait_for_sql(
            "a dead letter",
            "SELECT EXISTS (SELECT FROM tide.relay_dlq)",
        )
        .await?;
    fleet.drafts.forget(refused.event_id);
    receiver.script("/hook", [Behaviour::Respond(410)]);
    let unwanted = fleet.drafts.draw("events", "k");
    publish(&mut *fleet.connection().await?, &unwanted).await?;
    fleet
        .wait_for_sql(
            "a pause",
            "SELECT EXISTS (SELECT FROM tide.holds WHERE kind = 'pause')",
        )
        .await?;
    sqlx::query("SELECT tide.relay_resume('hook')")
        .execute(fleet.pool())
        .await?;
    fleet.disregard("file"); // It has delivered what the other has put aside.
    fleet.publish().await?;
    fleet.succeeded(fleet.drain("relay-1").await?).await?;
    fleet.undrain("relay-1").await?;
    fleet.wait_until_balanced().await?;
    fleet.crash("relay-2").await?;
    fleet.wait_until_running().await?;
    fleet.end_lock_session("relay-1").await?;
    fleet.publish_more(50).await?;
    fleet.wait_until_running().await?;
    let url = url(&fleet, "agent");
    let status = run("tide-agent", &["status", "--postgres-url", &url], &[], SOON).await?;
    ensure!(status.stdout.contains("hook"), "{status:?}");
    // THEN no right was missing
    for name in fleet.agent_names() {
        let log = fleet.agent(&name).whole_log();
        ensure!(!log.contains("permission denied"), "{log}");
    }
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_relay_can_neither_publish_nor_manage() -> Result<()> {
    let fleet = with_users().await?;
    let mut agent = connect(&fleet, "agent").await?;
    for sql in [
        "SELECT tide.outbox_publish('events', '1')",
        "UPDATE tide.outbox_events SET payload = '2'",
        "SELECT tide.relay_set_outbox('p', 'events', '{\"sink_type\": \"null\"}')",
        "SELECT tide.relay_delete('file')",
        "SELECT tide.outbox_create('mine')",
        "SELECT tide.outbox_drop('events')",
        "DELETE FROM tide.relay_dlq",
        "DELETE FROM tide.events",
        "UPDATE tide.events SET actor = 'somebody else'",
        "INSERT INTO tide.holds (relay_group_id, agent, kind, actor) VALUES ('default', 'a', 'drain', 'me')",
        "SELECT setval('tide.epoch', 1)",
    ] {
        forbidden(&mut agent, sql).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_administrator_can_manage_everything_but_not_rewrite_history() -> Result<()> {
    // GIVEN two administrators, and an agent that is registered
    let mut fleet = with_users().await?;
    fleet.start_agent("relay-1").await?;
    let (mut alice, mut bob) = (
        connect(&fleet, "alice").await?,
        connect(&fleet, "bob").await?,
    );
    // WHEN one manages outboxes and pipelines
    outbox_create(&mut alice, "hers", None).await?;
    let config = json!({"sink_type": "null"});
    pipeline_set(&mut alice, "hers", "hers", &config).await?;
    outbox_publish(&mut alice, &message("hers")).await?;
    pipeline_disable(&mut bob, "hers").await?;
    pipeline_enable(&mut bob, "hers").await?;
    ensure!(outbox_status(&mut bob, Some("hers")).await?[0].last_id == 1);
    // and operations
    let (group, agent) = (fleet.group().clone(), "relay-1".parse()?);
    let actor = Actor {
        name: "alice".to_owned(),
        reason: "maintenance".to_owned(),
    };
    let plain = DrainTerms::default();
    fleet.wait_until_running().await?;
    let drain = drain_begin(&mut alice, &group, &agent, &actor, None, plain).await?;
    operation_settle(&mut bob, drain).await?;
    operation_cancel(&mut bob, drain, "bob").await?;
    let moves = [Move {
        pipeline: "hers".parse()?,
        from: None,
        to: "relay-1".parse()?,
        reason: String::new(),
    }];
    let operation = move_begin(&mut alice, &group, &moves, MoveKind::Move, &actor, None).await?;
    fleet.succeeded(operation).await?;
    let drain = drain_begin(&mut alice, &group, &agent, &actor, None, plain).await?;
    fleet.succeeded(drain).await?;
    undrain(&mut bob, &group, &agent, &actor, Breaking::Never).await?;
    ensure!(operation_list(&mut bob, &group, 10, None).await?.len() == 4);
    // THEN the other can go on with what the first has made, and drop it
    pipeline_delete(&mut bob, "hers").await?;
    outbox_drop(&mut bob, "hers").await?;
    // but what was done stays on record
    for sql in [
        "DELETE FROM tide.events",
        "UPDATE tide.events SET actor = 'somebody else'",
        "TRUNCATE tide.events",
    ] {
        forbidden(&mut alice, sql).await?;
    }
    let actors: Vec<String> = sqlx::query_scalar("SELECT DISTINCT actor FROM tide.events WHERE subject = 'hers' AND kind LIKE 'pipeline.%' ORDER BY actor")
        .fetch_all(&mut alice)
        .await?;
    assert_eq!(actors, ["alice", "bob"]);
    Ok(())
}

#[tokio::test]
async fn a_login_without_rights_is_told_which_it_needs() -> Result<()> {
    let fleet = with_users().await?;
    let url = url(&fleet, "nobody");
    let environment = [("TIDE_POSTGRES_URL", url.as_str())];
    for command in [&["--metrics-addr", "127.0.0.1:0"][..], &["status"]] {
        let refused = run("tide-agent", command, &environment, SOON).await?;
        refused.explains(1, "permission denied", "GRANT tide_relay TO")?;
        ensure!(!refused.stderr.contains(PASSWORD));
    }
    // A publisher is no agent either.
    let url = fleet
        .postgres
        .url_for("app", PASSWORD, tide_tests::fleet::DATABASE);
    let environment = [("TIDE_POSTGRES_URL", url.as_str())];
    let refused = run(
        "tide-agent",
        &["--metrics-addr", "127.0.0.1:0"],
        &environment,
        SOON,
    )
    .await?;
    refused.explains(1, "permission denied", "GRANT tide_relay TO")
}

#[tokio::test]
async fn rights_that_are_taken_away_stop_one_pipeline_until_they_are_back() -> Result<()> {
    // GIVEN an agent with the rights that it needs, and two pipelines
    let mut fleet = with_users().await?;
    fleet.add_file_pipeline("neighbour", "others").await?;
    let spec = fleet.spec("relay-1").at(&url(&fleet, "agent"));
    fleet.start_as(spec).await?;
    fleet.wait_until_running().await?;
    let mut connection = fleet.connection().await?;
    publish(&mut connection, &fleet.drafts.draw("events", "k")).await?;
    fleet.wait_for_deliveries("file", 1).await?;
    // WHEN somebody takes away the right to read one of the outboxes
    execute(
        &mut connection,
        "REVOKE SELECT ON tide.outbox_events FROM tide_relay",
    )
    .await?;
    publish(&mut connection, &fleet.drafts.draw("events", "k")).await?;
    // THEN its pipeline says what is wrong and since when
    let row = fleet
        .wait_for_state("file", PipelineState::Retrying)
        .await?;
    let reason = row.state_reason.unwrap_or_default();
    ensure!(
        reason.contains("permission denied for table outbox_events"),
        "{reason}"
    );
    ensure!(row.state_since.is_some());
    // and the other one goes on, new messages included
    publish(&mut connection, &fleet.drafts.draw("others", "k")).await?;
    fleet.wait_for_deliveries("neighbour", 1).await?;
    // WHEN the right is back THEN nothing is missing
    execute(
        &mut connection,
        "GRANT SELECT ON tide.outbox_events TO tide_relay",
    )
    .await?;
    fleet.wait_for_deliveries("file", 2).await?;
    drop(connection);
    proof::exactly_once(&fleet.settle_and_check().await?)
}
