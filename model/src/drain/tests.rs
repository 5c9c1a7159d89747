use time::{Duration, OffsetDateTime};

use super::*;
use crate::{
    HoldId, Incarnation, OperationId, PipelineState,
    fleet::{AgentRow, HoldKind, PipelineRow},
    hold::{DrainTerms, Hold, HoldTarget},
    operation::{Operation, OperationKind, OperationState},
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
        backend_pid: None,
        lease_ends_at: None,
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
        retry_at: None,
        reshard_to: None,
        settled: true,
    }
}

/// relay-1 has `audit` and `orders`, and is drained; relay-2 is there.
fn view() -> DatabaseView {
    DatabaseView {
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
        ..DatabaseView::empty("default".parse().unwrap(), NOW)
    }
}

/// A cordon of relay-2 or a pin of `orders`, with or without an end.
fn held(kind: HoldKind, expires_at: Option<OffsetDateTime>) -> Hold {
    let (target, to) = match kind {
        HoldKind::Pin => (
            HoldTarget::Pipeline("orders".parse().unwrap()),
            Some("relay-1".parse().unwrap()),
        ),
        _ => (HoldTarget::Agent("relay-2".parse().unwrap()), None),
    };
    Hold {
        target,
        kind,
        to,
        actor: "tom".to_owned(),
        reason: "disk".to_owned(),
        drain: None,
        expires_at,
        ..view().holds.remove(0)
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

const LATER: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::hours(2));
const SOON: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::seconds(9));

/// What a pipeline waits for: how, until when, why, and whether there is something to do.
type Wait = (
    Progress,
    Option<OffsetDateTime>,
    Option<Cause>,
    Option<&'static str>,
);

/// Each change, and what becomes of `orders`.
type Waiting = (&'static str, fn(&mut DatabaseView), Wait);

fn wait_of(step: &Step) -> Wait {
    let known = [
        "start another agent, or: tidectl undrain relay-1",
        "tidectl uncordon relay-2",
    ];
    let hint = step.hint.as_deref().map(|hint| {
        let known = known.into_iter().find(|known| *known == hint);
        known.unwrap_or("another")
    });
    (step.progress, step.until, step.cause, hint)
}

#[test]
fn a_wait_has_an_end_where_somebody_knows_it_and_nowhere_else() {
    let rows: &[Waiting] = &[
        (
            "the only other agent is cordoned for good",
            |view| view.holds.push(held(HoldKind::Cordon, None)),
            (
                Progress::Blocked,
                None,
                Some(Cause::NoAgent),
                Some("start another agent, or: tidectl undrain relay-1"),
            ),
        ),
        (
            "it is cordoned for some time",
            |view| view.holds.push(held(HoldKind::Cordon, Some(LATER))),
            (Progress::Waiting, Some(LATER), Some(Cause::NoAgent), None),
        ),
        (
            "it is cordoned twice, and the longer one counts",
            |view| {
                view.holds.push(held(HoldKind::Cordon, Some(SOON)));
                view.holds.push(held(HoldKind::Cordon, Some(LATER)));
            },
            (Progress::Waiting, Some(LATER), Some(Cause::NoAgent), None),
        ),
        (
            "the owner is silent, and its session's age is known",
            |view| {
                view.agents[0].last_seen_at = NOW - Duration::seconds(20);
                view.agents[0].lease_ends_at = Some(SOON);
            },
            (
                Progress::Waiting,
                Some(SOON),
                Some(Cause::OwnerSilent),
                None,
            ),
        ),
        (
            "the owner is silent, and should have been ended",
            |view| {
                view.agents[0].last_seen_at = NOW - Duration::seconds(20);
                view.agents[0].lease_ends_at = Some(NOW);
            },
            (Progress::Waiting, None, Some(Cause::OwnerSilent), None),
        ),
        (
            "the sink is being tried",
            |view| view.pipelines[1].state = Some(PipelineState::Retrying),
            (Progress::Waiting, None, Some(Cause::SinkFails), None),
        ),
        (
            "the sink is tried later, so it leaves now",
            |view| {
                view.pipelines[1].state = Some(PipelineState::Retrying);
                view.pipelines[1].retry_at = Some(SOON);
            },
            (Progress::Progressing, None, None, None),
        ),
    ];
    for (what, change, expected) in rows {
        let mut view = view();
        change(&mut view);
        let steps = steps(&view, &drain());
        assert_eq!(wait_of(&steps[1]), *expected, "{what}: {:?}", steps[1]);
    }
}

#[test]
fn a_move_waits_for_holds_that_end_and_is_blocked_by_those_that_do_not() {
    let mut operation = drain();
    operation.kind = OperationKind::Move;
    operation.moves = vec![Move {
        pipeline: "orders".parse().unwrap(),
        from: None,
        to: "relay-2".parse().unwrap(),
        reason: String::new(),
    }];
    let rows: &[(HoldKind, Option<OffsetDateTime>, Wait)] = &[
        (
            HoldKind::Cordon,
            Some(LATER),
            (
                Progress::Waiting,
                Some(LATER),
                Some(Cause::TargetHeld),
                None,
            ),
        ),
        (
            HoldKind::Cordon,
            None,
            (
                Progress::Blocked,
                None,
                Some(Cause::TargetHeld),
                Some("tidectl uncordon relay-2"),
            ),
        ),
        (
            HoldKind::Pin,
            Some(LATER),
            (
                Progress::Waiting,
                Some(LATER),
                Some(Cause::PipelineHeld),
                None,
            ),
        ),
        (
            HoldKind::Pin,
            None,
            (
                Progress::Blocked,
                None,
                Some(Cause::PipelineHeld),
                Some("another"),
            ),
        ),
    ];
    for (kind, expires_at, expected) in rows {
        let mut view = view();
        view.holds = vec![held(*kind, *expires_at)];
        view.placements
            .insert("orders".parse().unwrap(), "relay-2".parse().unwrap());
        let steps = steps(&view, &operation);
        assert_eq!(wait_of(&steps[0]), *expected, "{kind}: {:?}", steps[0]);
        assert!(steps[0].detail.contains("by tom"), "{:?}", steps[0]);
    }
    let mut view = view();
    view.holds.clear();
    view.agents[1].alive = false;
    let step = &steps(&view, &operation)[0];
    assert_eq!(
        (step.progress, step.cause),
        (Progress::Blocked, Some(Cause::TargetGone))
    );
}

#[test]
fn who_has_left_is_not_mentioned() {
    let mut view = view();
    view.pipelines[0].owner = Some("relay-2".parse().unwrap());
    let steps = steps(&view, &drain());
    assert_eq!(steps.len(), 1);
    assert_eq!(steps[0].pipeline.as_str(), "orders");
}
