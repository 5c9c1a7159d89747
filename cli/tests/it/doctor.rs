use serde_json::Value;
use sqlx::Executor as _;
use tide_catalog::preflight::server_facts;
use tide_sandbox::{
    pgbouncer::PgBouncer,
    postgres::{Postgres, PostgresOptions},
};

use crate::fixture::{Fixture, Run};

/// As a careful operator sets a server up; those of tests trade durability for speed.
async fn durable() -> Fixture {
    let options = PostgresOptions {
        durable: true,
        settings: vec![("max_prepared_transactions".to_owned(), "5".to_owned())],
        ..PostgresOptions::default()
    };
    let postgres = Postgres::start(options).await.unwrap();
    let url = postgres.create_database("shop").await.unwrap();
    Fixture { postgres, url }
}

fn findings(run: &Run) -> Vec<Value> {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

fn finding<'a>(findings: &'a [Value], check: &str) -> &'a Value {
    let found = findings.iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("no {check} in {findings:?}"))
}

#[tokio::test]
async fn a_database_without_a_catalog_is_examined_all_the_same() {
    let fixture = durable().await;
    let run = fixture.run(&["doctor", "-o", "json"]).await.expect(6);
    let found = findings(&run);
    for check in [
        "database.reachable",
        "database.version",
        "database.primary",
        "database.pooler",
        "settings.idle_session_timeout",
        "settings.max_connections",
        "settings.max_locks_per_transaction",
        "settings.autovacuum",
        "horizon.open_transactions",
        "horizon.prepared_transactions",
        "horizon.replication_slots",
        "clock",
    ] {
        assert_eq!(finding(&found, check)["status"], "ok", "{check}: {found:?}");
    }
    let catalog = finding(&found, "catalog.version");
    assert_eq!(catalog["status"], "fail");
    assert!(
        catalog["hint"]
            .as_str()
            .unwrap()
            .contains("tidectl migrate")
    );
    // Warnings alone are no failure: nothing is there that would need an agent.
    fixture.ok(&["migrate"]).await;
    fixture
        .run(&["doctor"])
        .await
        .expect(0)
        .prints("control_plane.leader")
        .prints("hint: start tide-control-plane")
        .prints("0 failures");
}

#[tokio::test]
async fn what_is_in_the_way_is_named_with_what_to_do() {
    let fixture = durable().await;
    fixture.ok(&["migrate"]).await;
    fixture.ok(&["outbox", "create", "order_events"]).await;
    let file = "name: orders\noutbox: order_events\nconfig: {sink_type: 'null'}";
    let applied = fixture.fed(&["pipeline", "apply", "-f", "-"], file).await;
    applied.expect(0);
    let mut connection = fixture.connection().await;
    connection
        .execute(
            "UPDATE tide.pipelines SET config = '{\"sink_type\": \"nul\"}' WHERE name = 'orders';
             INSERT INTO tide.holds (relay_group_id, agent, kind, actor, reason, created_at)
             VALUES ('default', 'relay-9', 'cordon', 'ana', 'kernel', now() - interval '2 days');
             ALTER DATABASE shop SET synchronous_commit = off",
        )
        .await
        .unwrap();
    let run = fixture.run(&["doctor", "-o", "ndjson"]).await.expect(6);
    let found: Vec<Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let said = |check: &str| {
        let finding = finding(&found, check);
        let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("detail"), text("hint"))
    };
    let (status, detail, hint) = said("pipelines.configuration");
    assert!(status == "fail" && detail.contains("orders: "), "{detail}");
    assert!(hint.contains("tidectl pipeline"), "{hint}");
    let (status, detail, hint) = said("pipelines.owned");
    assert!(status == "fail" && detail.contains("orders"), "{detail}");
    assert!(hint.contains("tidectl explain orders"), "{hint}");
    let (status, detail, _) = said("agents.alive");
    assert!(status == "fail", "{detail}");
    let (status, detail, _) = said("holds");
    assert!(
        status == "warn" && detail.contains("relay-9 cordoned by ana"),
        "{detail}"
    );
    let (status, detail, _) = said("settings.durability");
    assert!(
        status == "warn" && detail.contains("synchronous_commit"),
        "{detail}"
    );
}

#[tokio::test]
async fn a_user_s_rights_are_judged_by_what_it_is_for() {
    let fixture = Fixture::with_pipelines(&[]).await;
    let mut connection = fixture.connection().await;
    for sql in [
        "CREATE ROLE shop_app LOGIN PASSWORD 'geheim' IN ROLE tide_publisher",
        "CREATE ROLE relay LOGIN PASSWORD 'geheim' IN ROLE tide_relay",
        "CREATE ROLE ops LOGIN PASSWORD 'geheim' IN ROLE tide_admin",
        "CREATE ROLE nobody LOGIN PASSWORD 'geheim'",
        "CREATE ROLE part LOGIN PASSWORD 'geheim' IN ROLE tide_relay",
        "REVOKE INSERT ON tide.relay_dlq FROM tide_relay",
        "GRANT INSERT ON tide.relay_dlq TO relay",
    ] {
        connection.execute(sql).await.unwrap();
    }
    let asked = async |user: &str, part: &str| {
        let url = fixture.postgres.url_for(user, "geheim", "shop");
        let words = [
            "doctor",
            "--for",
            part,
            "-o",
            "json",
            "--postgres-url",
            &url,
        ];
        let found = findings(&fixture.run(&words).await);
        finding(&found, &format!("rights.{part}")).clone()
    };
    for (user, part) in [
        ("relay", "agent"),
        ("ops", "operator"),
        ("ops", "publisher"),
    ] {
        assert_eq!(asked(user, part).await["status"], "ok", "{user} as {part}");
    }
    let lacks = asked("part", "agent").await;
    assert_eq!(lacks["status"], "fail");
    assert_eq!(
        lacks["detail"],
        "part lacks for agents: INSERT ON tide.relay_dlq"
    );
    assert_eq!(lacks["hint"], "GRANT tide_relay TO part;");
    let lacks = asked("relay", "publisher").await["detail"].to_string();
    assert!(
        lacks.contains("INSERT (event_id, key, payload, headers) ON tide.outbox_order_events"),
        "{lacks}"
    );
    assert_eq!(asked("relay", "operator").await["status"], "fail");
}

#[tokio::test]
async fn whatever_holds_the_horizon_is_found_and_nothing_else() {
    let fixture = durable().await;
    let mut asker = fixture.connection().await;
    let mut holder = fixture.connection().await;
    // GIVEN a transaction that only looks, but keeps its snapshot
    for sql in [
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "SELECT FROM pg_class LIMIT 1",
    ] {
        holder.execute(sql).await.unwrap();
    }
    // AND one that waits to be committed, AND one that holds nothing between its statements
    let mut writer = fixture.connection().await;
    for sql in [
        "BEGIN",
        "CREATE TABLE kept ()",
        "PREPARE TRANSACTION 'it''s'",
        "BEGIN",
        "SELECT FROM pg_class LIMIT 1",
    ] {
        writer.execute(sql).await.unwrap();
    }
    // THEN the first two are found
    let facts = server_facts(&mut asker).await.unwrap();
    let [open] = &facts.open[..] else {
        panic!("{facts:?}")
    };
    assert_eq!(open.state, "idle in transaction");
    let [prepared] = &facts.prepared[..] else {
        panic!("{facts:?}")
    };
    assert_eq!((&*prepared.gid, &*prepared.database), ("it's", "shop"));
    // WHEN they end THEN there is nothing
    holder.execute("COMMIT").await.unwrap();
    writer.execute("COMMIT").await.unwrap();
    writer.execute("ROLLBACK PREPARED 'it''s'").await.unwrap();
    let facts = server_facts(&mut asker).await.unwrap();
    assert!(
        facts.open.is_empty() && facts.prepared.is_empty(),
        "{facts:?}"
    );
}

#[tokio::test]
async fn a_pooler_and_a_server_that_is_gone_are_failures_and_the_rest_is_examined() {
    let mut fixture = durable().await;
    let pooler = PgBouncer::start(&fixture.postgres).await.unwrap();
    fixture.url = fixture.postgres.url_via(pooler.port(), "shop");
    let run = fixture.run(&["doctor", "-o", "json"]).await.expect(6);
    let found = findings(&run);
    assert_eq!(finding(&found, "database.pooler")["status"], "fail");
    assert_eq!(finding(&found, "control_plane.reachable")["status"], "warn");
    drop(pooler);
    let run = fixture.run(&["doctor", "-o", "yaml"]).await.expect(6);
    run.prints("check: database.reachable")
        .prints("status: fail");
    let run = fixture
        .run(&["doctor", "--postgres-url", "mysql://geheim@host/db"])
        .await
        .expect(2);
    assert!(!run.stderr.contains("geheim"), "{run:?}");
}
