use serde_json::json;

use crate::fixture::Fixture;

#[tokio::test]
async fn from_creation_to_the_end() {
    let fixture = Fixture::migrated().await;
    assert_eq!(
        fixture
            .ok(&["inbox", "create", "orders", "--retention", "36 hours"])
            .await,
        "created inbox orders\n"
    );
    let again = fixture.run(&["inbox", "create", "orders"]).await.expect(7);
    again
        .says("error: inbox orders already exists")
        .says("\nhint: ");
    let mut connection = fixture.connection().await;
    sqlx::raw_sql(
        "INSERT INTO tide.inbox_orders (event_id, source, source_id, payload, headers, created_at)
         SELECT gen_random_uuid(), 'o', n, '{}', '{}', now() FROM generate_series(1, 3) n;
         SELECT tide.inbox_mark_processed('orders', event_id) FROM tide.inbox_orders WHERE source_id = 1",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let listed = fixture.json(&["inbox", "ls"]).await;
    assert_eq!(listed[0]["name"], "orders");
    for (field, value) in [
        ("pending", json!(2)),
        ("failed", json!(0)),
        ("last_id", json!(3)),
        ("retention", json!("36:00:00")),
    ] {
        assert_eq!(listed[0][field], value, "{field}");
    }
    assert!(listed[0]["oldest_pending"].is_string(), "{listed}");
    fixture
        .run(&["inbox", "status", "orders"])
        .await
        .expect(0)
        .prints("36:00:00");
    fixture
        .run(&["inbox", "drop", "orders"])
        .await
        .expect(2)
        .says("drop inbox orders (2 messages in it not processed)")
        .says("hint: repeat with --yes");
    fixture
        .run(&["inbox", "drop", "orders", "--yes"])
        .await
        .expect(0);
    assert_eq!(fixture.json(&["inbox", "list"]).await, json!([]));
}

#[tokio::test]
async fn mistakes_come_with_advice() {
    let fixture = Fixture::migrated().await;
    fixture.ok(&["inbox", "create", "orders"]).await;
    for (words, code, text) in [
        (
            &["inbox", "create", "two words"][..],
            2,
            "hint: Use 1 to 48 letters",
        ),
        (
            &["inbox", "create", "a", "--retention", "soon"],
            1,
            "hint: write --retention as a PostgreSQL interval",
        ),
        (
            &["inbox", "create", "a", "--retention=-1 hours"],
            2,
            "invalid retention",
        ),
        (
            &["inbox", "status", "order"],
            1,
            "hint: did you mean orders?",
        ),
        (
            &["inbox", "drop", "invoices", "--yes"],
            1,
            "inbox invoices does not exist",
        ),
    ] {
        fixture.run(words).await.expect(code).says(text);
    }
}
