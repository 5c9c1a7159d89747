use tide_model::{Epoch, fleet::Ownership};

use super::*;

fn pipeline(name: &str, last_change_id: i64, lag_rows: i64, lag_seconds: f64) -> PipelineView {
    PipelineView {
        name: name.parse().unwrap(),
        outbox: "order_events".to_owned(),
        sink: "kafka".to_owned(),
        enabled: true,
        owner: Some("relay-1".parse().unwrap()),
        epoch: Some(Epoch(41)),
        last_change_id,
        lag_rows,
        lag_seconds,
        state: "running".to_owned(),
        reason: None,
        since: None,
        retry_at: None,
        backend_pid: None,
        moving_to: None,
        placement: None,
        holds: Vec::new(),
        ownership: Ownership::Agreed,
        claimed_by: Vec::new(),
    }
}

fn fleet_at(second: i64, pipelines: Vec<PipelineView>) -> FleetView {
    FleetView {
        group: "default".parse().unwrap(),
        agents: Vec::new(),
        pipelines,
        database_at: OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second),
        warnings: Vec::new(),
        coverage: None,
        revision: None,
    }
}

fn status(before: PipelineView, after: PipelineView) -> Status {
    let (before, after) = (fleet_at(0, vec![before]), fleet_at(2, vec![after]));
    Status::new("db:5432/shop".to_owned(), &after, Some(&before), Vec::new())
}

/// A cordon that somebody set three days ago.
fn forgotten() -> Hold {
    Hold {
        id: tide_model::HoldId(uuid::Uuid::nil()),
        name: "ana".to_owned(),
        target: tide_model::hold::HoldTarget::Agent("relay-2".parse().unwrap()),
        kind: tide_model::hold::HoldKind::Cordon,
        actor: "ana".to_owned(),
        reason: "disk".to_owned(),
        to: None,
        drain: None,
        operation: None,
        is_running: false,
        deadline_at: None,
        created_at: OffsetDateTime::UNIX_EPOCH - time::Duration::days(3),
        expires_at: None,
    }
}

#[test]
fn what_is_held_is_shown_with_its_age_and_degrades_nothing() {
    let fleet = fleet_at(0, vec![pipeline("orders", 7, 0, 0.0)]);
    let status = Status::new("db:5432/shop".to_owned(), &fleet, None, vec![forgotten()]);
    assert!(status.healthy);
    insta::assert_snapshot!(text(Style::plain(), &status));
}

#[test]
fn all_columns_if_they_are_asked_for() {
    let mut waiting = pipeline("orders", 7, 0, 0.0);
    waiting.since = Some(OffsetDateTime::UNIX_EPOCH - time::Duration::minutes(4));
    waiting.backend_pid = Some(48_121);
    let fleet = fleet_at(0, vec![waiting]);
    let status = Status::new("db:5432/shop".to_owned(), &fleet, None, Vec::new());
    let style = Style::plain().with_all_columns(true);
    insta::assert_snapshot!(text(style, &status));
}

#[test]
fn owned_but_not_progressing_is_degraded() {
    let status = status(
        pipeline("orders", 7, 3, 60.0),
        pipeline("orders", 7, 5, 62.0),
    );
    assert!(!status.healthy && status.pipelines[0].stalled);
    insta::assert_snapshot!(text(Style::plain(), &status));
}

#[test]
fn catching_up_is_healthy_and_shows_how_fast() {
    let status = status(
        pipeline("orders", 1_000, 9_000, 60.0),
        pipeline("orders", 4_000, 6_000, 61.0),
    );
    assert!(status.healthy);
    assert_eq!(status.pipelines[0].lag(), "6,000 -1,500/s");
    insta::assert_snapshot!(text(Style::plain(), &status));
}

#[test]
fn having_caught_up_needs_no_speed() {
    let status = status(
        pipeline("orders", 1, 9, 60.0),
        pipeline("orders", 10, 0, 0.0),
    );
    assert_eq!(status.pipelines[0].lag(), "0");
}

#[test]
fn falling_behind_shows_how_fast() {
    let status = status(
        pipeline("orders", 10, 100, 1.0),
        pipeline("orders", 20, 700, 2.5),
    );
    assert_eq!(status.pipelines[0].lag(), "700 +300/s");
}

#[test]
fn what_came_only_just_now_is_not_stalled() {
    let fresh = status(pipeline("orders", 7, 0, 0.0), pipeline("orders", 7, 1, 0.5));
    assert!(!fresh.pipelines[0].stalled);
    // Others waited at the first look; this one was written between the looks.
    let turned_over = status(pipeline("orders", 7, 1, 0.1), pipeline("orders", 8, 1, 0.1));
    assert!(!turned_over.pipelines[0].stalled);
}

#[test]
fn a_new_owner_and_a_known_reason_are_not_called_stalled() {
    let mut taken_over = pipeline("orders", 7, 3, 62.0);
    taken_over.epoch = Some(Epoch(42));
    assert!(!status(pipeline("orders", 7, 3, 60.0), taken_over).pipelines[0].stalled);
    let mut retrying = pipeline("orders", 7, 3, 62.0);
    retrying.state = "retrying".to_owned();
    assert!(!status(pipeline("orders", 7, 3, 60.0), retrying).pipelines[0].stalled);
}

#[test]
fn json_has_the_views_keys() {
    let status = status(
        pipeline("orders", 7, 3, 60.0),
        pipeline("orders", 7, 5, 62.0),
    );
    insta::assert_json_snapshot!(status);
}
