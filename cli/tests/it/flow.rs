use serde_json::json;

use crate::fixture::Fixture;

#[tokio::test]
async fn a_pause_is_set_once_and_lifted_once() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let pause = [
        "pipeline", "pause", "orders", "--reason", "repair", "--actor", "ana",
    ];
    assert_eq!(fixture.ok(&pause).await, "paused orders\n");
    assert_eq!(fixture.ok(&pause).await, "orders was paused already\n");
    let (actor, reason): (String, String) = sqlx::query_as(
        "SELECT actor, reason FROM tide.holds WHERE kind = 'pause' AND pipeline = 'orders'",
    )
    .fetch_one(&mut fixture.connection().await)
    .await
    .unwrap();
    assert_eq!((actor.as_str(), reason.as_str()), ("ana", "repair"));
    // Somebody else's pause is not ended in passing.
    let refused = fixture.run(&["pipeline", "resume", "orders"]).await;
    refused
        .expect(6)
        .says("the pause of orders belongs to ana: repair");
    let resume = ["pipeline", "resume", "orders", "--actor", "ana"];
    let resumed = fixture.json(&resume).await;
    assert_eq!(
        resumed,
        json!({"name": "orders", "paused": false, "changed": true})
    );
    let again = fixture.ok(&["pipeline", "resume", "orders"]).await;
    assert_eq!(again, "orders was not paused\n");
}

#[tokio::test]
async fn mistakes_come_with_advice() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    for (words, code, text) in [
        (
            &["pipeline", "pause", "order"][..],
            1,
            "did you mean orders?",
        ),
        (
            &["pipeline", "resume", "invoices"],
            1,
            "pipeline invoices does not exist",
        ),
        (&["pipeline", "rewind", "orders"], 2, "--to-id <ID>"),
        (
            &[
                "pipeline",
                "rewind",
                "orders",
                "--to-id",
                "1",
                "--to-beginning",
            ],
            2,
            "cannot be used with",
        ),
        (
            &["pipeline", "rewind", "orders", "--to-time", "soon"],
            2,
            "such as 90m",
        ),
        (
            &["pipeline", "rewind", "orders", "--to-id=-1"],
            2,
            "-1 is not in",
        ),
        (
            &["pipeline", "rewind", "orders", "--to-beginning"],
            6,
            "pipeline orders has not begun in group 'default'",
        ),
    ] {
        fixture.run(words).await.expect(code).says(text);
    }
}
