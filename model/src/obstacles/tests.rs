use time::{Duration, OffsetDateTime};

use super::*;
use crate::{
    HoldId, Incarnation,
    fleet::{AgentRow, HoldKind, PipelineRow},
    hold::HoldTarget,
};

fn agent(name: &str) -> AgentRow {
    AgentRow {
        name: name.parse().unwrap(),
        incarnation: Incarnation(uuid::Uuid::nil()),
        alive: true,
        version: String::new(),
        hostname: String::new(),
        weight: 1,
        metrics_addr: None,
        started_at: OffsetDateTime::UNIX_EPOCH,
        last_seen_at: OffsetDateTime::UNIX_EPOCH,
        stopped_at: None,
        backend_pid: None,
        lease_ends_at: None,
    }
}

fn pipeline(number: i64, name: &str, owner: &str) -> PipelineRow {
    PipelineRow {
        name: name.parse().unwrap(),
        outbox: "events".to_owned(),
        sink: "null".to_owned(),
        enabled: true,
        revision: 1,
        weight: 1,
        lock_key: number,
        owner: Some(owner.parse().unwrap()),
        owner_pid: None,
        epoch: None,
        last_change_id: 0,
        lag_rows: 0,
        lag: Duration::ZERO,
        state: None,
        state_reason: None,
        state_since: None,
        retry_at: None,
        reshard_to: None,
        settled: true,
    }
}

/// `orders` and `audit` are on relay-1, `bills` on relay-2.
fn view() -> DatabaseView {
    DatabaseView {
        pipelines: vec![
            pipeline(1, "audit", "relay-1"),
            pipeline(2, "bills", "relay-2"),
            pipeline(3, "orders", "relay-1"),
        ],
        agents: vec![agent("relay-1"), agent("relay-2")],
        ..DatabaseView::empty("default".parse().unwrap(), OffsetDateTime::UNIX_EPOCH)
    }
}

fn held(kind: HoldKind, target: &str, to: Option<&str>) -> DatabaseView {
    let mut view = view();
    view.holds.push(Hold {
        id: HoldId(uuid::Uuid::nil()),
        name: "tom".to_owned(),
        target: match kind {
            HoldKind::Drain | HoldKind::Cordon => HoldTarget::Agent(target.parse().unwrap()),
            HoldKind::Pin | HoldKind::Freeze | HoldKind::Pause => {
                HoldTarget::Pipeline(target.parse().unwrap())
            }
        },
        kind,
        actor: "tom".to_owned(),
        reason: "dongle".to_owned(),
        to: to.map(|to| to.parse().unwrap()),
        drain: None,
        operation: None,
        is_running: false,
        deadline_at: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
        expires_at: None,
    });
    view
}

fn obstacles(view: &DatabaseView, agents: &[&str]) -> String {
    let agents: Vec<AgentName> = agents.iter().map(|name| name.parse().unwrap()).collect();
    drain_obstacles(view, &agents).to_string()
}

#[test]
fn every_reason_against_a_drain_is_named_and_a_possible_one_has_none() {
    let without_relay_2 = {
        let mut view = view();
        view.agents[1].alive = false;
        view
    };
    for (what, view, agents, expected) in [
        ("somebody takes it all", view(), &["relay-1"][..], ""),
        (
            "nobody else is there",
            without_relay_2,
            &["relay-1"],
            "draining relay-1 would leave 2 pipelines without an agent: audit, orders",
        ),
        (
            "all of them at once",
            view(),
            &["relay-1", "relay-2"],
            "draining relay-1, relay-2 would leave 3 pipelines without an agent: audit, bills, orders",
        ),
        (
            "the other one is cordoned",
            held(HoldKind::Cordon, "relay-2", None),
            &["relay-1"],
            "draining relay-1 would leave 2 pipelines without an agent: audit, orders; \
             relay-2 is cordoned by tom: dongle",
        ),
        (
            "the other one is drained",
            held(HoldKind::Drain, "relay-2", None),
            &["relay-1"],
            "draining relay-1 would leave 2 pipelines without an agent: audit, orders; \
             relay-2 is drained by tom: dongle",
        ),
        (
            "one is pinned here",
            held(HoldKind::Pin, "orders", Some("relay-1")),
            &["relay-1"],
            "draining relay-1 would move what is to stay: \
             orders is pinned to relay-1 by tom: dongle",
        ),
        (
            "one is pinned elsewhere",
            held(HoldKind::Pin, "orders", Some("relay-2")),
            &["relay-1"],
            "",
        ),
        (
            "one is frozen",
            held(HoldKind::Freeze, "audit", None),
            &["relay-1"],
            "draining relay-1 would move what is to stay: audit is frozen by tom: dongle",
        ),
        (
            "one is paused",
            held(HoldKind::Pause, "audit", None),
            &["relay-1"],
            "",
        ),
        (
            "a frozen one of another",
            held(HoldKind::Freeze, "bills", None),
            &["relay-1"],
            "",
        ),
    ] {
        assert_eq!(obstacles(&view, agents), expected, "{what}");
    }
}

#[test]
fn the_hint_names_the_hold_and_its_owner() {
    let view = held(HoldKind::Freeze, "audit", None);
    let hint = drain_obstacles(&view, &["relay-1".parse().unwrap()]).hint();
    assert!(
        hint.starts_with("ask tom to: tidectl hold remove "),
        "{hint}"
    );
    assert!(hint.ends_with("--force"), "{hint}");
}
