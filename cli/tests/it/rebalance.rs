//! Plans that even out the load, straight through PostgreSQL.

use serde_json::{Value, json};

use crate::{
    agent::StandIn,
    fixture::{Fixture, Running},
};

#[tokio::test]
async fn a_rebalance_is_planned_confirmed_and_carried_out() {
    let fixture = Fixture::with_pipelines(&["a", "b"]).await;
    let mut full = StandIn::start(&fixture, "relay-1", &["a", "b"]).await;
    let mut empty = StandIn::start(&fixture, "relay-2", &[]).await;
    let plan = fixture.run(&["rebalance", "plan"]).await.expect(3);
    let plan = plan
        .says("1 move; carry it out with: tidectl rebalance apply ")
        .says(" --source database")
        .prints("1 pipeline stays where it is (--all shows why)");
    assert!(
        plan.stdout
            .contains("relay-1  relay-2  evens out the load of relay-1"),
        "{plan:?}"
    );
    let refused = fixture.run(&["rebalance", "apply"]).await.expect(2);
    refused
        .says("carry out 1 move")
        .says("hint: repeat with --yes");

    let planned = fixture
        .run(&["rebalance", "plan", "-o", "json"])
        .await
        .expect(3)
        .stdout;
    let planned: serde_json::Value = serde_json::from_str(&planned).unwrap();
    let moved = planned["moves"][0]["pipeline"].as_str().unwrap().to_owned();
    let mut apply = Running::start(fixture.command(&["rebalance", "apply", "--yes"]));
    apply.until_says("0/1 moved").await;
    full.release(&[&moved]).await;
    empty.take(&[&moved]).await;
    let run = apply.end().await.expect(0);
    assert_eq!(
        run.stdout,
        "rebalanced: every pipeline is where it was asked to be\n"
    );

    assert_eq!(
        fixture.ok(&["rebalance", "plan"]).await,
        "balanced: nothing to move\n"
    );
    assert_eq!(
        fixture.ok(&["rebalance", "apply"]).await,
        "balanced: nothing to move\n"
    );
    let listed = fixture.json(&["op", "ls"]).await;
    assert_eq!(
        (&listed[0]["kind"], &listed[0]["state"]),
        (&json!("rebalance"), &json!("succeeded"))
    );
}

/// The id of the plan that is made now.
async fn planned(fixture: &Fixture) -> String {
    let plan = fixture.json(&["rebalance", "plan"]).await;
    plan["id"].as_str().expect("it is kept").to_owned()
}

#[tokio::test]
async fn a_plan_that_is_kept_is_shown_and_applied_by_its_id_and_that_once() {
    let fixture = Fixture::with_pipelines(&["a", "b"]).await;
    let _full = StandIn::start(&fixture, "relay-1", &["a", "b"]).await;
    let _empty = StandIn::start(&fixture, "relay-2", &[]).await;
    let id = planned(&fixture).await;
    assert_eq!(
        planned(&fixture).await,
        id,
        "planning again changes nothing"
    );
    let shown = fixture.ok(&["rebalance", "show", &id, "--all"]).await;
    for text in [
        "can be applied; expires in ",
        "evens out the load of relay-1",
        "kept: moving it would not even out the load",
        "2 > 1",
    ] {
        assert!(shown.contains(text), "{text:?} is not in {shown}");
    }

    let apply = ["rebalance", "apply", &id, "--yes", "--detach"];
    let first = fixture.json(&apply).await;
    let again = fixture.run(&[&apply[..], &["-o", "json"]].concat()).await;
    let again = again.expect(0).says("was applied already: operation ");
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(first["id"], again["id"]);
    assert_eq!(
        fixture
            .json(&["operation", "ls"])
            .await
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let shown = fixture.ok(&["rebalance", "show", &id]).await;
    let operation = first["id"].as_str().unwrap();
    assert!(
        shown.contains(&format!("applied: operation {operation}")),
        "{shown}"
    );
    let unknown = fixture
        .run(&["rebalance", "apply", &uuid::Uuid::nil().to_string()])
        .await;
    unknown
        .expect(1)
        .says("does not exist")
        .says("tidectl rebalance plan");
}

#[tokio::test]
async fn a_plan_for_other_agents_is_refused_and_says_who_they_are() {
    let fixture = Fixture::with_pipelines(&["a", "b"]).await;
    let _full = StandIn::start(&fixture, "relay-1", &["a", "b"]).await;
    let _empty = StandIn::start(&fixture, "relay-2", &[]).await;
    let id = planned(&fixture).await;
    let _third = StandIn::start(&fixture, "relay-3", &[]).await;
    let run = fixture.run(&["rebalance", "apply", &id, "--yes"]).await;
    run.expect(7)
        .says("the plan is stale: agent relay-3 has joined")
        .says("hint: make a new plan with: tidectl rebalance plan");
    assert_eq!(fixture.json(&["operation", "ls"]).await, json!([]));
}

#[tokio::test]
async fn measured_load_is_planned_by_and_in_force_once_it_is_applied() {
    let fixture = Fixture::with_pipelines(&["a", "b", "c", "d"]).await;
    let mut full = StandIn::start(&fixture, "relay-1", &["a", "b"]).await;
    let mut other = StandIn::start(&fixture, "relay-2", &["c", "d"]).await;
    sqlx::raw_sql(
        "INSERT INTO tide.relay_costs (relay_group_id, name, last_change_id, sampled_at, since, rate)
         SELECT 'default', p.name, 1, now(), now(), 800 FROM tide.pipelines p WHERE p.name IN ('a', 'b')",
    )
    .execute(&mut fixture.connection().await)
    .await
    .unwrap();
    fixture.ok(&["rebalance", "plan"]).await;
    let run = fixture.run(&["rebalance", "plan", "--by", "load"]).await;
    run.expect(3)
        .prints("1 > 64  800.0")
        .says("2 moves and 2 weights; carry it out with: ");
    let words = ["rebalance", "apply", "--by", "load", "--yes"];
    let mut apply = Running::start(fixture.command(&words));
    apply.until_says("evens out the load of relay-1").await;
    apply.until_says("0/2 moved").await;
    // One of the busy ones, and one of the idle ones in return.
    full.release(&["a"]).await;
    other.release(&["c"]).await;
    full.take(&["c"]).await;
    other.take(&["a"]).await;
    apply.end().await.expect(0);
    // From here on everybody counts like this.
    for by in ["load", "weight"] {
        let plan = fixture.ok(&["rebalance", "plan", "--by", by]).await;
        assert_eq!(plan, "balanced: nothing to move\n", "{by}");
    }
}

#[tokio::test]
async fn who_may_not_keep_a_plan_sees_it_all_the_same() {
    let fixture = Fixture::with_pipelines(&["a", "b"]).await;
    let _full = StandIn::start(&fixture, "relay-1", &["a", "b"]).await;
    let _empty = StandIn::start(&fixture, "relay-2", &[]).await;
    sqlx::raw_sql("CREATE ROLE looker LOGIN PASSWORD 'geheim' IN ROLE tide_relay")
        .execute(&mut fixture.connection().await)
        .await
        .unwrap();
    let (_, server) = fixture.url.rsplit_once('@').unwrap();
    let as_looker = |words: &[&str]| {
        let mut command = fixture.command(words);
        command.env(
            "TIDE_POSTGRES_URL",
            format!("postgres://looker:geheim@{server}"),
        );
        crate::fixture::finish(command, "")
    };
    as_looker(&["rebalance", "plan"])
        .await
        .expect(3)
        .prints("evens out the load of relay-1")
        .says("this user may not keep plans");
    as_looker(&["rebalance", "apply", "--yes"])
        .await
        .expect(8)
        .says("permission denied");
    // Nor is anything kept of what is only looked at.
    let run = fixture.run(&["rebalance", "plan", "--dry-run", "-o", "json"]);
    let plan: Value = serde_json::from_str(&run.await.expect(3).stdout).unwrap();
    assert_eq!(plan["id"], Value::Null);
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM tide.rebalance_plans")
        .fetch_one(&mut fixture.connection().await)
        .await
        .unwrap();
    assert_eq!(kept, 0);
}

#[tokio::test]
async fn it_is_paused_by_whoever_wants_that_and_goes_on_when_nobody_does() {
    let fixture = Fixture::with_pipelines(&["a", "b"]).await;
    let _full = StandIn::start(&fixture, "relay-1", &["a", "b"]).await;
    let _empty = StandIn::start(&fixture, "relay-2", &[]).await;
    let run = fixture.run(&["rebalance", "status"]).await.expect(0);
    run.prints("only a control plane knows: --source control-plane")
        .prints("by load the fullest agent has 2.00 times the mean, and would have 1.00");
    // Nobody pauses it without a reason.
    fixture.run(&["rebalance", "pause"]).await.expect(2);
    let run = fixture.run(&["rebalance", "pause", "--reason", " "]).await;
    run.expect(2).says("a pause needs a reason");
    let pause = ["rebalance", "pause", "--reason", "sale", "--actor", "ana"];
    fixture.ok(&pause).await;
    let for_a_while = [
        "rebalance",
        "pause",
        "--for",
        "2h",
        "--reason",
        "audit",
        "--actor",
        "tom",
    ];
    let run = fixture.ok(&for_a_while).await;
    assert!(run.starts_with("paused by tom until "), "{run}");
    let status = fixture.json(&["rebalance", "status"]).await;
    assert_eq!(status["mode"], Value::Null);
    assert_eq!(status["imbalance"], json!({"before": 2.0, "after": 1.0}));
    let pauses = status["pauses"].as_array().unwrap();
    let actors: Vec<&Value> = pauses.iter().map(|pause| &pause["actor"]).collect();
    assert_eq!(actors, [&json!("ana"), &json!("tom")]);

    let run = fixture
        .run(&["rebalance", "resume", "--actor", "eva"])
        .await;
    run.expect(6)
        .says("the pause belongs to ana: sale")
        .says("tidectl rebalance resume --break");
    let run = fixture.ok(&["rebalance", "resume", "--actor", "ana"]).await;
    assert!(
        run.starts_with("1 pause ended; still paused by tom until "),
        "{run}"
    );
    let words = ["rebalance", "resume", "--actor", "eva", "--break"];
    assert_eq!(fixture.ok(&words).await, "1 pause ended\n");
    assert_eq!(fixture.ok(&words).await, "it was not paused\n");
    // A plan that somebody asks for needs no permission, and is what moved last.
    let begun = fixture
        .json(&["rebalance", "apply", "--yes", "--detach", "--actor", "ana"])
        .await;
    let status = fixture.json(&["rebalance", "status"]).await;
    assert_eq!(status["running"], begun["id"]);
    assert_eq!(status["last"]["operation"], begun["id"]);
    assert_eq!(
        (&status["last"]["kind"], &status["last"]["actor"]),
        (&json!("rebalance"), &json!("ana"))
    );
}
