//! The reducer: whose words count, what a gap costs, and that order does not matter.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use tide_model::{
    AgentName, Epoch, Incarnation, PipelineState, UnitName,
    fleet::{AgentRow, AgentState, AgentView, DatabaseView, FleetView, PipelineRow},
    report::{AgentIdentity, PipelineReport, ReportMessage},
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{
    dirty::Applied,
    state::{FleetState, StreamId},
};

const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const OLD: Incarnation = Incarnation(Uuid::from_u128(1));
const NEW: Incarnation = Incarnation(Uuid::from_u128(2));
const CHANGED: Applied = Applied {
    changed: true,
    needs_snapshot: false,
};
const UNCHANGED: Applied = Applied {
    changed: false,
    needs_snapshot: false,
};

/// A view in which `relay-1` is alive, of the given run, and owns `orders` under epoch 7.
fn database(incarnation: Incarnation) -> Arc<DatabaseView> {
    let agent: AgentName = "relay-1".parse().unwrap();
    Arc::new(DatabaseView {
        pipelines: vec![PipelineRow {
            name: "orders".parse().unwrap(),
            outbox: "shop".to_owned(),
            sink: "kafka".to_owned(),
            enabled: true,
            revision: 1,
            weight: 1,
            lock_key: 1,
            owner: Some(agent.clone()),
            owner_pid: Some(4711),
            epoch: Some(Epoch(7)),
            last_change_id: 10,
            lag_rows: 1_000,
            lag: Duration::seconds(60),
            state: Some(PipelineState::Running),
            state_reason: None,
            state_since: None,
            retry_at: None,
            reshard_to: None,
            settled: true,
        }],
        agents: vec![AgentRow {
            name: agent,
            incarnation,
            alive: true,
            version: "1".to_owned(),
            hostname: "node-1".to_owned(),
            weight: 1,
            metrics_addr: None,
            started_at: START,
            last_seen_at: START,
            stopped_at: None,
            backend_pid: None,
            lease_ends_at: None,
        }],
        ..DatabaseView::empty("default".parse().unwrap(), START)
    })
}

fn identity(incarnation: Incarnation) -> AgentIdentity {
    AgentIdentity {
        group: "default".parse().unwrap(),
        name: "relay-1".parse().unwrap(),
        incarnation,
        version: "1".to_owned(),
    }
}

fn pipelines(lag_rows: i64) -> BTreeMap<UnitName, PipelineReport> {
    let report = PipelineReport {
        epoch: Epoch(7),
        state: PipelineState::Running,
        reason: None,
        last_change_id: 20,
        lag_rows,
        lag_seconds: 0.5,
    };
    BTreeMap::from([("orders".parse().unwrap(), report)])
}

fn snapshot(lag_rows: i64) -> ReportMessage {
    ReportMessage::Snapshot(pipelines(lag_rows))
}

fn delta(lag_rows: i64) -> ReportMessage {
    ReportMessage::Delta {
        changed: pipelines(lag_rows),
        removed: Vec::new(),
    }
}

/// What operators see of it, made from everything at once.
fn view(state: &FleetState, now: OffsetDateTime) -> FleetView {
    FleetView::build(state.database_view(), state.reports(), now)
}

fn lag(state: &FleetState) -> i64 {
    view(state, START).pipelines[0].lag_rows
}

fn agent(view: &FleetView) -> &AgentView {
    &view.agents[0]
}

fn wanting(state: &FleetState) -> Vec<StreamId> {
    state.wanting_snapshot().collect()
}

/// A state with one stream of the run that the database names.
fn connected() -> FleetState {
    let mut state = FleetState::new(database(NEW));
    assert_eq!(state.connect(StreamId(1), identity(NEW), START), []);
    state
}

#[test]
fn a_hello_asks_for_a_snapshot_and_what_the_database_knows_stays_until_then() {
    let mut state = connected();
    assert_eq!(wanting(&state), [StreamId(1)]);
    assert!(agent(&view(&state, START)).reporting);
    assert_eq!(lag(&state), 1_000);
    assert_eq!(state.apply(StreamId(1), 2, snapshot(5), START), CHANGED);
    assert_eq!(wanting(&state), []);
    assert_eq!(lag(&state), 5);
}

#[test]
fn deltas_change_and_remove() {
    let mut state = connected();
    state.apply(StreamId(1), 2, snapshot(5), START);
    assert_eq!(state.apply(StreamId(1), 3, delta(6), START), CHANGED);
    assert_eq!(lag(&state), 6);
    let removed = vec!["orders".parse().unwrap()];
    let gone = ReportMessage::Delta {
        changed: BTreeMap::new(),
        removed,
    };
    state.apply(StreamId(1), 4, gone, START);
    assert_eq!(lag(&state), 1_000, "the database's own number");
}

#[test]
fn a_gap_needs_a_snapshot_and_the_snapshot_closes_it() {
    let mut state = connected();
    state.apply(StreamId(1), 2, snapshot(5), START);
    let applied = state.apply(
        StreamId(1),
        4,
        ReportMessage::Heartbeat { digest: None },
        START,
    );
    assert_eq!(
        applied,
        Applied {
            changed: false,
            needs_snapshot: true
        }
    );
    let applied = state.apply(StreamId(1), 5, delta(6), START);
    assert_eq!(
        applied,
        Applied {
            changed: true,
            needs_snapshot: true
        }
    );
    assert_eq!(state.apply(StreamId(1), 6, snapshot(7), START), CHANGED);
    assert_eq!(
        state.apply(
            StreamId(1),
            7,
            ReportMessage::Heartbeat { digest: None },
            START
        ),
        UNCHANGED
    );
}

#[test]
fn old_sequences_are_dropped() {
    let mut state = connected();
    state.apply(StreamId(1), 2, snapshot(5), START);
    state.apply(StreamId(1), 3, delta(6), START);
    assert_eq!(state.apply(StreamId(1), 3, delta(9), START), UNCHANGED);
    assert_eq!(state.apply(StreamId(1), 2, snapshot(9), START), UNCHANGED);
    assert_eq!(lag(&state), 6);
}

#[test]
fn the_run_that_the_database_names_wins_over_a_later_connection() {
    let mut state = connected();
    state.apply(StreamId(1), 2, snapshot(5), START);
    // A frozen former run wakes up and connects last.
    state.connect(StreamId(2), identity(OLD), START);
    assert_eq!(wanting(&state), []);
    assert_eq!(state.apply(StreamId(2), 2, snapshot(99), START), UNCHANGED);
    assert_eq!(lag(&state), 5);
}

#[test]
fn without_a_word_from_the_database_the_last_connection_counts() {
    let mut state = FleetState::new(database(Incarnation(Uuid::nil())));
    state.connect(StreamId(1), identity(OLD), START);
    state.apply(StreamId(1), 2, snapshot(5), START);
    state.connect(StreamId(2), identity(NEW), START);
    assert_eq!(wanting(&state), [StreamId(2)]);
    assert_eq!(state.apply(StreamId(1), 3, delta(6), START), UNCHANGED);
    state.apply(StreamId(2), 2, snapshot(7), START);
    assert_eq!(lag(&state), 7);
}

#[test]
fn only_a_read_that_began_later_displaces_a_stream() {
    let mut state = FleetState::new(database(OLD));
    state.connect(StreamId(1), identity(OLD), START);
    state.connect(StreamId(2), identity(NEW), START);
    // This read began before the second stream did, and may be older than its registration.
    assert_eq!(state.database(database(OLD), StreamId(1), START), []);
    assert_eq!(
        state.database(database(NEW), StreamId(2), START),
        [StreamId(1)]
    );
    assert_eq!(
        wanting(&state),
        [StreamId(2)],
        "its words count from now on"
    );
}

#[test]
fn the_same_run_on_a_new_stream_replaces_the_old_one_and_keeps_its_words() {
    let mut state = connected();
    state.apply(StreamId(1), 2, snapshot(5), START);
    assert_eq!(
        state.connect(StreamId(2), identity(NEW), START),
        [StreamId(1)]
    );
    assert_eq!(lag(&state), 5);
    assert_eq!(state.apply(StreamId(1), 3, delta(6), START), UNCHANGED);
    assert_eq!(wanting(&state), [StreamId(2)]);
}

#[test]
fn silence_becomes_stale_and_a_goodbye_does_not() {
    let mut state = connected();
    state.apply(StreamId(1), 2, snapshot(5), START);
    state.disconnect(StreamId(1), START);
    let later = START + Duration::seconds(16);
    assert_eq!(agent(&view(&state, START)).state, AgentState::Active);
    assert_eq!(agent(&view(&state, later)).state, AgentState::Stale);

    state.connect(StreamId(2), identity(NEW), later);
    assert_eq!(agent(&view(&state, later)).state, AgentState::Active);
    assert_eq!(
        state.apply(StreamId(2), 2, ReportMessage::Goodbye, later),
        CHANGED
    );
    let long_after = later + Duration::minutes(1);
    assert_eq!(agent(&view(&state, long_after)).state, AgentState::Active);
    assert!(!agent(&view(&state, long_after)).reporting);
}

#[test]
fn the_last_words_of_a_run_that_is_over_are_forgotten() {
    let mut state = connected();
    state.apply(StreamId(1), 2, snapshot(5), START);
    state.disconnect(StreamId(1), START);
    state.database(database(OLD), StreamId(1), START);
    assert_eq!(lag(&state), 1_000);
    assert!(!agent(&view(&state, START)).reporting);
}

#[test]
fn reading_the_same_again_changes_nothing() {
    let mut state = connected();
    state.apply(StreamId(1), 2, snapshot(5), START);
    let before = view(&state, START);
    assert_eq!(state.database(database(NEW), StreamId(1), START), []);
    assert_eq!(view(&state, START), before);
}

/// Five pipelines, of which a message may mention any.
fn any_pipelines() -> impl Strategy<Value = BTreeMap<UnitName, PipelineReport>> {
    proptest::collection::btree_map(0_u8..5, (1_i64..4, 0_i64..100), 0..5).prop_map(|reports| {
        let one = |(number, (epoch, lag_rows))| {
            let name: UnitName = format!("pipeline-{number}").parse().unwrap();
            let report = PipelineReport {
                epoch: Epoch(epoch),
                state: PipelineState::Running,
                reason: None,
                last_change_id: 0,
                lag_rows,
                lag_seconds: 0.0,
            };
            (name, report)
        };
        reports.into_iter().map(one).collect()
    })
}

fn any_message() -> impl Strategy<Value = ReportMessage> {
    let removed = proptest::collection::vec(0_u8..5, 0..3).prop_map(|numbers| {
        let name = |number| format!("pipeline-{number}").parse().unwrap();
        numbers.into_iter().map(name).collect::<Vec<UnitName>>()
    });
    prop_oneof![
        any_pipelines().prop_map(ReportMessage::Snapshot),
        (any_pipelines(), removed)
            .prop_map(|(changed, removed)| ReportMessage::Delta { changed, removed }),
        Just(ReportMessage::Heartbeat { digest: None }),
    ]
}

/// Messages of one stream, with their numbers: the hello was 1.
fn numbered(messages: &[ReportMessage]) -> Vec<(u64, ReportMessage)> {
    (2..).zip(messages.iter().cloned()).collect()
}

/// A view whose pipelines are those of [`any_pipelines`], so that every report shows.
fn wide_database() -> Arc<DatabaseView> {
    let mut wide = (*database(NEW)).clone();
    let row = wide.pipelines.remove(0);
    wide.pipelines = (0..5)
        .map(|number| PipelineRow {
            name: format!("pipeline-{number}").parse().unwrap(),
            lock_key: number,
            epoch: Some(Epoch(2)),
            ..row.clone()
        })
        .collect();
    Arc::new(wide)
}

proptest! {
    /// Whatever of the old run's and the current run's messages arrives, in whatever order and
    /// however often: after the current run's newest snapshot the view is the same.
    #[test]
    fn any_order_and_duplication_converges(
        old in proptest::collection::vec(any_message(), 0..6),
        new in proptest::collection::vec(any_message(), 0..8),
        last in any_pipelines(),
        picks in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..40),
        old_connects_last in any::<bool>(),
    ) {
        let (old_stream, new_stream) =
            if old_connects_last { (StreamId(2), StreamId(1)) } else { (StreamId(1), StreamId(2)) };
        let start = || {
            let mut state = FleetState::new(wide_database());
            for stream in [StreamId(1), StreamId(2)] {
                let run = if stream == old_stream { OLD } else { NEW };
                state.connect(stream, identity(run), START);
            }
            state
        };
        let (old, new) = (numbered(&old), numbered(&new));
        let last_number = new.len() as u64 + 2;

        let mut clean = start();
        for (number, message) in &new {
            clean.apply(new_stream, *number, message.clone(), START);
        }
        clean.apply(new_stream, last_number, ReportMessage::Snapshot(last.clone()), START);

        let mut shuffled = start();
        for (of_old, pick) in picks {
            let (stream, messages) = if of_old { (old_stream, &old) } else { (new_stream, &new) };
            if !messages.is_empty() {
                let (number, message) = pick.get(messages);
                shuffled.apply(stream, *number, message.clone(), START);
            }
        }
        let applied =
            shuffled.apply(new_stream, last_number, ReportMessage::Snapshot(last), START);
        prop_assert!(!applied.needs_snapshot);
        for (number, message) in &old {
            prop_assert_eq!(shuffled.apply(old_stream, *number, message.clone(), START), UNCHANGED);
        }
        prop_assert_eq!(view(&shuffled, START), view(&clean, START));
        prop_assert_eq!(wanting(&shuffled), wanting(&clean));
    }

    /// Repetitions of what was heard before never look like a gap, and change nothing.
    #[test]
    fn repetitions_change_nothing(
        messages in proptest::collection::vec(any_message(), 1..10),
        repeats in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let mut state = FleetState::new(wide_database());
        state.connect(StreamId(1), identity(NEW), START);
        state.apply(StreamId(1), 2, ReportMessage::Snapshot(BTreeMap::new()), START);
        for (number, message) in (3..).zip(&messages) {
            let applied = state.apply(StreamId(1), number, message.clone(), START);
            prop_assert!(!applied.needs_snapshot);
            let before = view(&state, START);
            for repeat in &repeats {
                let repeated = repeat.index(number as usize) as u64 + 1;
                let message = repeat.get(&messages).clone();
                prop_assert_eq!(state.apply(StreamId(1), repeated, message, START), UNCHANGED);
            }
            prop_assert_eq!(view(&state, START), before);
        }
    }
}
