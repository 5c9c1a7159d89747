//! Which agents and pipelines are meant: patterns, filters, orders, and all columns.

use serde_json::json;

use crate::{agent::StandIn, control_plane::ControlPlane, fixture::Fixture};

#[tokio::test]
async fn a_pattern_drains_after_a_confirmation_that_counts() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _idle = StandIn::start(&fixture, "relay-1", &[]).await;
    let _busy = StandIn::start(&fixture, "relay-2", &["orders"]).await;
    let _other = StandIn::start(&fixture, "edge-1", &[]).await;
    // Nobody is there to be asked.
    let run = fixture.run(&["drain", "relay-*"]).await.expect(2);
    run.says("error: drain 2 agents: relay-1, relay-2: needs a confirmation")
        .says("hint: repeat with --yes");
    assert_eq!(fixture.json(&["operation", "list"]).await, json!([]));
    // What would happen needs no consent.
    let run = fixture.run(&["drain", "relay-*", "--plan"]).await.expect(0);
    run.prints("orders    relay-2  edge-1");
    assert_eq!(fixture.json(&["operation", "list"]).await, json!([]));
    let words = ["drain", "relay-*", "--yes", "--detach"];
    fixture.run(&words).await.expect(0);
    let drained = fixture
        .json(&[
            "agent",
            "list",
            "--filter",
            "holds!=-",
            "--sort",
            "name:desc",
        ])
        .await;
    let names: Vec<&str> = drained
        .as_array()
        .unwrap()
        .iter()
        .map(|agent| agent["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["relay-2", "relay-1"]);
}

#[tokio::test]
async fn a_pattern_that_means_everybody_or_nobody_is_refused() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _only = StandIn::start(&fixture, "relay-1", &["orders"]).await;
    let _other = StandIn::start(&fixture, "relay-2", &[]).await;
    for words in [
        &["drain", "*", "--yes"][..],
        &["drain", "relay-?", "--yes"],
        &["drain", "relay-1", "*-2", "--yes"],
    ] {
        let run = fixture.run(words).await.expect(6);
        run.says(
            "means every agent that runs, and nobody would deliver: 2 agents: relay-1, relay-2",
        )
        .says("hint: leave one out, or drain all the same with --force");
    }
    let run = fixture.run(&["drain", "west-*", "--yes"]).await.expect(1);
    run.says("error: no running agent matches west-*")
        .says("hint: the ones that run: relay-1, relay-2");
    assert_eq!(fixture.json(&["operation", "list"]).await, json!([]));
    let forced = ["drain", "*", "--yes", "--force", "--detach"];
    fixture.run(&forced).await.expect(0);
}

#[tokio::test]
async fn lists_are_chosen_and_ordered_whoever_is_asked() {
    let fixture = Fixture::with_pipelines(&["audit", "invoices", "orders"]).await;
    let _one = StandIn::start(&fixture, "relay-1", &["audit", "orders"]).await;
    let _two = StandIn::start(&fixture, "relay-2", &["invoices"]).await;
    let names = |list: &serde_json::Value| -> Vec<String> {
        let rows = list.as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let list = async |words: &[&str]| names(&fixture.json(words).await);
    let pipelines = ["pipeline", "list"];
    for (select, expected) in [
        (&["--filter", "owner=relay-1"][..], &["audit", "orders"][..]),
        (&["--filter", "name~*o*,owner!=relay-1"], &["invoices"]),
        (&["--sort", "name:desc"], &["orders", "invoices", "audit"]),
        (
            &["--owner", "relay-1", "--sort", "name"],
            &["audit", "orders"],
        ),
        (&["--filter", "enabled=no"], &[]),
    ] {
        let found = list(&[&pipelines[..], select].concat()).await;
        assert_eq!(found, expected, "{select:?}");
    }
    let agents = ["agent", "list", "--filter", "pipelines>1"];
    assert_eq!(list(&agents).await, ["relay-1"]);
    let run = fixture
        .run(&["fleet", "status", "--filter", "pipelines>1"])
        .await
        .expect(0);
    run.prints("HEALTHY  2 agents")
        .prints("relay-1")
        .prints("1 agent left out by --filter");

    let control = ControlPlane::start().await;
    let run = control
        .run(&[
            "agent",
            "list",
            "--filter",
            "name~relay-*",
            "--sort",
            "name:desc",
            "-o",
            "ndjson",
        ])
        .await
        .expect(0);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(
        lines.len() >= 2 && lines.is_sorted_by(|a, b| name(a) > name(b)),
        "{run:?}"
    );
}

fn name(line: &str) -> String {
    let row: serde_json::Value = serde_json::from_str(line).unwrap();
    row["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_cannot_be_chosen_by_is_refused_before_anybody_is_asked() {
    let fixture = Fixture::empty().await;
    for (words, says, hint) in [
        (
            &["agent", "list", "--filter", "stat=ACTIVE"][..],
            "agents have no field \"stat\"",
            "did you mean state? the fields are name, state, host",
        ),
        (
            &["pipeline", "list", "--sort", "lags"],
            "pipelines have no field \"lags\"",
            "did you mean lag? the fields are name, outbox",
        ),
        (
            &["fleet", "status", "--filter", "lag>soon"],
            "lag>soon cannot be",
            "it is a duration",
        ),
    ] {
        let run = fixture.run(words).await.expect(2);
        run.says(says).says(hint);
    }
}

#[tokio::test]
async fn wide_lists_have_all_columns_and_say_where_they_are_from() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _agent = StandIn::start(&fixture, "relay-1", &["orders"]).await;
    for (words, columns) in [
        (
            &["agent", "list"][..],
            &["HOST", "PID", "METRICS", "INCARNATION", "node-1"][..],
        ),
        (
            &["pipeline", "list"],
            &["EPOCH", "LAST ID", "PID", "SINCE", "OWNERSHIP"],
        ),
        (&["fleet", "status"], &["HOST", "PID", "node-1"]),
    ] {
        let wide = [words, &["-o", "wide"]].concat();
        let mut run = fixture.run(&wide).await.expect(0);
        for column in columns {
            run = run.prints(column);
        }
        run.prints("source database 127.0.0.1:");
        let narrow = fixture.run(words).await.expect(0);
        assert!(!narrow.stdout.contains("  PID"), "{narrow:?}");
    }
    let wide = fixture
        .run(&["locks", "list", "-o", "wide"])
        .await
        .expect(0);
    wide.prints("EPOCH").prints("USER").prints("CLIENT");
}
