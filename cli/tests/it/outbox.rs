use serde_json::json;
use uuid::Uuid;

use crate::fixture::Fixture;

#[tokio::test]
async fn from_creation_to_the_end() {
    let fixture = Fixture::migrated().await;
    assert_eq!(
        fixture
            .ok(&[
                "outbox",
                "create",
                "order_events",
                "--retention",
                "36 hours"
            ])
            .await,
        "created outbox order_events\n"
    );
    let again = fixture
        .run(&["outbox", "create", "order_events"])
        .await
        .expect(7);
    again
        .says("error: outbox order_events already exists")
        .says("\nhint: ");

    let event_id = fixture
        .ok(&[
            "outbox",
            "publish",
            "order_events",
            "--payload",
            "{\"id\": 7}",
            "--key",
            "k",
        ])
        .await;
    let event_id: Uuid = event_id.trim().parse().unwrap();
    let mut connection = fixture.connection().await;
    let (found, key, payload): (Uuid, String, serde_json::Value) =
        sqlx::query_as("SELECT event_id, key, payload FROM tide.outbox_order_events")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(
        (found, key.as_str(), payload),
        (event_id, "k", json!({"id": 7}))
    );

    let listed = fixture.json(&["outbox", "ls"]).await;
    assert_eq!(listed[0]["name"], "order_events");
    assert_eq!(
        (&listed[0]["last_id"], &listed[0]["retention"]),
        (&json!(1), &json!("36:00:00"))
    );
    fixture
        .run(&["outbox", "status", "order_events"])
        .await
        .expect(0)
        .prints("36:00:00");

    let refused = fixture
        .run(&["outbox", "drop", "order_events"])
        .await
        .expect(2);
    refused
        .says("drop outbox order_events")
        .says("hint: repeat with --yes");
    fixture
        .run(&["outbox", "drop", "order_events", "--yes"])
        .await
        .expect(0);
    assert_eq!(fixture.json(&["outbox", "list"]).await, json!([]));
}

#[tokio::test]
async fn messages_come_from_arguments_files_and_pipes() {
    let fixture = Fixture::migrated().await;
    fixture.ok(&["outbox", "create", "o"]).await;
    let publish = ["outbox", "publish", "o", "--payload"];
    let given = Uuid::new_v4().to_string();
    let identified = [
        &publish[..],
        &["1", "--event-id", &given, "--headers", "{\"a\": \"b\"}"],
    ];
    assert_eq!(fixture.ok(&identified.concat()).await.trim(), given);

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("payload.json");
    std::fs::write(&file, "[1, 2]").unwrap();
    let from_file = format!("@{}", file.display());
    fixture.ok(&[&publish[..], &[&from_file]].concat()).await;
    fixture
        .fed(&[&publish[..], &["-"]].concat(), "null")
        .await
        .expect(0);

    let mut connection = fixture.connection().await;
    let payloads: Vec<serde_json::Value> =
        sqlx::query_scalar("SELECT payload FROM tide.outbox_o ORDER BY id")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(payloads, [json!(1), json!([1, 2]), json!(null)]);
}

#[tokio::test]
async fn bad_arguments_publish_nothing() {
    let fixture = Fixture::migrated().await;
    fixture.ok(&["outbox", "create", "o"]).await;
    let publish = ["outbox", "publish", "o", "--payload"];
    for (rest, code, text) in [
        (
            &["{id: 7}"][..],
            2,
            "--payload is not JSON: key must be a string",
        ),
        (
            &["1", "--headers", "[]"],
            2,
            "headers is a JSON array, not an object",
        ),
        (&["1", "--headers", "x"], 2, "--headers is not JSON"),
        (&["@/nowhere.json"], 1, "could not read /nowhere.json"),
    ] {
        fixture
            .run(&[&publish[..], rest].concat())
            .await
            .expect(code)
            .says(text);
    }
    let unknown = ["outbox", "publish", "oo", "--payload", "1"];
    fixture
        .run(&unknown)
        .await
        .expect(1)
        .says("outbox 'oo' does not exist")
        .says("hint: Create it");
    assert_eq!(fixture.json(&["outbox", "list"]).await[0]["last_id"], 0);
}

#[tokio::test]
async fn mistakes_come_with_advice() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    for (words, code, text) in [
        (
            &["outbox", "create", "two words"][..],
            2,
            "hint: Use 1 to 48 letters",
        ),
        (
            &["outbox", "create", "a", "--retention", "soon"],
            1,
            "hint: write --retention as a PostgreSQL interval",
        ),
        (
            &["outbox", "create", "a", "--retention", "-1 hours"],
            2,
            "unexpected argument",
        ),
        (
            &["outbox", "create", "a", "--retention=-1 hours"],
            2,
            "invalid retention",
        ),
        (
            &["outbox", "status", "orders"],
            1,
            "hint: the ones that exist: order_events",
        ),
        (
            &["outbox", "drop", "orders", "--yes"],
            1,
            "outbox orders does not exist",
        ),
        (
            &["outbox", "drop", "order_events", "--yes"],
            6,
            "outbox order_events still feeds: orders",
        ),
    ] {
        fixture.run(words).await.expect(code).says(text);
    }
}
