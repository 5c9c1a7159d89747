use crate::{
    agent::StandIn,
    fixture::{Fixture, finish, tidectl},
};

#[tokio::test]
async fn an_empty_catalog_is_degraded_for_nobody_is_there() {
    let fixture = Fixture::migrated().await;
    let run = fixture.run(&["status"]).await.expect(3);
    run.prints("! no agent is alive")
        .prints("DEGRADED  group default  0 pipelines");
    fixture
        .run(&["fleet", "status"])
        .await
        .expect(3)
        .prints("FLEET default  DEGRADED");
    assert_eq!(fixture.ok(&["agent", "ls", "-o", "json"]).await, "[]\n");
    fixture
        .run(&["agent", "show", "relay-1"])
        .await
        .expect(1)
        .says("hint: there is no agent yet");
}

#[tokio::test]
async fn a_fleet_at_rest_is_healthy() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _agent = StandIn::start(&fixture, "relay-1", &["orders"]).await;
    let run = fixture.run(&["status"]).await.expect(0);
    run.prints("orders    relay-1")
        .prints("HEALTHY  group default  1 pipeline ");
    let run = fixture.run(&["fleet", "status"]).await.expect(0);
    run.prints("FLEET default  HEALTHY  1 agent  1 pipeline ")
        .prints("source database 127.0.0.1:");
    let owned = fixture
        .json(&["pipeline", "list", "--owner", "relay-1"])
        .await;
    assert_eq!(owned[0]["name"], "orders");
    let shown = fixture.json(&["agent", "show", "relay-1"]).await;
    assert_eq!(
        (shown["pipelines"].as_u64(), &shown["owned"][0]["name"]),
        (Some(1), &"orders".into())
    );
}

#[tokio::test]
async fn owned_but_not_progressing_is_called_that() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _agent = StandIn::start(&fixture, "relay-1", &["orders"]).await;
    fixture
        .ok(&["outbox", "publish", "order_events", "--payload", "1"])
        .await;
    fixture
        .ok(&["outbox", "publish", "order_events", "--payload", "2"])
        .await;
    let run = fixture
        .run(&["status", "--interval", "100ms"])
        .await
        .expect(3);
    let run = run.prints("! orders (relay-1) is owned but not progressing: 2 messages waiting");
    assert!(
        run.stdout.lines().nth(1).unwrap().contains("stalled"),
        "{run:?}"
    );
    let status = fixture.json(&["status", "--interval", "100ms"]).await;
    assert_eq!(status["pipelines"][0]["stalled"], true);
    assert_eq!(status["pipelines"][0]["lag_rows"], 2);
    // One look cannot tell.
    fixture.run(&["status", "--interval", "0"]).await.expect(0);
}

#[tokio::test]
async fn an_unowned_pipeline_is_degraded() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _agent = StandIn::start(&fixture, "relay-1", &[]).await;
    let run = fixture.run(&["status"]).await.expect(3);
    run.prints("! orders is unowned: waiting to be taken over");
}

#[tokio::test]
async fn a_missing_catalog_says_how_to_install_it() {
    let fixture = Fixture::empty().await;
    for words in [
        &["status"][..],
        &["fleet", "status"],
        &["outbox", "list"],
        &["pipeline", "list"],
    ] {
        let run = fixture.run(words).await.expect(1);
        run.says(
            "error: the database has no Tide catalog\n\nhint: install it with: tidectl migrate",
        );
    }
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_never_shown() {
    let fixture = Fixture::migrated().await;
    let mut command = tidectl(&["status"]);
    let url = fixture.postgres.url_for("postgres", "falsch", "shop");
    command.env("TIDE_POSTGRES_URL", url);
    let run = finish(command, "").await.expect(8);
    assert!(!run.stderr.contains("falsch"), "{run:?}");
    run.says("password authentication failed")
        .says("hint: check user and password");
}

#[tokio::test]
async fn an_unreachable_database_is_an_error_with_its_address() {
    let mut fixture = Fixture::migrated().await;
    fixture.postgres.stop_fast().await.unwrap();
    let run = fixture.run(&["status"]).await.expect(1);
    assert!(!run.stderr.contains("geheim"), "{run:?}");
    let address = format!(
        "could not connect to PostgreSQL at 127.0.0.1:{}",
        fixture.postgres.port()
    );
    run.says(&address).says("hint: is the server running");
}

#[tokio::test]
async fn a_frozen_database_is_not_waited_for_longer_than_allowed() {
    let fixture = Fixture::migrated().await;
    fixture.postgres.freeze().unwrap();
    let run = fixture
        .run(&["status", "--timeout", "300ms"])
        .await
        .expect(1);
    run.says("did not answer within 0.3s").says("--timeout");
}

#[tokio::test]
async fn a_missing_database_is_named() {
    let fixture = Fixture::empty().await;
    let mut command = tidectl(&["status"]);
    command.env("TIDE_POSTGRES_URL", fixture.postgres.url("nothing"));
    let run = finish(command, "").await.expect(1);
    run.says("database \"nothing\" does not exist")
        .says("hint: create the database first");
}

#[tokio::test]
async fn groups_see_only_their_own() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _agent = StandIn::start(&fixture, "relay-1", &["orders"]).await;
    let run = fixture
        .run(&["status", "--relay-group-id", "blue"])
        .await
        .expect(3);
    run.prints("! no agent is alive").prints("group blue");
}
