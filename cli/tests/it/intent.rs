use serde_json::json;
use tide_sandbox::wait::eventually;

use crate::{
    agent::StandIn,
    fixture::{Fixture, Running, SOON},
};

/// Waits until an operator has asked for something, as agents do.
async fn intent_of(fixture: &Fixture, kind: &str) -> String {
    let mut connection = fixture.connection().await;
    eventually(SOON, format!("a {kind}"), async || {
        sqlx::query_scalar::<_, uuid::Uuid>("SELECT id FROM tide.operations WHERE kind = $1")
            .bind(kind)
            .fetch_optional(&mut connection)
            .await
    })
    .await
    .unwrap()
    .to_string()
}

#[tokio::test]
async fn a_drain_is_watched_until_it_is_safe_to_stop() {
    let fixture = Fixture::with_pipelines(&["invoices", "orders"]).await;
    let mut leaving = StandIn::start(&fixture, "relay-2", &["invoices", "orders"]).await;
    let mut taking = StandIn::start(&fixture, "relay-1", &[]).await;
    let words = ["drain", "relay-2", "--reason", "kernel 6.9"];
    let mut drain = Running::start(fixture.command(&words));
    drain.until_says("2 pipelines: relay-2 > relay-1 (2)").await;
    drain
        .until_says("PROGRESSING  invoices  relay-2 > relay-1")
        .await;
    drain.until_says("0/2 moved").await;
    let shown = fixture.json(&["agent", "show", "relay-2"]).await;
    assert_eq!(
        (&shown["state"], &shown["holds"]),
        (
            &json!("DRAINING"),
            &json!([format!("drain by {}: kernel 6.9", actor())])
        )
    );

    leaving.release(&["orders"]).await;
    taking.take(&["orders"]).await;
    drain.until_says("DONE         orders").await;
    drain.until_says("1/2 moved").await;
    // Empty by its locks is not enough: the agent has to say so as well.
    leaving.release(&["invoices"]).await;
    drain.until_says("2/2 moved").await;
    leaving.obey().await;
    let run = drain.end().await.expect(0);
    assert_eq!(run.stdout, "relay-2 is safe to stop\n");

    let state = fixture.json(&["agent", "show", "relay-2"]).await["state"].clone();
    assert_eq!(state, "DRAINED");
    let undrained = fixture.run(&["undrain", "relay-2"]).await.expect(0);
    assert_eq!(undrained.stdout, "relay-2 takes work again\n");
    fixture
        .run(&["undrain", "relay-2"])
        .await
        .expect(6)
        .says("error: agent relay-2 is not drained");
}

/// `$USER` is set by the fixture; the host is whatever this machine is called.
fn actor() -> String {
    format!(
        "ana@{}",
        nix::unistd::gethostname().unwrap().into_string().unwrap()
    )
}

#[tokio::test]
async fn the_drain_of_an_agent_that_does_not_run_is_over_at_once() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    drop(StandIn::start(&fixture, "relay-2", &["orders"]).await);
    let drained = async || {
        let run = fixture.run(&["drain", "relay-2", "--force"]).await;
        if run.stdout == "relay-2 is safe to stop\n" {
            Ok(Some(run))
        } else {
            Err(format!("{run:?}"))
        }
    };
    // Its session ends a moment after the agent does.
    eventually(SOON, "the drain", drained)
        .await
        .unwrap()
        .expect(0);
}

#[tokio::test]
async fn a_drain_with_nowhere_to_go_is_refused_unless_forced() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _only = StandIn::start(&fixture, "relay-2", &["orders"]).await;
    for words in [&["drain", "relay-2"][..], &["drain", "relay-2", "--plan"]] {
        let run = fixture.run(words).await.expect(6);
        run.says("would leave 1 pipeline without an agent: orders")
            .says("--force");
    }
    assert_eq!(fixture.json(&["operation", "ls"]).await, json!([]));

    let run = fixture
        .run(&["drain", "relay-2", "--force", "--wait=200ms"])
        .await
        .expect(6);
    let run = run
        .says("BLOCKED      orders")
        .says("hint: start another agent, or: tidectl undrain relay-2");
    assert_eq!(
        run.stdout,
        "relay-2 is NOT safe to stop: 1 pipeline is blocked: orders (no live agent may take it)\n"
    );
    run.says("tidectl operation watch ")
        .says("--source database");
    // Asking again finds the drain that runs, with or without force.
    let first = intent_of(&fixture, "drain").await;
    let again = fixture.json(&["drain", "relay-2", "--detach"]).await;
    assert_eq!(again["id"], json!(first));
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _leaving = StandIn::start(&fixture, "relay-2", &["orders"]).await;
    let _taking = StandIn::start(&fixture, "relay-1", &[]).await;
    let run = fixture.run(&["drain", "relay-2", "--plan"]).await.expect(0);
    assert_eq!(
        run.stdout,
        "PIPELINE  FROM     TO       REASON\norders    relay-2  relay-1  drain\n"
    );
    assert_eq!(fixture.json(&["operation", "list"]).await, json!([]));
}

#[tokio::test]
async fn ctrl_c_leaves_the_drain_running_and_says_how_to_find_it() {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let mut leaving = StandIn::start(&fixture, "relay-2", &["orders"]).await;
    let _taking = StandIn::start(&fixture, "relay-1", &[]).await;
    let mut drain = Running::start(fixture.command(&["drain", "relay-2"]));
    drain.until_says("0/1 moved").await;
    kill(Pid::from_raw(drain.pid() as i32), Signal::SIGINT).unwrap();
    let id = intent_of(&fixture, "drain").await;
    let run = drain.end().await.expect(130);
    let run = run.says("the drain of relay-2 goes on");
    let run = run.says(&format!("tidectl operation watch {id} --source database"));
    run.says(&format!("tidectl operation cancel {id} --source database"));

    let mut watch = Running::start(fixture.command(&["operation", "watch", &id]));
    watch.until_says("0/1 moved").await;
    leaving.release(&["orders"]).await;
    leaving.obey().await;
    let run = watch.end().await.expect(0);
    assert_eq!(run.stdout, "relay-2 is safe to stop\n");

    // Later it is history, not a promise.
    let run = fixture.run(&["operation", "watch", &id]).await.expect(0);
    assert!(
        run.stdout.starts_with("drain of relay-2 succeeded "),
        "{run:?}"
    );
}

#[tokio::test]
async fn a_cancelled_drain_is_not_safe_to_stop() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _leaving = StandIn::start(&fixture, "relay-2", &["orders"]).await;
    let _taking = StandIn::start(&fixture, "relay-1", &[]).await;
    let mut drain = Running::start(fixture.command(&["drain", "relay-2"]));
    drain.until_says("0/1 moved").await;
    let id = intent_of(&fixture, "drain").await;
    let run = fixture
        .run(&["operation", "cancel", &id, "--actor", "tom"])
        .await
        .expect(0);
    run.prints("drain of relay-2 cancelled");
    let run = drain.end().await.expect(6);
    assert_eq!(
        run.stdout,
        "relay-2 is NOT safe to stop: cancelled by tom\n"
    );
    fixture.run(&["operation", "cancel", &id]).await.expect(0);
    assert_eq!(
        fixture.json(&["agent", "show", "relay-2"]).await["state"],
        "ACTIVE"
    );
}

#[tokio::test]
async fn a_drain_that_misses_its_deadline_is_not_safe_to_stop() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _leaving = StandIn::start(&fixture, "relay-2", &["orders"]).await;
    let _taking = StandIn::start(&fixture, "relay-1", &[]).await;
    let run = fixture
        .run(&["drain", "relay-2", "--deadline", "400ms"])
        .await
        .expect(6);
    run.prints("relay-2 is NOT safe to stop: deadline passed with 1 pipelines still held");
}

#[tokio::test]
async fn a_drain_outlives_a_restart_of_the_database() {
    let mut fixture = Fixture::with_pipelines(&["orders"]).await;
    let leaving = StandIn::start(&fixture, "relay-2", &["orders"]).await;
    let _taking = StandIn::start(&fixture, "relay-1", &[]).await;
    let mut drain = Running::start(fixture.command(&["drain", "relay-2"]));
    drain.until_says("0/1 moved").await;
    fixture
        .postgres
        .restart(tide_sandbox::postgres::Mode::Immediate)
        .await
        .unwrap();
    drain
        .until_says("lost sight of the operation, which goes on")
        .await;
    drop(leaving);
    // Every session is gone, the agent's too, and with it every lock.
    let run = drain.end().await.expect(0).says("found it again");
    assert_eq!(run.stdout, "relay-2 is safe to stop\n");
}

#[tokio::test]
async fn a_move_is_watched_until_the_pipeline_has_arrived() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let mut from = StandIn::start(&fixture, "relay-1", &["orders"]).await;
    let mut to = StandIn::start(&fixture, "relay-2", &[]).await;
    let mut moving = Running::start(fixture.command(&["move", "orders", "--to", "relay-2"]));
    moving.until_says("0/1 moved").await;
    from.release(&["orders"]).await;
    to.take(&["orders"]).await;
    let run = moving.end().await.expect(0);
    assert_eq!(run.stdout, "orders is on relay-2\n");
    let missed = ["move", "orders", "--to", "relay-1", "--deadline", "300ms"];
    fixture
        .run(&missed)
        .await
        .expect(5)
        .prints("orders was NOT moved: deadline passed");
}

#[tokio::test]
async fn impossible_moves_are_refused_with_a_way_out() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _from = StandIn::start(&fixture, "relay-1", &["orders"]).await;
    let mut drained = StandIn::start(&fixture, "relay-2", &[]).await;
    fixture.ok(&["drain", "relay-2", "--detach"]).await;
    drained.obey().await;
    for (words, code, text, hint) in [
        (
            ["orders", "relay-2"],
            6,
            "agent relay-2 takes no work",
            "tidectl undrain relay-2",
        ),
        (
            ["orders", "relay-9"],
            1,
            "agent relay-9 does not exist",
            "relay-1, relay-2",
        ),
        (
            ["nothing", "relay-1"],
            1,
            "pipeline nothing does not exist",
            "orders",
        ),
    ] {
        let run = fixture
            .run(&["move", words[0], "--to", words[1]])
            .await
            .expect(code);
        run.says(text).says(hint);
    }
    fixture.ok(&["pipeline", "disable", "orders"]).await;
    let run = fixture
        .run(&["move", "orders", "--to", "relay-1"])
        .await
        .expect(6);
    run.says("pipeline orders is disabled")
        .says("tidectl pipeline enable orders");
    fixture
        .run(&["drain", "relay-9"])
        .await
        .expect(1)
        .says("agent relay-9 does not exist");
}

#[tokio::test]
async fn unknown_operations_are_not_found() {
    let fixture = Fixture::migrated().await;
    let nobody = uuid::Uuid::nil().to_string();
    for verb in ["show", "watch", "cancel"] {
        let run = fixture.run(&["operation", verb, &nobody]).await.expect(1);
        run.says("does not exist").says("tidectl operation list");
    }
}

#[tokio::test]
async fn a_detached_drain_is_found_by_its_id() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _leaving = StandIn::start(&fixture, "relay-2", &["orders"]).await;
    let _taking = StandIn::start(&fixture, "relay-1", &[]).await;
    let run = fixture
        .run(&["drain", "relay-2", "--detach"])
        .await
        .expect(0);
    let id = intent_of(&fixture, "drain").await;
    assert_eq!(run.stdout, format!("drain of relay-2 is operation {id}\n"));
    let shown = fixture.ok(&["operation", "show", &id]).await;
    assert!(
        shown.contains("PROGRESSING  orders    relay-2  relay-1"),
        "{shown}"
    );
    fixture
        .run(&["operation", "watch", &id, "--wait", "100ms"])
        .await
        .expect(5);
    let listed = fixture.json(&["operation", "list", "--limit", "1"]).await;
    assert_eq!(
        (&listed[0]["id"], &listed[0]["state"]),
        (&json!(id), &json!("running"))
    );
}
