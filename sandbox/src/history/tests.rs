//! Histories that are wrong on purpose, one for each verdict.

use serde_json::{Map, Value, json};
use time::{Duration, OffsetDateTime};

use super::*;
use crate::{envelope::Envelope, publisher::KeyPosition};

/// A message of the only outbox: `a3` is number 3 of key a, `-7` one without a key.
fn entry(name: &str) -> Entry {
    let (key, number) = name.split_at(1);
    let number: i64 = number.parse().unwrap();
    let position = (key != "-").then(|| KeyPosition {
        key: key.to_owned(),
        sequence: number,
    });
    Entry {
        outbox: "o".to_owned(),
        event_id: id(name),
        position,
    }
}

fn id(name: &str) -> Uuid {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Uuid::from_bytes(bytes)
}

fn second(number: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(number)
}

/// Deliveries a second apart; `a3` is under epoch 1, `a3@2` under epoch 2.
fn stream(text: &str) -> Stream {
    let deliveries = text.split_whitespace().enumerate().map(|(index, word)| {
        let (name, epoch) = word.split_once('@').unwrap_or((word, "1"));
        let entry = entry(name);
        let headers = Map::from_iter([("tide-epoch".to_owned(), json!(epoch))]);
        let envelope = Envelope {
            event_id: entry.event_id,
            outbox: entry.outbox,
            id: 1,
            key: entry.position.map(|position| position.key),
            headers,
            payload: Value::Null,
            created_at: second(0),
        };
        let at = Some(second(index as i64));
        Delivery {
            stream: "s".to_owned(),
            envelope,
            order: index as u64,
            at,
        }
    });
    Stream::new("p", "o", deliveries.collect())
}

fn published(text: &str) -> Vec<Entry> {
    text.split_whitespace().map(entry).collect()
}

fn judged(committed: &str, delivered: &str, disturbances: &[Disturbance]) -> Tally {
    check(&published(committed), &[stream(delivered)], disturbances).totals()
}

fn crash(from: i64, until: i64) -> Disturbance {
    Disturbance::new(Cause::Crash, Reach::All, second(from), second(until))
}

#[test]
fn a_history_without_incident_is_clean() {
    let accounts = check(&published("a0 b0 a1 -0"), &[stream("b0 a0 -0 a1")], &[]);
    assert!(
        accounts.is_clean() && accounts.is_exactly_once(),
        "{accounts}"
    );
    assert_eq!(accounts.totals().delivered, 4);
}

#[test]
fn what_never_arrives_is_lost() {
    let tally = judged("a0 a1 a2 -0", "a0 a2", &[crash(0, 9)]);
    assert_eq!((tally.lost, tally.reordered, tally.delivered), (2, 0, 2));
    assert!(!tally.is_clean());
}

#[test]
fn what_was_never_committed_is_a_phantom() {
    let tally = judged("a0", "a0 a1 -5", &[crash(0, 9)]);
    assert_eq!((tally.phantom, tally.delivered), (2, 1));
    assert!(!tally.is_clean());
}

#[test]
fn what_belongs_to_another_outbox_is_a_phantom_and_not_lost() {
    let other = Entry {
        outbox: "other".to_owned(),
        ..entry("x0")
    };
    let mut entries = published("a0");
    entries.push(other);
    let tally = check(&entries, &[stream("a0 x0")], &[]).totals();
    assert_eq!((tally.committed, tally.phantom, tally.lost), (1, 1, 0));
}

#[test]
fn what_changes_on_the_way_is_altered() {
    let mut changed = stream("a0 a1 a2");
    changed.deliveries[0].envelope.key = Some("b".to_owned());
    changed.deliveries[1].envelope.outbox = "other".to_owned();
    let mut again = changed.deliveries[2].clone();
    again.envelope.id += 1;
    changed.deliveries.push(again);
    let tally = check(&published("a0 a1 a2"), &[changed], &[crash(0, 9)]).totals();
    assert_eq!(tally.altered, 3);
    assert!(!tally.is_clean());
}

#[test]
fn disorder_within_a_key_is_never_excused() {
    let tally = judged("a0 a1 b0", "a1 b0 a0", &[crash(0, 9)]);
    assert_eq!((tally.reordered, tally.lost), (1, 0));
    assert!(!tally.is_clean());
}

#[test]
fn a_redelivery_that_skips_is_disorder() {
    let tally = judged("a0 a1 a2 a3", "a0 a1 a2 a0@2 a2@2 a3@2", &[crash(3, 9)]);
    assert_eq!(
        (tally.reordered, tally.duplicates_because(Cause::Crash)),
        (1, 2)
    );
    assert!(!tally.is_clean());
}

#[test]
fn a_redelivery_of_a_suffix_after_a_crash_is_clean() {
    let accounts = check(
        &published("a0 b0 a1 -0 a2"),
        &[stream("a0 b0 a1 b0@2 a1@2 -0@2 a2@2")],
        &[crash(3, 5)],
    );
    assert!(
        accounts.is_clean() && !accounts.is_exactly_once(),
        "{accounts}"
    );
    assert_eq!(accounts.totals().duplicates_because(Cause::Crash), 2);
}

#[test]
fn a_duplicate_outside_every_window_is_unexplained() {
    let elsewhere = Disturbance {
        reach: Reach::only(["q"]),
        ..crash(0, 9)
    };
    let tally = judged(
        "a0 -0",
        "a0 -0 -0 a0",
        &[crash(0, 1), crash(4, 9), elsewhere],
    );
    assert_eq!(tally.unexplained_duplicates(), 2);
    assert!(!tally.is_clean());
}

#[test]
fn the_latest_disturbance_is_the_cause() {
    let retry = Disturbance {
        cause: Cause::Retry,
        ..crash(2, 9)
    };
    let tally = judged("a0", "a0 a0 a0 a0", &[retry, crash(0, 9)]);
    assert_eq!(tally.duplicates_because(Cause::Crash), 1);
    assert_eq!(tally.duplicates_because(Cause::Retry), 2);
    assert!(tally.is_clean());
}

#[test]
fn without_arrival_times_any_disturbance_of_the_pipeline_explains() {
    let mut timeless = stream("a0 a0");
    timeless
        .deliveries
        .iter_mut()
        .for_each(|delivery| delivery.at = None);
    let judge = |disturbances: &[Disturbance]| {
        check(
            &published("a0"),
            std::slice::from_ref(&timeless),
            disturbances,
        )
        .is_clean()
    };
    assert!(judge(&[crash(90, 99)]));
    assert!(!judge(&[Disturbance {
        reach: Reach::only(["q"]),
        ..crash(90, 99)
    }]));
}

#[test]
fn a_former_owner_must_be_explained() {
    let history = "a0 a1 a0@2 a1 a1@2 a2@2";
    let tally = judged("a0 a1 a2", history, &[crash(0, 3)]);
    assert_eq!(tally.stale_epochs[&Explanation::Because(Cause::Crash)], 1);
    assert_eq!(tally.reordered, 0);
    assert_eq!(tally.unexplained_duplicates(), 1);
    let tally = judged("a0 a1 a2", history, &[]);
    assert_eq!(tally.unexplained_stale_epochs(), 1);
    assert!(!tally.is_clean());
}

#[test]
fn a_former_owner_that_delivers_first_is_stale_too() {
    let tally = judged("a0 a1", "a0@2 a1", &[]);
    assert_eq!(tally.unexplained_stale_epochs(), 1);
    assert_eq!(tally.duplicates_total(), 0);
    assert!(!tally.is_clean());
}

#[test]
fn pipelines_are_judged_apart() {
    let one = stream("a0 a1");
    let two = Stream {
        pipeline: "q".to_owned(),
        ..stream("a0")
    };
    let accounts = check(&published("a0 a1"), &[one, two], &[]);
    let lost: Vec<usize> = accounts
        .pipelines
        .iter()
        .map(|account| account.tally.lost)
        .collect();
    assert_eq!(lost, [0, 1]);
}

#[test]
fn the_summary_names_what_is_wrong() {
    let accounts = check(&published("a0 a1"), &[stream("a0 a0@2")], &[crash(0, 9)]);
    let expected = format!(
        "p (o): 1 of 2 delivered, 1 lost, 0 phantom, 0 altered, 0 reordered, \
         duplicates 1 (1 crash), stale epochs 0\n\
         total: 1 of 2 delivered, 1 lost, 0 phantom, 0 altered, 0 reordered, \
         duplicates 1 (1 crash), stale epochs 0\n  p: lost {} (a #1)",
        id("a1")
    );
    assert_eq!(accounts.to_string(), expected);
}

#[test]
fn a_shared_sink_is_sorted_by_the_header() {
    let mut deliveries = stream("a0 a1 a2").deliveries;
    for (delivery, pipeline) in deliveries.iter_mut().zip(["p", "q", "p"]) {
        delivery
            .envelope
            .headers
            .insert("tide-pipeline".to_owned(), json!(pipeline));
    }
    let sorted = by_pipeline(deliveries);
    let counts: Vec<(&str, usize)> = sorted
        .iter()
        .map(|(name, deliveries)| (name.as_str(), deliveries.len()))
        .collect();
    assert_eq!(counts, [("p", 2), ("q", 1)]);
}

/// Owner `x1` claimed epoch 1 at second 0, `x2` epoch 2 at `handed_over`, and so on.
fn tenures(claims: &[i64]) -> Tenures {
    let claim = |(epoch, at): (i64, &i64)| {
        let owner = format!("x{epoch}");
        PositionChange {
            pipeline: "p".to_owned(),
            at: second(*at),
            writer: owner.clone(),
            after: Some(Position {
                epoch,
                owner,
                last_change_id: 0,
                horizon: None,
            }),
        }
    };
    Tenures::of(&(1..).zip(claims).map(claim).collect::<Vec<_>>())
}

fn done_to(agent: &str, from: i64, until: i64) -> Disturbance {
    let reach = Reach::Agent(agent.to_owned());
    Disturbance::new(Cause::Crash, reach, second(from), second(until))
}

fn blamed(
    committed: &str,
    stream: Stream,
    disturbances: &[Disturbance],
    tenures: &Tenures,
) -> Tally {
    check_by_tenure(&published(committed), &[stream], disturbances, tenures).totals()
}

#[test]
fn a_crash_excuses_what_the_dead_owner_had_not_stored() {
    let history = stream("a0 a1 a2 a1@2 a2@2 a3@2");
    let tally = blamed(
        "a0 a1 a2 a3",
        history,
        &[done_to("x1", 3, 3)],
        &tenures(&[0, 4]),
    );
    assert_eq!(tally.duplicates_because(Cause::Crash), 2);
    assert!(tally.is_clean(), "{tally}");
}

#[test]
fn a_hand_over_that_repeats_is_found_although_somebody_crashed_before_and_after() {
    let history = stream("a0 a1 a1@2 a2@2 a2@3 a3@3");
    let disturbances = [done_to("x1", 1, 2), done_to("x3", 5, 6), done_to("y", 0, 9)];
    let tally = blamed("a0 a1 a2 a3", history, &disturbances, &tenures(&[0, 3, 4]));
    assert_eq!(tally.duplicates_because(Cause::Crash), 1, "{tally}");
    assert_eq!(tally.unexplained_duplicates(), 1, "{tally}");
}

#[test]
fn what_a_successor_had_no_time_to_repeat_is_still_the_fault_of_the_crash() {
    // The second owner repeats a1 only and hands over; the third repeats a2.
    let history = stream("a0 a1 a2 a1@2 a2@3 a3@3");
    let tally = blamed(
        "a0 a1 a2 a3",
        history,
        &[done_to("x1", 2, 2)],
        &tenures(&[0, 3, 4]),
    );
    assert_eq!(tally.duplicates_because(Cause::Crash), 2);
    assert!(tally.is_clean(), "{tally}");
}

#[test]
fn more_than_an_owner_has_under_way_is_excess() {
    let history = |unstored| Stream {
        limits: Limits {
            unstored: Some(unstored),
            ..Limits::default()
        },
        ..stream("a0 a1 a2 a0@2 a1@2 a2@2")
    };
    let judged = |unstored, disturbances: &[Disturbance]| {
        blamed(
            "a0 a1 a2",
            history(unstored),
            disturbances,
            &tenures(&[0, 3]),
        )
    };
    let crash = done_to("x1", 2, 3);
    assert!(judged(3, std::slice::from_ref(&crash)).is_clean());
    let tally = judged(2, std::slice::from_ref(&crash));
    assert_eq!(tally.excess, 1);
    assert!(!tally.is_clean());
    assert!(
        judged(2, &[crash.clone(), crash]).is_clean(),
        "twice as much for two"
    );
}

#[test]
fn a_former_owner_may_send_what_was_on_the_wire_and_no_more() {
    let history = |on_the_wire| Stream {
        limits: Limits {
            on_the_wire: Some(on_the_wire),
            ..Limits::default()
        },
        arrivals: Arrivals::InOrder,
        ..stream("a0 a0@2 b0 a1@2 c0")
    };
    let freeze = [done_to("x1", 1, 5)];
    let judged = |most| blamed("a0 b0 a1 c0", history(most), &freeze, &tenures(&[0, 1]));
    let tally = judged(2);
    assert_eq!(tally.stale_epochs[&Explanation::Because(Cause::Crash)], 2);
    assert_eq!((tally.overlaps, tally.excess), (1, 0));
    assert!(tally.is_clean(), "{tally}");
    assert_eq!(judged(1).excess, 1);
}

#[test]
fn a_former_owner_of_another_key_is_seen_only_where_everything_is_in_order() {
    let history = |arrivals| Stream {
        arrivals,
        ..stream("a0@2 b0")
    };
    let judged = |arrivals| blamed("a0 b0", history(arrivals), &[], &tenures(&[0, 1]));
    assert_eq!(judged(Arrivals::InOrder).unexplained_stale_epochs(), 1);
    assert!(judged(Arrivals::InOrderPerKey).is_clean());
}

#[test]
fn a_deleted_pipeline_owes_nothing_but_order() {
    let history = |text| Stream {
        end: End::Open,
        ..stream(text)
    };
    let judged = |text| check(&published("a0 a1 a2"), &[history(text)], &[]).totals();
    assert!(judged("a0 a1").is_clean());
    assert_eq!(judged("a1 a0").reordered, 1);
}

#[test]
fn a_partitioned_owner_is_silent_when_its_time_is_over() {
    let history = Stream {
        limits: Limits {
            on_the_wire: Some(5),
            ..Limits::default()
        },
        ..stream("a0 a0@2 a1")
    };
    let partition = |cause| Disturbance {
        cause,
        ..done_to("x1", 0, 1)
    };
    let judged = |causes: &[Cause]| {
        let done: Vec<_> = causes.iter().map(|cause| partition(*cause)).collect();
        blamed("a0 a1", history.clone(), &done, &tenures(&[0, 1]))
    };
    assert_eq!(judged(&[Cause::Partition]).excess, 1);
    assert!(judged(&[Cause::Freeze, Cause::Partition]).is_clean());
    assert!(judged(&[Cause::LostSession]).is_clean());
}

#[test]
fn what_comes_in_one_request_was_on_the_wire_as_one() {
    let judged = |third: i64| {
        let mut history = stream("a0 a0@2 a1 a2");
        history.limits = Limits {
            on_the_wire: Some(1),
            by_request: true,
            ..Limits::default()
        };
        history.deliveries[2].at = Some(second(2));
        history.deliveries[3].at = Some(second(third));
        blamed(
            "a0 a1 a2",
            history,
            &[done_to("x1", 0, 1)],
            &tenures(&[0, 1]),
        )
    };
    assert!(judged(2).is_clean());
    assert_eq!(judged(3).excess, 1);
}
