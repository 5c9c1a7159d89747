//! `pipeline test`: what would become of messages.

use serde_json::{Value, json};

use crate::fixture::Fixture;

const PRICE: &str = "1.10000000000000000000000000000000000001";

async fn published() -> Fixture {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    for payload in [
        format!(r#"{{"n": 1, "price": {PRICE}, "secret": "s"}}"#),
        r#"{"n": 2}"#.to_owned(),
        r#"{"m": 3}"#.to_owned(),
    ] {
        sqlx::query(
            "SELECT tide.outbox_publish('order_events', $1::jsonb, '{\"tenant\": \"eu\"}', 'k')",
        )
        .bind(payload)
        .execute(&mut fixture.connection().await)
        .await
        .unwrap();
    }
    fixture
}

#[tokio::test]
async fn a_test_shows_what_would_become_of_each_message_and_changes_nothing() {
    let fixture = published().await;
    let file = "
name: draft
outbox: order_events
config:
  sink_type: nats
  url: nats://nowhere:4222
  subject: orders.{{ headers.zone }}
  transforms:
    - filter: payload.n == 1
    - drop: [payload.secret]
    - rename: {headers.tenant: zone}
";
    let words = ["pipeline", "test", "-f", "-", "-o", "json"];
    let run = fixture.fed(&words, file).await.expect(0);
    let reports: Value = serde_json::from_str(&run.stdout).unwrap();
    let report = &reports[0];
    let outcomes: Vec<&Value> = report["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| &message["outcome"])
        .collect();
    assert_eq!(outcomes, ["kept", "filtered", "refused"]);
    assert_eq!(
        [&report["kept"], &report["filtered"], &report["refused"]],
        [1, 1, 1]
    );
    let kept = &report["messages"][0];
    assert_eq!(
        kept["payload"],
        json!(format!(r#"{{"n": 1, "price": {PRICE}}}"#))
    );
    assert_eq!(kept["headers"], json!(r#"{"zone": "eu"}"#));
    assert_eq!(kept["destination"], "orders.eu");
    let reason = report["messages"][2]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("transforms[0].filter: n is missing"),
        "{reason}"
    );
    // The newest alone, as a table.
    let words = ["pipeline", "test", "-f", "-", "--last", "1"];
    let run = fixture.fed(&words, file).await.expect(0);
    assert!(
        run.stdout
            .contains("draft would keep 0, filter out 0 and refuse 1 of these"),
        "{}",
        run.stdout
    );
    // Nobody but the pipeline that was there is there.
    let listed = fixture.ok(&["pipeline", "list"]).await;
    assert!(!listed.contains("draft"), "{listed}");
}

#[tokio::test]
async fn a_pipeline_that_is_there_is_tested_by_its_name() {
    let fixture = published().await;
    let text = fixture.ok(&["pipeline", "test", "orders"]).await;
    assert!(
        text.contains("orders would keep 3, filter out 0 and refuse 0 of these"),
        "{text}"
    );
    for (words, code, says) in [
        (
            &["pipeline", "test", "order"][..],
            1,
            "did you mean orders?",
        ),
        (&["pipeline", "test"], 2, "--file <FILE>"),
        (
            &["pipeline", "test", "orders", "-f", "x"],
            2,
            "cannot be used with",
        ),
        (
            &["pipeline", "test", "orders", "--last", "0"],
            2,
            "a whole number from 1 to 1000",
        ),
    ] {
        let run = fixture.run(words).await;
        assert_eq!(run.code, code, "{run:?}");
        assert!(run.stderr.contains(says), "{run:?}");
    }
    let nowhere = "name: p\noutbox: nothing\nconfig: {sink_type: 'null'}";
    let run = fixture.fed(&["pipeline", "test", "-f", "-"], nowhere).await;
    assert!(
        run.expect(1)
            .stderr
            .contains("outbox nothing does not exist")
    );
}

/// What the documentation shows is what can be written.
#[tokio::test]
async fn the_documented_example_works() {
    let fixture = published().await;
    let documented = include_str!("../../../docs/transforms.md");
    let example = documented.split("```yaml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    fixture
        .fed(&["pipeline", "test", "-f", "-"], example)
        .await
        .expect(0);
}
