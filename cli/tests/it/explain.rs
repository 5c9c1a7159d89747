use serde_json::Value;

use crate::fixture::Fixture;

#[tokio::test]
async fn a_pipeline_that_nobody_may_take_is_blocked_and_says_so() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let blocked = fixture.run(&["explain", "orders"]).await.expect(6);
    blocked
        .prints("no agent may take it")
        .prints("start an agent");
    fixture.ok(&["pipeline", "disable", "orders"]).await;
    let disabled = fixture
        .run(&["explain", "orders", "-o", "json"])
        .await
        .expect(6);
    let disabled: Value = serde_json::from_str(&disabled.stdout).unwrap();
    assert_eq!(disabled["progress"], "BLOCKED");
    assert_eq!(disabled["hint"], "tidectl pipeline enable orders");
    let unknown = fixture.run(&["explain", "order"]).await.expect(1);
    unknown
        .says("pipeline or agent order does not exist")
        .says("did you mean orders");
    fixture
        .run(&["explain", "orders", "--agent"])
        .await
        .expect(1)
        .says("there is nothing yet");
}
