use insta::assert_snapshot;
use tide_model::{
    Epoch, Incarnation, OperationId,
    drain::{Progress, Step},
    fleet::{AgentState, AgentView, FleetView, Ownership, PipelineView},
    operation::{Move, Operation, OperationKind, OperationState},
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::*;
use crate::source::OperationView;

fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::days(20_000)
}

fn agent(name: &str, state: AgentState, pipelines: u32) -> AgentView {
    AgentView {
        name: name.parse().unwrap(),
        state,
        incarnation: Incarnation(Uuid::nil()),
        version: "0.9.2".to_owned(),
        hostname: "node-7".to_owned(),
        weight: 1,
        metrics_addr: Some("10.0.0.7:9090".to_owned()),
        pipelines,
        unhealthy: 0,
        lag_p95_seconds: 0.9,
        lag_worst_seconds: 2.1,
        holds: Vec::new(),
        started_at: now() - Duration::days(12),
        last_seen_at: now() - Duration::seconds(2),
        reporting: true,
        backend_pid: None,
        last_drain: None,
    }
}

fn pipeline(name: &str, owner: Option<&str>, state: &str) -> PipelineView {
    PipelineView {
        name: name.parse().unwrap(),
        outbox: "order_events".to_owned(),
        sink: "kafka".to_owned(),
        enabled: state != "disabled",
        owner: owner.map(|owner| owner.parse().unwrap()),
        epoch: Some(Epoch(41)),
        last_change_id: 99_318,
        lag_rows: 0,
        lag_seconds: 0.0,
        state: state.to_owned(),
        reason: None,
        since: Some(now() - Duration::minutes(4)),
        retry_at: None,
        backend_pid: None,
        moving_to: None,
        placement: None,
        holds: Vec::new(),
        ownership: Ownership::Agreed,
        claimed_by: Vec::new(),
    }
}

fn degraded_fleet() -> FleetView {
    let draining = AgentView {
        holds: vec!["drain by ana: kernel 6.9".to_owned()],
        ..agent("relay-2", AgentState::Draining, 11)
    };
    let struggling = AgentView {
        unhealthy: 1,
        weight: 2,
        lag_worst_seconds: 252.0,
        started_at: now() - Duration::hours(2),
        ..agent("relay-3", AgentState::Active, 131)
    };
    let lost = AgentView {
        last_seen_at: now() - Duration::seconds(48),
        reporting: false,
        backend_pid: None,
        last_drain: None,
        ..agent("relay-4", AgentState::Lost, 0)
    };
    FleetView {
        group: "prod-eu".parse().unwrap(),
        agents: vec![
            agent("relay-1", AgentState::Active, 70),
            draining,
            struggling,
            lost,
        ],
        pipelines: vec![
            PipelineView {
                lag_rows: 18_204,
                lag_seconds: 252.0,
                reason: Some("HTTP 429, next try in 9s".to_owned()),
                ..pipeline("orders-eu-7", Some("relay-3"), "retrying")
            },
            PipelineView {
                moving_to: Some("relay-1".parse().unwrap()),
                ..pipeline("invoices", Some("relay-2"), "running")
            },
            PipelineView {
                epoch: None,
                reason: Some("no live agent may take it".to_owned()),
                ..pipeline("legacy", None, "unowned")
            },
            pipeline("archive", None, "disabled"),
        ],
        database_at: now(),
        warnings: vec![
            "legacy is unowned: no live agent may take it".to_owned(),
            "orders-eu-7 (relay-3) is retrying: HTTP 429, next try in 9s".to_owned(),
            "relay-4 is gone without a goodbye; pg_locks shows that it holds nothing".to_owned(),
        ],
        coverage: None,
        revision: None,
    }
}

fn operation(kind: OperationKind, state: OperationState) -> Operation {
    Operation {
        id: OperationId(Uuid::nil()),
        kind,
        target: "relay-2".to_owned(),
        actor: "ana@laptop".to_owned(),
        reason: "kernel 6.9".to_owned(),
        state,
        outcome: (state != OperationState::Running).then(|| "as it was wanted".to_owned()),
        moves: Vec::new(),
        created_at: now() - Duration::minutes(2),
        deadline_at: Some(now() + Duration::minutes(3)),
        finished_at: (state != OperationState::Running).then(|| now() - Duration::seconds(5)),
    }
}

fn step(pipeline: &str, progress: Progress, detail: &str, hint: Option<&str>) -> Step {
    Step {
        pipeline: pipeline.parse().unwrap(),
        from: Some("relay-2".parse().unwrap()),
        to: hint.is_none().then(|| "relay-1".parse().unwrap()),
        progress,
        until: None,
        cause: None,
        detail: detail.to_owned(),
        hint: hint.map(ToOwned::to_owned),
    }
}

#[test]
fn a_degraded_fleet() {
    let fleet_view = degraded_fleet();
    let status = FleetStatus::new("control-plane", &fleet_view);
    let later = now() + Duration::seconds(1);
    assert_snapshot!(fleet(
        Style::plain(),
        &status,
        "control-plane http://ctl-a:7900",
        later
    ));
}

#[test]
fn a_healthy_fleet_fits_a_hundred_columns() {
    let mut fleet_view = degraded_fleet();
    fleet_view.agents.truncate(1);
    fleet_view.pipelines.truncate(0);
    fleet_view.warnings.clear();
    let status = FleetStatus::new("database", &fleet_view);
    let text = fleet(Style::plain(), &status, "database db:5432/shop", now());
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
    assert_snapshot!(text);
}

#[test]
fn a_fleet_in_json_has_stable_keys() {
    let fleet_view = degraded_fleet();
    insta::assert_json_snapshot!(FleetStatus::new("database", &fleet_view));
}

#[test]
fn many_warnings_are_cut() {
    let many: Vec<String> = (0..25).map(|n| format!("warning {n}")).collect();
    let text = warnings(Style::plain(), &many);
    assert_eq!(text.lines().count(), 21);
    assert!(text.ends_with("! and 5 more\n"), "{text}");
    assert_eq!(warnings(Style::plain(), &many[..20]).lines().count(), 20);
}

#[test]
fn all_pipelines() {
    assert_snapshot!(pipelines(
        Style::plain(),
        &degraded_fleet().pipelines,
        now()
    ));
}

#[test]
fn one_pipeline() {
    assert_snapshot!(pipeline_view());
}

fn pipeline_view() -> String {
    super::pipeline(Style::plain(), &degraded_fleet().pipelines[0], now())
}

#[test]
fn one_agent_and_what_it_owns() {
    let fleet = degraded_fleet();
    assert_snapshot!(super::agent(
        Style::plain(),
        &fleet.agents[2],
        &fleet.pipelines[..1],
        now()
    ));
}

#[test]
fn recent_operations() {
    let list = [
        operation(OperationKind::Drain, OperationState::Running),
        operation(OperationKind::Rebalance, OperationState::Succeeded),
        operation(OperationKind::Move, OperationState::Cancelled),
    ];
    assert_snapshot!(operations(Style::plain(), &list, now()));
}

#[test]
fn one_operation_and_its_steps() {
    let view = OperationView {
        operation: operation(OperationKind::Drain, OperationState::Running),
        steps: vec![
            step(
                "orders",
                Progress::Progressing,
                "finishing its batch, then relay-1 takes over",
                None,
            ),
            step(
                "legacy",
                Progress::Blocked,
                "no live agent may take it",
                Some("start another agent, or: tidectl undrain relay-2"),
            ),
            Step {
                until: Some(now() + Duration::hours(30)),
                ..step("audit", Progress::Waiting, "relay-1 is cordoned", None)
            },
        ],
    };
    assert_snapshot!(super::operation(Style::plain(), &view, now()));
}

#[test]
fn steps_one_by_one() {
    let lines = [
        step(
            "orders",
            Progress::Waiting,
            "its sink fails; it leaves after this try: 503",
            None,
        ),
        step(
            "legacy",
            Progress::Blocked,
            "no live agent may take it",
            Some("tidectl undrain relay-2"),
        ),
        Step {
            until: Some(now() + Duration::seconds(9)),
            ..step("audit", Progress::Waiting, "relay-2 is silent", None)
        },
    ]
    .map(|step| step_line(Style::plain(), &step, now()));
    assert_snapshot!(lines.join("\n"));
}

#[test]
fn planned_moves() {
    let planned = [
        ("orders", Some("relay-2"), "evens out the load of relay-2"),
        ("legacy", None, "nobody owns it"),
    ];
    let planned = planned.map(|(pipeline, from, reason)| Move {
        pipeline: pipeline.parse().unwrap(),
        from: from.map(|from| from.parse().unwrap()),
        to: "relay-1".parse().unwrap(),
        reason: reason.to_owned(),
    });
    assert_snapshot!(moves(Style::plain(), &planned));
    assert_eq!(shares(&planned), "- > relay-1 (1); relay-2 > relay-1 (1)");
}

fn wide() -> Style {
    Style::plain().with_all_columns(true)
}

#[test]
fn all_that_is_known_of_agents() {
    let mut fleet = degraded_fleet();
    fleet.agents[1].backend_pid = Some(48_121);
    assert_snapshot!(
        agents(wide(), &fleet.agents, now()) + &footer(wide(), "database db:5432/shop")
    );
}

#[test]
fn all_that_is_known_of_pipelines() {
    let mut fleet = degraded_fleet();
    let retrying = &mut fleet.pipelines[0];
    retrying.retry_at = Some(now() + Duration::seconds(9));
    retrying.backend_pid = Some(48_121);
    retrying.holds = vec!["pin to relay-3 by tom: dongle".to_owned()];
    assert_snapshot!(pipelines(wide(), &fleet.pipelines, now()));
}

#[test]
fn all_that_is_known_of_operations() {
    let list = [
        operation(OperationKind::Drain, OperationState::Running),
        operation(OperationKind::Drain, OperationState::Succeeded),
    ];
    assert_snapshot!(operations(wide(), &list, now()));
}

#[test]
fn a_list_without_all_its_columns_has_no_footer() {
    assert_eq!(footer(Style::plain(), "database db:5432/shop"), "");
}

#[test]
fn agents_that_were_left_out_are_counted_and_judged_all_the_same() {
    let mut fleet_view = degraded_fleet();
    let known = fleet_view.agents.len();
    fleet_view.agents.truncate(1);
    let status = FleetStatus::of_chosen("database", &fleet_view, known);
    let text = fleet(Style::plain(), &status, "database db:5432/shop", now());
    assert!(text.contains("DEGRADED  4 agents"), "{text}");
    assert!(text.contains("3 agents left out by --filter"), "{text}");
}
