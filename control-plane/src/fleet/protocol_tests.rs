//! Chunks, digests and what resuming takes; and that the view that is kept in step is the one that
//! would be made anew.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use tide_model::{
    AgentName, Epoch, Incarnation, PipelineState, UnitName,
    fleet::{AgentRow, AgentView, DatabaseView, Ownership, PipelineRow, PipelineView},
    report::{
        AgentIdentity, LagReport, OwnershipDigest, PipelineReport, PipelineReports, ReportMessage,
    },
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{
    shown::{GRACE, Shown},
    state::{FleetState, StreamId},
    warming::Warming,
};

const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn agent(number: u8) -> AgentName {
    format!("relay-{number}").parse().unwrap()
}

fn pipeline(number: u8) -> UnitName {
    format!("p{number}").parse().unwrap()
}

fn run(number: u8) -> Incarnation {
    Incarnation(Uuid::from_u128(u128::from(number)))
}

/// Pipelines `p0`, `p1`, … and who holds the lock of each; two agents.
fn database(owners: &[Option<u8>]) -> Arc<DatabaseView> {
    let rows = (0_u8..).zip(owners).map(|(number, owner)| PipelineRow {
        name: pipeline(number),
        outbox: "shop".to_owned(),
        sink: "null".to_owned(),
        enabled: true,
        revision: 1,
        weight: 1,
        lock_key: i64::from(number),
        owner: owner.map(agent),
        owner_pid: owner.map(i32::from),
        epoch: Some(Epoch(1)),
        last_change_id: 0,
        lag_rows: 0,
        lag: Duration::ZERO,
        state: Some(PipelineState::Running),
        state_reason: None,
        state_since: None,
        retry_at: None,
        reshard_to: None,
        settled: true,
    });
    let agents = [1, 2].map(|number| AgentRow {
        name: agent(number),
        incarnation: run(number),
        alive: true,
        version: "1".to_owned(),
        hostname: "node".to_owned(),
        weight: 1,
        metrics_addr: None,
        started_at: START,
        last_seen_at: START,
        stopped_at: None,
        backend_pid: None,
        lease_ends_at: None,
    });
    Arc::new(DatabaseView {
        pipelines: rows.collect(),
        agents: agents.to_vec(),
        ..DatabaseView::empty("default".parse().unwrap(), START)
    })
}

fn identity(number: u8) -> AgentIdentity {
    AgentIdentity {
        group: "default".parse().unwrap(),
        name: agent(number),
        incarnation: run(number),
        version: "1".to_owned(),
    }
}

fn report(lag_rows: i64) -> PipelineReport {
    PipelineReport {
        epoch: Epoch(1),
        state: PipelineState::Running,
        reason: None,
        last_change_id: 0,
        lag_rows,
        lag_seconds: 0.0,
    }
}

fn reports(numbers: &[u8]) -> PipelineReports {
    numbers
        .iter()
        .map(|number| (pipeline(*number), report(1)))
        .collect()
}

/// A state with the stream of agent 1, under the id 1.
fn connected(owners: &[Option<u8>]) -> FleetState {
    let mut state = FleetState::new(database(owners));
    state.connect(StreamId(1), identity(1), START);
    state
}

fn known(state: &FleetState) -> &PipelineReports {
    &state.reports()[&agent(1)].pipelines
}

fn end(of: &PipelineReports) -> ReportMessage {
    ReportMessage::SnapshotEnd {
        count: of.len() as u64,
        digest: OwnershipDigest::of(of),
    }
}

#[test]
fn chunks_take_effect_at_their_end_and_only_whole() {
    let mut state = connected(&[Some(1), Some(1)]);
    let all = reports(&[0, 1]);
    let chunk = |number| ReportMessage::SnapshotChunk(reports(&[number]));
    let mut say = |sequence, message| state.apply(StreamId(1), sequence, message, START);
    assert!(!say(2, chunk(0)).changed);
    // One is missing.
    assert!(say(3, end(&all)).needs_snapshot);
    say(4, chunk(0));
    // Something came between them.
    say(5, ReportMessage::Heartbeat { digest: None });
    say(6, chunk(1));
    assert!(say(7, end(&all)).needs_snapshot);
    say(8, chunk(0));
    say(9, chunk(1));
    let whole = say(10, end(&all));
    assert!(whole.changed && !whole.needs_snapshot);
    assert_eq!(known(&state), &all);
}

#[test]
fn a_heartbeat_whose_digest_differs_asks_for_a_snapshot() {
    let mut state = connected(&[Some(1), Some(1)]);
    let told = reports(&[0]);
    state.apply(StreamId(1), 2, ReportMessage::Snapshot(told.clone()), START);
    let heartbeat = |of: &PipelineReports| ReportMessage::Heartbeat {
        digest: Some(OwnershipDigest::of(of)),
    };
    let applied = state.apply(StreamId(1), 3, heartbeat(&told), START);
    assert!(!applied.needs_snapshot);
    let applied = state.apply(StreamId(1), 4, heartbeat(&reports(&[0, 1])), START);
    assert!(applied.needs_snapshot);
}

#[test]
fn lags_change_what_is_known_and_nothing_else() {
    let mut state = connected(&[Some(1), Some(1)]);
    state.apply(
        StreamId(1),
        2,
        ReportMessage::Snapshot(reports(&[0])),
        START,
    );
    let lag = LagReport {
        last_change_id: 3,
        lag_rows: 4,
        lag_seconds: 5.0,
    };
    let lags = BTreeMap::from([(pipeline(0), lag), (pipeline(1), lag)]);
    state.apply(StreamId(1), 3, ReportMessage::Lag(lags), START);
    assert_eq!(known(&state).len(), 1, "nothing was told of the other");
    assert_eq!(known(&state)[&pipeline(0)].lag(), lag);
}

#[test]
fn a_delta_under_a_lower_epoch_is_dropped() {
    let mut state = connected(&[Some(1)]);
    let newer = PipelineReport {
        epoch: Epoch(5),
        ..report(1)
    };
    let snapshot = PipelineReports::from([(pipeline(0), newer.clone())]);
    state.apply(StreamId(1), 2, ReportMessage::Snapshot(snapshot), START);
    let delta = ReportMessage::Delta {
        changed: PipelineReports::from([(pipeline(0), report(9))]),
        removed: Vec::new(),
    };
    state.apply(StreamId(1), 3, delta, START);
    assert_eq!(known(&state)[&pipeline(0)], newer);
}

#[test]
fn a_run_resumes_where_it_was_and_only_there() {
    let told = reports(&[0]);
    let with_snapshot = || {
        let mut state = connected(&[Some(1)]);
        state.apply(StreamId(1), 2, ReportMessage::Snapshot(told.clone()), START);
        state.disconnect(StreamId(1), START);
        state.connect(StreamId(2), identity(1), START);
        state
    };
    let mut state = with_snapshot();
    assert!(state.resume(StreamId(2), OwnershipDigest::of(&told)));
    assert!(!state.wants_snapshot(StreamId(2)));
    let mut state = with_snapshot();
    assert!(!state.resume(StreamId(2), OwnershipDigest::of(&reports(&[0, 1]))));
    assert!(state.wants_snapshot(StreamId(2)));
    // Nothing was ever told: also nothing proves nothing.
    let mut state = connected(&[Some(1)]);
    assert!(!state.resume(StreamId(1), OwnershipDigest::of(&PipelineReports::new())));
}

/// What is shown of `p0` while it is so, at once and after the grace.
fn ownership(state: &mut FleetState) -> [Ownership; 2] {
    let warming = Warming::new(Duration::ZERO, START);
    let mut shown = Shown::new(state, warming, START);
    let of = |shown: &Shown| shown.view().pipelines.iter().next().unwrap().ownership;
    let at_once = of(&shown);
    shown.refresh(state, START + GRACE);
    [at_once, of(&shown)]
}

#[test]
fn disagreements_are_shown_once_they_have_lasted() {
    use Ownership::{Agreed, Ghost, Orphan, Split};
    let told = |owners: &[Option<u8>], runs: &[u8]| {
        let mut state = connected(owners);
        let snapshot = ReportMessage::Snapshot(reports(runs));
        state.apply(StreamId(1), 2, snapshot, START);
        ownership(&mut state)
    };
    assert_eq!(told(&[Some(1)], &[0]), [Agreed, Agreed]);
    assert_eq!(told(&[Some(2)], &[0]), [Agreed, Split]);
    assert_eq!(told(&[None], &[0]), [Agreed, Ghost]);
    assert_eq!(told(&[None], &[]), [Agreed, Agreed]);
    assert_eq!(told(&[Some(1)], &[]), [Agreed, Orphan]);
    let mut orphan = (*database(&[None])).clone();
    orphan.pipelines[0].owner_pid = Some(4711);
    let mut state = FleetState::new(Arc::new(orphan));
    assert_eq!(ownership(&mut state), [Agreed, Orphan]);
}

#[test]
fn a_disagreement_that_heals_is_not_shown_and_begins_anew() {
    let mut state = connected(&[Some(2)]);
    let mut shown = Shown::new(&mut state, Warming::new(Duration::ZERO, START), START);
    let first = |shown: &Shown| shown.view().pipelines.iter().next().unwrap().ownership;
    state.apply(
        StreamId(1),
        2,
        ReportMessage::Snapshot(reports(&[0])),
        START,
    );
    shown.refresh(&mut state, START);
    state.database(database(&[Some(1)]), StreamId(1), START);
    shown.refresh(&mut state, START + GRACE / 2);
    state.database(database(&[Some(2)]), StreamId(1), START);
    shown.refresh(&mut state, START + GRACE);
    assert_eq!(first(&shown), Ownership::Agreed);
    shown.refresh(&mut state, START + GRACE * 2);
    assert_eq!(first(&shown), Ownership::Split);
    assert_eq!(
        shown.view().pipelines.iter().next().unwrap().claimed_by,
        [agent(1)]
    );
}

#[test]
fn nobody_stands_by_the_words_of_an_agent_that_is_gone() {
    let mut state = connected(&[Some(1)]);
    let mut shown = Shown::new(&mut state, Warming::new(Duration::ZERO, START), START);
    let first = |shown: &Shown| shown.view().pipelines.iter().next().unwrap().ownership;
    state.apply(
        StreamId(1),
        2,
        ReportMessage::Snapshot(reports(&[0])),
        START,
    );
    // It is killed, and another takes over.
    state.disconnect(StreamId(1), START);
    state.database(database(&[Some(2)]), StreamId(1), START);
    shown.refresh(&mut state, START);
    shown.refresh(&mut state, START + GRACE);
    assert_eq!(first(&shown), Ownership::Agreed);
    // It was only cut off from here, and insists.
    state.connect(StreamId(2), identity(1), START + GRACE);
    shown.refresh(&mut state, START + GRACE);
    shown.refresh(&mut state, START + GRACE * 2);
    assert_eq!(first(&shown), Ownership::Split);
}

#[test]
fn an_owner_whose_reports_have_stopped_is_stale_and_so_is_what_it_owns() {
    let mut state = connected(&[Some(1)]);
    let mut shown = Shown::new(&mut state, Warming::new(Duration::ZERO, START), START);
    state.apply(
        StreamId(1),
        2,
        ReportMessage::Snapshot(reports(&[0])),
        START,
    );
    let later = START + Duration::seconds(16);
    shown.refresh(&mut state, later);
    let first = |shown: &Shown| shown.view().pipelines.iter().next().unwrap().ownership;
    assert_eq!(first(&shown), Ownership::Stale);
    state.apply(
        StreamId(1),
        3,
        ReportMessage::Heartbeat { digest: None },
        later,
    );
    shown.refresh(&mut state, later);
    assert_eq!(first(&shown), Ownership::Agreed);
}

#[test]
fn warming_ends_with_enough_reports_or_with_time_and_does_not_come_back() {
    let patience = Duration::seconds(15);
    let mut state = connected(&[Some(1)]);
    let mut shown = Shown::new(&mut state, Warming::new(patience, START), START);
    state.apply(
        StreamId(1),
        2,
        ReportMessage::Snapshot(reports(&[0])),
        START,
    );
    shown.refresh(&mut state, START);
    let coverage = shown.view().coverage;
    assert_eq!(
        (coverage.agents, coverage.told, coverage.warming),
        (2, 1, true)
    );
    let mut in_vain = (
        state.clone(),
        Shown::new(&mut state, Warming::new(patience, START), START),
    );
    in_vain.1.refresh(&mut in_vain.0, START + patience);
    assert!(!in_vain.1.view().coverage.warming);

    state.connect(StreamId(2), identity(2), START);
    state.apply(StreamId(2), 2, ReportMessage::Snapshot(reports(&[])), START);
    shown.refresh(&mut state, START);
    assert!(!shown.view().coverage.warming);
    state.disconnect(StreamId(2), START);
    state.disconnect(StreamId(1), START);
    shown.refresh(&mut state, START);
    let coverage = shown.view().coverage;
    assert_eq!((coverage.told, coverage.warming), (0, false));
}

/// Something that happens to a fleet of two agents and some pipelines.
#[derive(Debug, Clone)]
enum Happening {
    Said(u8, Word),
    Left(u8),
    Joined(u8),
    Read(Vec<Option<u8>>),
    Passed(i64),
    Looked,
}

#[derive(Debug, Clone)]
enum Word {
    All(Vec<u8>),
    Changed(u8, i64),
    Removed(u8),
    Lag(u8, i64),
    Alive,
    Goodbye,
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let word = prop_oneof![
        proptest::collection::vec(0_u8..5, 0..5).prop_map(Word::All),
        (0_u8..5, 1_i64..4).prop_map(|(number, lag)| Word::Changed(number, lag)),
        (0_u8..5).prop_map(Word::Removed),
        (0_u8..5, 1_i64..9).prop_map(|(number, lag)| Word::Lag(number, lag)),
        Just(Word::Alive),
        Just(Word::Goodbye),
    ];
    let owner = proptest::option::of(1_u8..3);
    prop_oneof![
        6 => (1_u8..3, word).prop_map(|(number, word)| Happening::Said(number, word)),
        1 => (1_u8..3).prop_map(Happening::Left),
        2 => (1_u8..3).prop_map(Happening::Joined),
        2 => proptest::collection::vec(owner, 3..6).prop_map(Happening::Read),
        2 => (0_i64..20).prop_map(Happening::Passed),
        3 => Just(Happening::Looked),
    ]
}

fn message(word: Word) -> ReportMessage {
    match word {
        Word::All(numbers) => ReportMessage::Snapshot(reports(&numbers)),
        Word::Changed(number, lag) => ReportMessage::Delta {
            changed: PipelineReports::from([(pipeline(number), report(lag))]),
            removed: Vec::new(),
        },
        Word::Removed(number) => ReportMessage::Delta {
            changed: PipelineReports::new(),
            removed: vec![pipeline(number)],
        },
        Word::Lag(number, lag) => ReportMessage::Lag(BTreeMap::from([(
            pipeline(number),
            LagReport {
                last_change_id: lag,
                lag_rows: lag,
                lag_seconds: 0.0,
            },
        )])),
        Word::Alive => ReportMessage::Heartbeat { digest: None },
        Word::Goodbye => ReportMessage::Goodbye,
    }
}

/// Disagreements need time, and time is not what is compared here.
fn undoubted(shown: &Shown) -> (Vec<AgentView>, Vec<PipelineView>) {
    let pipelines = shown
        .view()
        .pipelines
        .iter()
        .cloned()
        .map(|pipeline| PipelineView {
            ownership: Ownership::Agreed,
            claimed_by: Vec::new(),
            ..pipeline
        });
    (
        shown.view().agents.iter().cloned().collect(),
        pipelines.collect(),
    )
}

proptest! {
    /// Whatever happens in whatever order: the view that is kept in step is the one that would be made
    /// from everything, and somebody who is told only of newer rows and of what is gone has it, too.
    #[test]
    fn a_view_that_is_kept_in_step_is_the_one_that_would_be_made_anew(
        happenings in proptest::collection::vec(any_happening(), 1..40),
    ) {
        let mut state = FleetState::new(database(&[Some(1), Some(2), None]));
        let mut now = START;
        let mut shown = Shown::new(&mut state, Warming::new(Duration::ZERO, now), now);
        let mut sequences = BTreeMap::from([(1_u8, 1_u64), (2, 1)]);
        let mut watcher: BTreeMap<String, PipelineView> = BTreeMap::new();
        let mut told = 0;
        for happening in happenings.into_iter().chain([Happening::Looked]) {
            match happening {
                Happening::Said(number, word) => {
                    let sequence = sequences.get_mut(&number).unwrap();
                    *sequence += 1;
                    let stream = StreamId(u64::from(number));
                    state.apply(stream, *sequence, message(word), now);
                }
                Happening::Left(number) => {
                    state.disconnect(StreamId(u64::from(number)), now);
                }
                Happening::Joined(number) => {
                    sequences.insert(number, 1);
                    state.connect(StreamId(u64::from(number)), identity(number), now);
                }
                Happening::Read(owners) => {
                    let read = database(&owners);
                    shown.set_moves(read.moves().into());
                    state.database(read, StreamId(2), now);
                }
                Happening::Passed(seconds) => now += Duration::seconds(seconds),
                Happening::Looked => {
                    shown.refresh(&mut state, now);
                    let mut afresh = state.clone();
                    let anew = Shown::new(&mut afresh, Warming::new(Duration::ZERO, now), now);
                    prop_assert_eq!(undoubted(&shown), undoubted(&anew));
                    let view = shown.view();
                    for name in view.gone_since(told).unwrap().pipelines {
                        watcher.remove(name);
                    }
                    let (newer, rest) = view.pipelines.part(Some(told), 0, 100);
                    prop_assert_eq!(rest, None);
                    for pipeline in newer {
                        watcher.insert(pipeline.name.to_string(), pipeline.clone());
                    }
                    told = view.revision;
                    let all: Vec<&PipelineView> = view.pipelines.iter().collect();
                    prop_assert_eq!(watcher.values().collect::<Vec<_>>(), all);
                }
            }
        }
    }
}
