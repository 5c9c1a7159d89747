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

#[tokio::test]
async fn status_tells_who_waits_for_whom() {
    let fixture = Fixture::migrated().await;
    fixture.ok(&["outbox", "create", "order_events"]).await;
    for number in 1..=3 {
        let payload = number.to_string();
        let words = ["outbox", "publish", "order_events", "--payload", &payload];
        fixture.ok(&words).await;
    }
    // GIVEN one reader that has read everything, one that stopped at the first message, and one
    // that never ran; and a transaction that stays open
    let mut connection = fixture.connection().await;
    sqlx::raw_sql(
        "SELECT tide.relay_set_outbox(name, 'order_events', '{\"sink_type\": \"null\"}') FROM unnest('{done,slow,never}'::text[]) name;
         INSERT INTO tide.relay_consumer_offsets (relay_group_id, name, system_identifier, last_change_id, epoch, state, state_reason)
         VALUES ('default', 'done', 1, 3, 1, 'running', NULL), ('default', 'slow', 1, 1, 2, 'retrying', 'no answer')",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let mut other = fixture.connection().await;
    sqlx::raw_sql("BEGIN; SELECT pg_current_xact_id()")
        .execute(&mut other)
        .await
        .unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut other)
        .await
        .unwrap();
    // THEN it is told who holds what back, and since when
    let told = fixture.json(&["outbox", "status", "order_events"]).await;
    let readers = told["readers"].as_array().unwrap();
    let names: Vec<_> = readers.iter().map(|reader| &reader["name"]).collect();
    assert_eq!(names, ["never", "slow", "done"]);
    assert_eq!(
        (&readers[0]["holds_back"], &readers[1]["holds_back"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(
        (&readers[1]["behind"], &readers[1]["next_id"]),
        (&json!(2), &json!(2))
    );
    assert!(readers[1]["waits_since"].is_string() && readers[2]["waits_since"].is_null());
    assert_eq!(readers[1]["reason"], "no answer");
    assert_eq!(told["upkeep"]["oldest_id"], 1);
    assert!(told["upkeep"]["expires_at"].is_string());
    let holder = told["horizon"][0]["what"].as_str().unwrap();
    assert!(holder.starts_with(&format!("pid {pid} of ")), "{holder}");
    fixture
        .run(&["outbox", "status", "order_events"])
        .await
        .expect(0)
        .prints("nothing: never stands at 0")
        .prints(&format!("horizon    held by pid {pid} of "))
        .prints("retrying");
}
