use serde_json::json;

use crate::fixture::Fixture;

const ORDERS: &str = "name: orders\noutbox: order_events\nconfig: {sink_type: stdout}\n";
const APPLY: [&str; 4] = ["pipeline", "apply", "-f", "-"];

async fn names(fixture: &Fixture) -> Vec<String> {
    let listed = fixture.json(&["pipeline", "ls"]).await;
    let name = |pipeline: &serde_json::Value| pipeline["name"].as_str().unwrap().to_owned();
    listed.as_array().unwrap().iter().map(name).collect()
}

async fn revision(fixture: &Fixture) -> i64 {
    let mut connection = fixture.connection().await;
    let revision = sqlx::query_scalar("SELECT revision FROM tide.pipelines");
    revision.fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn a_file_is_created_changed_and_then_unchanged() {
    let fixture = Fixture::with_pipelines(&[]).await;
    assert_eq!(
        fixture.fed(&APPLY, ORDERS).await.expect(0).stdout,
        "created orders\n"
    );
    let created = revision(&fixture).await;
    let changed = ORDERS.replace("stdout", "'null', batch_size: 5");
    assert_eq!(
        fixture.fed(&APPLY, &changed).await.expect(0).stdout,
        "changed orders (batch_size, sink_type)\n"
    );
    let after = revision(&fixture).await;
    assert!(after > created);
    assert_eq!(
        fixture.fed(&APPLY, &changed).await.expect(0).stdout,
        "unchanged orders\n"
    );
    assert_eq!(
        revision(&fixture).await,
        after,
        "what is unchanged is not written"
    );
}

#[tokio::test]
async fn a_dry_run_asks_the_database_and_changes_nothing() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let apply = [&APPLY[..], &["--dry-run"]].concat();
    let two =
        format!("{ORDERS}---\nname: new\noutbox: order_events\nconfig: {{sink_type: stdout}}");
    let run = fixture.fed(&apply, &two).await.expect(0);
    assert_eq!(
        run.stdout,
        "would change orders (sink_type)\nwould create new\n"
    );
    assert_eq!(names(&fixture).await, ["orders"]);
    let elsewhere = ORDERS
        .replace("order_events", "nowhere")
        .replace("orders", "new");
    fixture
        .fed(&apply, &elsewhere)
        .await
        .expect(1)
        .says("outbox 'nowhere' does not exist");
}

#[tokio::test]
async fn files_are_applied_all_or_none() {
    let fixture = Fixture::with_pipelines(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = write("good.yaml", ORDERS);
    // The model has no quarrel with this one, but the database knows no such outbox.
    let orphan = write(
        "orphan.json",
        r#"{"name": "b", "outbox": "missing", "config": {"sink_type": "stdout"}}"#,
    );
    let bad = write(
        "bad.yaml",
        "name: c\noutbox: order_events\nconfig: {sink_type: kafka, brokerz: x}\n",
    );

    let run = fixture
        .run(&["pipeline", "apply", "-f", &good, "-f", &orphan])
        .await
        .expect(1);
    run.says("outbox 'missing' does not exist")
        .says("hint: Create it with");
    assert!(names(&fixture).await.is_empty());

    let run = fixture
        .run(&["pipeline", "apply", "-f", &good, "-f", &bad])
        .await
        .expect(2);
    run.says("bad.yaml, document 1: key \"brokers\" is missing")
        .says("hint: nothing was changed");
    assert!(names(&fixture).await.is_empty());

    let missing = directory.path().join("none.yaml").display().to_string();
    let run = fixture
        .run(&["pipeline", "apply", "-f", &good, "-f", &missing])
        .await
        .expect(1);
    run.says("could not read ");
    assert!(names(&fixture).await.is_empty());

    fixture.ok(&["pipeline", "apply", "-f", &good]).await;
    assert_eq!(names(&fixture).await, ["orders"]);
}

#[tokio::test]
async fn another_outbox_is_refused_by_the_database() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    fixture.ok(&["outbox", "create", "other"]).await;
    let moved = ORDERS.replace("order_events", "other");
    let run = fixture.fed(&APPLY, &moved).await.expect(6);
    run.says("pipeline orders reads outbox order_events")
        .says("hint: ");
}

#[tokio::test]
async fn switching_is_idempotent_and_says_so() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    assert_eq!(
        fixture.ok(&["pipeline", "disable", "orders"]).await,
        "disabled orders\n"
    );
    assert_eq!(
        fixture.ok(&["pipeline", "disable", "orders"]).await,
        "orders was disabled already\n"
    );
    assert_eq!(
        fixture.json(&["pipeline", "show", "orders"]).await["state"],
        "disabled"
    );
    assert_eq!(
        fixture.ok(&["pipeline", "enable", "orders"]).await,
        "enabled orders\n"
    );
    let shown = fixture.json(&["pipeline", "show", "orders"]).await;
    assert_eq!(
        (&shown["state"], &shown["owner"]),
        (&json!("unowned"), &json!(null))
    );
}

#[tokio::test]
async fn deleting_needs_a_yes() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    fixture
        .run(&["pipeline", "delete", "orders"])
        .await
        .expect(2)
        .says("hint: repeat with --yes");
    assert_eq!(names(&fixture).await, ["orders"]);
    assert_eq!(
        fixture.ok(&["pipeline", "delete", "orders", "--yes"]).await,
        "deleted orders\n"
    );
    assert!(names(&fixture).await.is_empty());
}

#[tokio::test]
async fn unknown_pipelines_are_named_with_the_known_ones() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    for words in [
        &["pipeline", "show", "order"][..],
        &["pipeline", "enable", "order"],
        &["pipeline", "delete", "order", "--yes"],
    ] {
        let run = fixture.run(words).await.expect(1);
        run.says("error: pipeline order does not exist")
            .says("hint: did you mean orders? the ones that exist: orders");
    }
}

#[tokio::test]
async fn the_same_in_yaml() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let yaml = fixture
        .ok(&["pipeline", "show", "orders", "-o", "yaml"])
        .await;
    assert!(
        yaml.starts_with("name: orders\noutbox: order_events\n"),
        "{yaml}"
    );
}
