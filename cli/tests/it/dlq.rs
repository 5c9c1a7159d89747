use serde_json::json;

use crate::fixture::Fixture;

/// Two pipelines, and letters of both: 1 to 3 of orders, 4 of billing.
async fn with_letters() -> Fixture {
    let fixture = Fixture::with_pipelines(&["orders", "billing"]).await;
    sqlx::raw_sql(
        "INSERT INTO tide.relay_dlq (relay_group_id, pipeline, outbox, message_id, event_id, key, headers, payload, error,
                                     attempts, epoch, created_at)
         SELECT 'default', p, 'order_events', n, gen_random_uuid(), k, '{\"a\": \"b\"}', '{\"n\": 1}', e, 1, 1,
                now() - n * interval '1 hour'
         FROM (VALUES ('orders', 1, 'x', 'HTTP 400: no such field'), ('orders', 2, 'y', 'HTTP 413'),
                      ('orders', 3, NULL, 'HTTP 413'), ('billing', 4, 'x', 'too large')) AS l (p, n, k, e)",
    )
    .execute(&mut fixture.connection().await)
    .await
    .unwrap();
    fixture
}

async fn ids(fixture: &Fixture, filter: &[&str]) -> Vec<i64> {
    let listed = fixture.json(&[&["dlq", "ls"], filter].concat()).await;
    let letters = listed.as_array().unwrap().iter();
    letters
        .map(|letter| letter["id"].as_i64().unwrap())
        .collect()
}

#[tokio::test]
async fn letters_are_found_by_what_is_known_of_them() {
    let fixture = with_letters().await;
    for (filter, expected) in [
        (&[][..], &[1, 2, 3, 4][..]),
        (&["--pipeline", "orders"], &[1, 2, 3]),
        (&["--key", "x"], &[1, 4]),
        (&["--error", "http"], &[1, 2, 3]),
        (&["--error", "413", "--key", "y"], &[2]),
        (&["--since", "150m"], &[1, 2]),
        (&["--until", "150m"], &[3, 4]),
        (&["--id", "4,2"], &[2, 4]),
        (&["--limit", "2"], &[1, 2]),
        (&["--relay-group-id", "blue"], &[]),
    ] {
        assert_eq!(ids(&fixture, filter).await, expected, "{filter:?}");
    }
    let cut = fixture
        .run(&["dlq", "list", "--limit", "2"])
        .await
        .expect(0);
    cut.says("the first 2; more with --limit")
        .prints("no such field");
    let one = fixture.run(&["dlq", "show", "1"]).await.expect(0);
    one.prints("HTTP 400: no such field")
        .prints("tried 1 time")
        .prints("\"n\": 1")
        .prints("published  unknown");
    let whole = fixture.json(&["dlq", "show", "1"]).await;
    assert_eq!(whole["payload"], json!({"n": 1}));
    assert_eq!(whole["headers"], json!({"a": "b"}));
    assert_eq!(whole["replay"], json!(null));
}

#[tokio::test]
async fn a_replay_asks_the_owner_and_asks_once() {
    let fixture = with_letters().await;
    let foretold = fixture
        .json(&["dlq", "replay", "--key", "x", "--dry-run"])
        .await;
    assert_eq!(
        foretold,
        json!({"letters": 2, "pipelines": {"billing": 1, "orders": 1}})
    );
    let started = fixture.json(&["dlq", "replay", "--key", "x"]).await;
    assert_eq!(started[0]["pipeline"], "billing");
    assert_eq!(started[1]["pipeline"], "orders");
    fixture
        .run(&["dlq", "replay", "--key", "x"])
        .await
        .expect(0)
        .says("they are being delivered again already");
    fixture
        .run(&["dlq", "ls", "--id", "1"])
        .await
        .expect(0)
        .prints("(to be delivered again)");
    let none = fixture
        .run(&["dlq", "replay", "--key", "zz"])
        .await
        .expect(0);
    none.prints("no dead letter fits");
}

#[tokio::test]
async fn what_cannot_be_undone_is_asked_about() {
    let fixture = with_letters().await;
    let refused = fixture.run(&["dlq", "discard", "--all"]).await.expect(2);
    refused
        .says("delete 4 dead letters for good")
        .says("hint: repeat with --yes");
    sqlx::raw_sql(
        "INSERT INTO tide.relay_dlq (relay_group_id, pipeline, outbox, message_id, event_id, headers, payload, error, attempts, epoch)
         SELECT 'default', 'orders', 'order_events', n, gen_random_uuid(), '{}', '{}', 'many', 1, 1 FROM generate_series(10, 20) n",
    )
    .execute(&mut fixture.connection().await)
    .await
    .unwrap();
    let many = fixture.run(&["dlq", "replay", "--error", "many"]).await;
    many.expect(2).says("deliver 11 dead letters again");
    let gone = ["dlq", "discard", "--error", "413", "--yes"];
    assert_eq!(fixture.ok(&gone).await, "deleted 2 dead letters\n");
    assert_eq!(ids(&fixture, &["--error", "http"]).await, [1]);
}

#[tokio::test]
async fn mistakes_come_with_advice() {
    let fixture = with_letters().await;
    for (words, code, text) in [
        (&["dlq", "replay"][..], 2, "hint: give --pipeline, --key"),
        (
            &["dlq", "discard", "--yes"],
            2,
            "which dead letters to discard",
        ),
        (&["dlq", "replay", "--all", "--key", "x"], 2, "is not clear"),
        (
            &["dlq", "replay", "--all", "--rate", "0"],
            2,
            "use a number above zero",
        ),
        (
            &["dlq", "list", "--since", "yesterday"],
            2,
            "how long ago, such as 90m",
        ),
        (
            &["dlq", "show", "77"],
            1,
            "hint: list them with: tidectl dlq list",
        ),
    ] {
        fixture.run(words).await.expect(code).says(text);
    }
    fixture
        .ok(&["pipeline", "delete", "billing", "--yes"])
        .await;
    let orphaned = fixture.run(&["dlq", "replay", "--id", "4"]).await.expect(6);
    orphaned.says("letters of these pipelines have nobody to deliver them: billing");
}
