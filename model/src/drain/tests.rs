use std::collections::BTreeMap;

use time::{Duration, OffsetDateTime};

use super::*;
use crate::{
    HoldId, Incarnation, OperationId,
    fleet::{AgentRow, PipelineRow},
    hold::{DrainTerms, Hold, HoldTarget},
    operation::OperationState,
};

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn agent(name: &str) -> AgentRow {
    AgentRow {
        name: name.parse().unwrap(),
        incarnation: Incarnation(uuid::Uuid::nil()),
        alive: true,
        version: String::new(),
        hostname: String::new(),
        weight: 1,
        metrics_addr: None,
        started_at: NOW,
        last_seen_at: NOW,
        stopped_at: None,
    }
}

fn pipeline(number: i64, name: &str) -> PipelineRow {
    PipelineRow {
        name: name.parse().unwrap(),
        outbox: "events".to_owned(),
        sink: "null".to_owned(),
        enabled: true,
        revision: 1,
        weight: 1,
        lock_key: number,
        owner: Some("relay-1".parse().unwrap()),
        owner_pid: None,
        epoch: None,
        last_change_id: 0,
        lag_rows: 0,
        lag: Duration::ZERO,
        state: Some(PipelineState::Running),
        state_reason: None,
        state_since: None,
        reshard_to: None,
        settled: true,
    }
}

/// relay-1 has `audit` and `orders`, and is drained; relay-2 is there.
fn view() -> DatabaseView {
    DatabaseView {
        group: "default".parse().unwrap(),
        taken_at: NOW,
        pipelines: vec![pipeline(1, "audit"), pipeline(2, "orders")],
        agents: vec![agent("relay-1"), agent("relay-2")],
        holds: vec![Hold {
            id: HoldId(uuid::Uuid::nil()),
            name: "ana".to_owned(),
            target: HoldTarget::Agent("relay-1".parse().unwrap()),
            kind: HoldKind::Drain,
            actor: "ana".to_owned(),
            reason: String::new(),
            to: None,
            drain: Some(DrainTerms::default()),
            operation: None,
            is_running: true,
            deadline_at: None,
            created_at: NOW,
            expires_at: None,
        }],
        placements: BTreeMap::new(),
        last_drains: BTreeMap::new(),
        generation: 0,
    }
}

fn drain() -> Operation {
    Operation {
        id: OperationId(uuid::Uuid::nil()),
        kind: OperationKind::Drain,
        target: "relay-1".to_owned(),
        actor: "ana".to_owned(),
        reason: String::new(),
        state: OperationState::Running,
        outcome: None,
        moves: Vec::new(),
        created_at: NOW,
        deadline_at: None,
        finished_at: None,
    }
}

/// Each change, and what becomes of `audit` and `orders`.
type Row = (
    &'static str,
    fn(&mut DatabaseView),
    [(Progress, &'static str); 2],
);

const GOES: (Progress, &str) = (
    Progress::Progressing,
    "finishing its batch, then relay-2 takes over",
);

const ROWS: &[Row] = &[
    ("nothing is in the way", |_| {}, [GOES, GOES]),
    (
        "nobody else is there",
        |view| view.agents[1].alive = false,
        [(Progress::Blocked, "no live agent may take it"); 2],
    ),
    (
        "a sink fails",
        |view| {
            view.pipelines[1].state = Some(PipelineState::Retrying);
            view.pipelines[1].state_reason = Some("HTTP 503".to_owned());
        },
        [
            GOES,
            (
                Progress::Waiting,
                "its sink fails; it leaves after this try: HTTP 503",
            ),
        ],
    ),
    (
        "they go one by one",
        |view| {
            view.holds[0].drain = Some(DrainTerms {
                pace: Some(1),
                ..DrainTerms::default()
            });
        },
        [GOES, (Progress::Waiting, "waits for its turn: 1 at a time")],
    ),
    (
        "the agent is silent",
        |view| view.agents[0].last_seen_at = NOW - Duration::seconds(20),
        [(
            Progress::Waiting,
            "relay-1 was last heard of 20s ago; when its lease ends, others take over",
        ); 2],
    ),
    (
        "one is disabled",
        |view| view.pipelines[0].enabled = false,
        [(Progress::Progressing, "stopping, as it is disabled"), GOES],
    ),
];

#[test]
fn each_pipeline_of_a_drain_is_on_its_way_or_says_what_it_waits_for() {
    for (what, change, expected) in ROWS {
        let mut view = view();
        change(&mut view);
        let steps = steps(&view, &drain());
        let told: Vec<(Progress, &str)> = steps
            .iter()
            .map(|step| (step.progress, step.detail.as_str()))
            .collect();
        assert_eq!(told, expected, "{what}");
        for step in steps {
            let blocked = step.progress == Progress::Blocked;
            assert_eq!(step.hint.is_some(), blocked, "{what}: {step:?}");
        }
    }
}

#[test]
fn who_has_left_is_not_mentioned() {
    let mut view = view();
    view.pipelines[0].owner = Some("relay-2".parse().unwrap());
    let steps = steps(&view, &drain());
    assert_eq!(steps.len(), 1);
    assert_eq!(steps[0].pipeline.as_str(), "orders");
}
