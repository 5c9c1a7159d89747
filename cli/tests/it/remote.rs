//! What the program makes of a control plane's answers, and of none.

use std::sync::atomic::Ordering;

use tide_model::{drain::Progress, operation::OperationState};
use tokio::net::TcpListener;
use tonic::Code;

use crate::{
    agent::StandIn,
    control_plane::{ControlPlane, ended, step},
    fixture::{Fixture, Running, finish, tidectl},
};

#[tokio::test]
async fn the_fleet_comes_from_the_control_plane() {
    let control_plane = ControlPlane::start().await;
    let run = control_plane.run(&["fleet", "status"]).await.expect(0);
    let run = run.prints("FLEET default  HEALTHY  2 agents  2 pipelines");
    run.prints(&format!("source control-plane {}", control_plane.url()));
}

#[tokio::test]
async fn lists_are_read_to_their_last_page() {
    let control_plane = ControlPlane::start().await;
    for words in [["agent", "ls"], ["pipeline", "ls"]] {
        let run = control_plane.run(&words).await.expect(0);
        assert_eq!(run.stdout.lines().count(), 3, "{run:?}");
    }
    let run = control_plane
        .run(&["pipeline", "ls", "--owner", "relay-2"])
        .await
        .expect(0);
    assert!(
        run.stdout.contains("orders") && !run.stdout.contains("invoices"),
        "{run:?}"
    );
    let run = control_plane
        .run(&["operation", "ls", "--limit", "2"])
        .await
        .expect(0);
    assert_eq!(run.stdout.lines().count(), 3, "{run:?}");
}

#[tokio::test]
async fn nobody_there_is_exit_nine() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    for words in [
        &["fleet", "status"][..],
        &["drain", "relay-1"],
        &["pipeline", "ls"],
    ] {
        let mut command = tidectl(words);
        command.env("TIDE_CONTROL_PLANE", format!("http://{free}"));
        let run = finish(command, "").await.expect(9);
        let run = run.says(&format!(
            "error: control plane at http://{free} is unreachable: connection refused"
        ));
        run.says("\n\nhint: start tide-control-plane")
            .says("--source database");
    }
}

#[tokio::test]
async fn somebody_who_does_not_answer_is_exit_nine_too() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut command = tidectl(&["fleet", "status", "--timeout", "200ms"]);
    command.env(
        "TIDE_CONTROL_PLANE",
        format!("http://{}", silent.local_addr().unwrap()),
    );
    finish(command, "")
        .await
        .expect(9)
        .says("no answer within 0.2s");
}

#[tokio::test]
async fn the_database_stands_in_for_a_control_plane_that_is_away() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _agent = StandIn::start(&fixture, "relay-7", &["orders"]).await;
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let command = |words: &[&str]| {
        let mut command = tidectl(words);
        command
            .env("TIDE_CONTROL_PLANE", format!("http://{free}"))
            .env("TIDE_POSTGRES_URL", &fixture.url);
        command
    };
    let run = finish(command(&["fleet", "status"]), "").await.expect(0);
    let run = run.says("is unreachable: connection refused; using the database");
    run.prints("relay-7").prints("(control plane unreachable)");
    let only = command(&["fleet", "status", "--source", "control-plane"]);
    finish(only, "").await.expect(9);
}

#[tokio::test]
async fn a_standby_is_passed_over_for_the_database() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let _agent = StandIn::start(&fixture, "relay-7", &["orders"]).await;
    let standby = ControlPlane::refusing(Code::Unavailable, "standby", "ask ctl-b").await;
    let run = standby.run(&["agent", "ls"]).await.expect(9);
    run.says("is unreachable: standby").says("hint: ask ctl-b");
    let mut command = standby.command(&["agent", "ls"]);
    command.env("TIDE_POSTGRES_URL", &fixture.url);
    finish(command, "").await.expect(0).prints("relay-7");
}

#[tokio::test]
async fn a_standby_is_followed_to_the_active_one() {
    let standby = ControlPlane::refusing(Code::Unavailable, "standby", "").await;
    let active = ControlPlane::start().await;
    standby.answers.leader.send_replace(Some(active.url()));
    let run = standby.run(&["fleet", "status"]).await.expect(0);
    run.prints(&format!("source control-plane {}", active.url()));
}

#[tokio::test]
async fn standbys_that_name_each_other_are_asked_once_each() {
    let one = ControlPlane::refusing(Code::Unavailable, "standby", "try again").await;
    let two = ControlPlane::refusing(Code::Unavailable, "standby", "try again").await;
    one.answers.leader.send_replace(Some(two.url()));
    two.answers.leader.send_replace(Some(one.url()));
    let run = one.run(&["agent", "ls"]).await.expect(9);
    run.says("is unreachable: standby").says("hint: try again");
    for asked in [&one.answers.asked, &two.answers.asked] {
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn of_several_control_planes_the_first_that_answers_is_asked() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = gone.local_addr().unwrap();
    let standby = ControlPlane::refusing(Code::Unavailable, "standby", "").await;
    let active = ControlPlane::start().await;
    let mut command = tidectl(&["fleet", "status"]);
    let several = format!("http://{gone},{},{}", standby.url(), active.url());
    command.env("TIDE_CONTROL_PLANE", several);
    let run = finish(command, "").await.expect(0);
    run.prints(&format!("source control-plane {}", active.url()));
}

#[tokio::test]
async fn refusals_keep_their_words_and_get_their_code() {
    for (code, exit) in [
        (Code::InvalidArgument, 2),
        (Code::FailedPrecondition, 6),
        (Code::Aborted, 7),
        (Code::PermissionDenied, 8),
        (Code::Internal, 1),
    ] {
        let control_plane = ControlPlane::refusing(code, "no, says the server", "ask nicely").await;
        let run = control_plane.run(&["drain", "relay-2"]).await.expect(exit);
        run.says("error: no, says the server\n\nhint: ask nicely");
    }
}

#[tokio::test]
async fn another_group_s_control_plane_is_not_used() {
    let control_plane = ControlPlane::start().await;
    let words = ["drain", "relay-2", "--relay-group-id", "blue"];
    let run = control_plane.run(&words).await.expect(2);
    run.says("serves group default, not blue");
    let words = ["agent", "ls", "--relay-group-id", "default"];
    control_plane.run(&words).await.expect(0);
}

#[tokio::test]
async fn a_drain_is_followed_on_the_stream() {
    let control_plane = ControlPlane::start().await;
    let mut drain = Running::start(control_plane.command(&["drain", "relay-2"]));
    drain.until_says("1 pipeline: relay-2 > relay-1 (1)").await;
    drain
        .until_says("PROGRESSING  orders  relay-2 > relay-1  on its way")
        .await;
    let operation = &control_plane.answers.operation;
    operation.send_modify(|(_, steps)| *steps = vec![step(Progress::Waiting)]);
    drain.until_says("WAITING      orders").await;
    operation.send_replace(ended(OperationState::Succeeded, "safe"));
    drain.until_says("1/1 moved").await;
    assert_eq!(
        drain.end().await.expect(0).stdout,
        "relay-2 is safe to stop\n"
    );
}

#[tokio::test]
async fn a_failed_drain_is_not_told_as_moved() {
    let control_plane = ControlPlane::start().await;
    let mut drain = Running::start(control_plane.command(&["drain", "relay-2", "-o", "json"]));
    drain.until_says("0/1 moved").await;
    control_plane
        .answers
        .operation
        .send_replace(ended(OperationState::Failed, "too late"));
    let run = drain.end().await.expect(6);
    assert!(!run.stderr.contains("1/1 moved"), "{run:?}");
    let printed: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(printed["safe_to_stop"], false);
    assert_eq!(printed["verdict"], "relay-2 is NOT safe to stop: too late");
    assert_eq!(printed["state"], "failed");
}

#[tokio::test]
async fn following_survives_the_control_plane() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let mut leaving = StandIn::start(&fixture, "relay-2", &["orders"]).await;
    let _taking = StandIn::start(&fixture, "relay-1", &[]).await;
    let id = fixture.json(&["drain", "relay-2", "--detach"]).await["id"].clone();
    // The control plane knows the same operation, and dies in the middle.
    let control_plane = ControlPlane::start().await;
    let id = id.as_str().unwrap();
    control_plane
        .answers
        .operation
        .send_modify(|(operation, _)| operation.id = id.parse().unwrap());
    let mut command = control_plane.command(&["operation", "watch", id]);
    command.env("TIDE_POSTGRES_URL", &fixture.url);
    let mut watch = Running::start(command);
    watch.until_says("0/1 moved").await;
    drop(control_plane);
    watch
        .until_says("lost sight of the operation, which goes on")
        .await;
    watch.until_says("using the database").await;
    leaving.release(&["orders"]).await;
    leaving.obey().await;
    assert_eq!(
        watch.end().await.expect(0).stdout,
        "relay-2 is safe to stop\n"
    );
}

#[tokio::test]
async fn an_answer_without_what_was_promised_is_an_error() {
    let control_plane = ControlPlane::start().await;
    let run = control_plane
        .run(&["move", "orders", "--to", "relay-1"])
        .await
        .expect(1);
    run.says("the control plane's answer is unreadable: field operation is missing");
}

#[tokio::test]
async fn a_watch_prints_each_change_on_a_line_of_json() {
    let control_plane = ControlPlane::start().await;
    let mut command = control_plane.command(&["fleet", "status", "--watch", "-o", "json"]);
    let mut child = command.spawn().unwrap();
    let mut lines = crate::fixture::lines(child.stdout.take().unwrap());
    let first: serde_json::Value = serde_json::from_str(&lines.next().await).unwrap();
    assert_eq!(
        (&first["healthy"], &first["source"]),
        (&true.into(), &"control-plane".into())
    );
    control_plane.answers.fleet.send_modify(|fleet| {
        fleet.agents.remove(1);
        fleet.warnings.push("relay-2 is gone".to_owned());
    });
    let second: serde_json::Value = serde_json::from_str(&lines.next().await).unwrap();
    assert_eq!(second["healthy"], false);
    assert_eq!(second["agents"].as_array().unwrap().len(), 1);
    assert_eq!(
        second["pipelines"].as_array().unwrap().len(),
        2,
        "what did not change stays"
    );
    assert!(control_plane.answers.asked.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn what_a_control_plane_does_by_itself_it_says_itself() {
    let control_plane = ControlPlane::start().await;
    let run = control_plane.run(&["rebalance", "status"]).await.expect(0);
    run.prints("auto: from 1.50 times the mean on, 30m after the last move, while no pipeline is more than 1m behind")
        .prints("bearable: the fullest agent has 1.20 times the mean");
    let run = control_plane
        .run(&["rebalance", "status", "-o", "json"])
        .await
        .expect(0);
    let status: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(status["mode"], "auto");
    assert_eq!(status["cooldown_seconds"], 1_800.0);
    let pause = [
        "rebalance",
        "pause",
        "--for",
        "2h",
        "--reason",
        "sale",
        "--actor",
        "ana",
    ];
    let run = control_plane.run(&pause).await.expect(0);
    run.prints("paused by ana until 1970-01-01T02:00:00Z: sale");
    let resume = ["rebalance", "resume", "--break"];
    control_plane
        .run(&resume)
        .await
        .expect(0)
        .prints("2 pauses ended");
}
