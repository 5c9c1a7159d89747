//! What leaves when, and that what left adds up to what is.

use proptest::prelude::*;

use super::*;
use crate::{Epoch, PipelineState};

const PACE: Pace = Pace {
    heartbeat: Duration::from_secs(5),
    lag: Duration::from_secs(1),
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn name(number: u8) -> UnitName {
    format!("p{number}").parse().unwrap()
}

fn report(epoch: i64, state: PipelineState, reason: Option<&str>, lag_rows: i64) -> PipelineReport {
    PipelineReport {
        epoch: Epoch(epoch),
        state,
        reason: reason.map(ToOwned::to_owned),
        last_change_id: 0,
        lag_rows,
        lag_seconds: 0.0,
    }
}

fn running(lag_rows: i64) -> PipelineReport {
    report(1, PipelineState::Running, None, lag_rows)
}

/// Lanes that have told `current`, at 0.
fn told(current: &PipelineReports) -> Lanes {
    let mut lanes = Lanes::new(Dialect::Chunked, PACE, ms(0), 1.0);
    lanes.snapshot(current, ms(0));
    lanes
}

#[test]
fn nothing_but_heartbeats_leaves_before_a_snapshot() {
    let mut lanes = Lanes::new(Dialect::Chunked, PACE, ms(0), 0.0);
    let current = PipelineReports::from([(name(1), running(1))]);
    assert_eq!(lanes.due(&current, ms(4_999)), []);
    let heartbeat = ReportMessage::Heartbeat { digest: None };
    assert_eq!(lanes.due(&current, ms(5_000)), [heartbeat]);
}

#[test]
fn state_leaves_at_once_reasons_together_and_lags_when_it_is_their_time() {
    let mut current = PipelineReports::from([(name(1), running(0)), (name(2), running(0))]);
    let mut lanes = told(&current);
    current.insert(
        name(1),
        report(1, PipelineState::Retrying, Some("first"), 0),
    );
    current.insert(name(2), running(7));
    let [ReportMessage::Delta { changed, removed }] = &lanes.due(&current, ms(1))[..] else {
        panic!("not one delta");
    };
    assert_eq!((changed.len(), removed.len()), (1, 0), "the lag waits");
    assert_eq!(lanes.due(&current, ms(2)), []);

    current.insert(
        name(1),
        report(1, PipelineState::Retrying, Some("second"), 0),
    );
    assert_eq!(lanes.due(&current, ms(10)), []);
    current.insert(
        name(1),
        report(1, PipelineState::Retrying, Some("third"), 0),
    );
    assert_eq!(lanes.due(&current, ms(259)), []);
    let [ReportMessage::Delta { changed, .. }] = &lanes.due(&current, ms(260))[..] else {
        panic!("no reason");
    };
    assert_eq!(changed[&name(1)].reason.as_deref(), Some("third"));

    let lag = current[&name(2)].lag();
    let lags = ReportMessage::Lag([(name(2), lag)].into());
    assert_eq!(lanes.due(&current, ms(999)), []);
    assert_eq!(lanes.due(&current, ms(1_000)), [lags]);
    assert_eq!(lanes.due(&current, ms(2_000)), []);
}

#[test]
fn what_is_gone_is_said_to_be() {
    let mut current = PipelineReports::from([(name(1), running(0))]);
    let mut lanes = told(&current);
    current.clear();
    let gone = ReportMessage::Delta {
        changed: PipelineReports::new(),
        removed: vec![name(1)],
    };
    assert_eq!(lanes.due(&current, ms(1)), [gone]);
    assert_eq!(lanes.due(&current, ms(2)), []);
}

#[test]
fn a_large_snapshot_comes_in_chunks_that_fit() {
    let reason = "x".repeat(1_000);
    let one = |number: usize| {
        let name: UnitName = format!("pipeline-{number}").parse().unwrap();
        (name, report(1, PipelineState::Retrying, Some(&reason), 0))
    };
    let current: PipelineReports = (0..1_000).map(one).collect();
    let mut messages = Lanes::new(Dialect::Chunked, PACE, ms(0), 0.0).snapshot(&current, ms(0));
    let end = ReportMessage::SnapshotEnd {
        count: 1_000,
        digest: OwnershipDigest::of(&current),
    };
    assert_eq!(messages.pop(), Some(end));
    assert!(messages.len() > 3, "{}", messages.len());
    let mut all = PipelineReports::new();
    for message in messages {
        let ReportMessage::SnapshotChunk(chunk) = message else {
            panic!("{message:?}");
        };
        let bytes: usize = chunk.keys().map(|name| name.as_str().len() + 1_000).sum();
        assert!(bytes <= CHUNK_BYTES, "{bytes}");
        all.extend(chunk);
    }
    assert_eq!(all, current);
}

#[test]
fn to_who_knows_no_chunks_everything_comes_in_one_piece() {
    let mut current = PipelineReports::from([(name(1), running(0))]);
    let mut lanes = Lanes::new(Dialect::Whole, PACE, ms(0), 1.0);
    let snapshot = ReportMessage::Snapshot(current.clone());
    assert_eq!(lanes.snapshot(&current, ms(0)), [snapshot]);
    current.insert(name(1), running(7));
    let lag = ReportMessage::Delta {
        changed: current.clone(),
        removed: Vec::new(),
    };
    assert_eq!(lanes.due(&current, ms(1_000)), [lag]);
}

/// What somebody knows who hears everything.
fn heard(known: &mut PipelineReports, messages: Vec<ReportMessage>) {
    for message in messages {
        match message {
            ReportMessage::Delta { changed, removed } => {
                known.extend(changed);
                known.retain(|name, _| !removed.contains(name));
            }
            ReportMessage::Lag(lags) => {
                for (name, lag) in lags {
                    known.get_mut(&name).unwrap().set_lag(lag);
                }
            }
            ReportMessage::Heartbeat { digest } => {
                assert_eq!(digest, Some(OwnershipDigest::of(known)));
            }
            other => panic!("{other:?}"),
        }
    }
}

fn any_reports() -> impl Strategy<Value = PipelineReports> {
    use PipelineState::{Retrying, Running};
    let one = (
        1_i64..3,
        prop_oneof![Just(Running), Just(Retrying)],
        0_u8..3,
        0_i64..5,
    );
    proptest::collection::btree_map(0_u8..4, one, 0..4).prop_map(|all| {
        let one = |(number, (epoch, state, reason, lag)): (u8, (i64, _, u8, i64))| {
            let reason = (reason > 0).then(|| format!("reason {reason}"));
            (name(number), report(epoch, state, reason.as_deref(), lag))
        };
        all.into_iter().map(one).collect()
    })
}

proptest! {
    /// However pipelines change: who hears every message knows of ownership and state at once, and of
    /// everything once nothing has changed for as long as the slowest lane takes.
    #[test]
    fn what_left_adds_up(steps in proptest::collection::vec((any_reports(), 0_u64..2_000), 1..20)) {
        let mut known = PipelineReports::new();
        let mut lanes = told(&known);
        let mut now = ms(0);
        let urgent = |reports: &PipelineReports| -> Vec<_> {
            reports.iter().map(|(name, r)| (name.clone(), r.epoch, r.state)).collect()
        };
        let mut last = PipelineReports::new();
        for (current, pause) in steps {
            now += ms(pause);
            heard(&mut known, lanes.due(&current, now));
            prop_assert_eq!(urgent(&known), urgent(&current));
            last = current;
        }
        heard(&mut known, lanes.due(&last, now + REASONS_AFTER));
        heard(&mut known, lanes.due(&last, now + REASONS_AFTER + PACE.lag));
        prop_assert_eq!(&known, &last);
    }
}
