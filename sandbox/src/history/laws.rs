//! Random legal histories are clean, and whatever is then done to them is found.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::Index};
use serde_json::{Map, Value, json};
use time::{Duration, OffsetDateTime};

use super::*;
use crate::{envelope::Envelope, publisher::KeyPosition};

/// A pipeline's life: what was committed, what arrived, and what was done to it.
#[derive(Debug, Clone)]
struct Life {
    published: Vec<Entry>,
    stream: Stream,
    disturbances: Vec<Disturbance>,
    /// What the owners stored.
    positions: Vec<PositionChange>,
}

/// One thing an owner does.
#[derive(Debug, Clone)]
enum Act {
    /// Delivers so many messages, then commits its offset.
    Batch(usize),
    /// Delivers so many messages and dies; the next owner starts from the committed offset.
    Crash(usize),
    /// Gives the pipeline to another agent, with everything stored.
    HandOver,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1..8_usize).prop_map(Act::Batch),
        2 => (0..8_usize).prop_map(Act::Crash),
        1 => Just(Act::HandOver),
    ]
}

/// Keys of the messages in commit order (`None` for none), and what the owners did.
fn life() -> impl Strategy<Value = Life> {
    let keys = proptest::collection::vec(proptest::option::weighted(0.8, 0..4_u8), 2..60);
    (keys, proptest::collection::vec(act(), 1..12)).prop_map(|(keys, acts)| live(&keys, &acts))
}

fn live(keys: &[Option<u8>], acts: &[Act]) -> Life {
    let published = commit(keys);
    let mut life = Life {
        published,
        stream: Stream::new("p", "o", Vec::new()),
        disturbances: Vec::new(),
        positions: Vec::new(),
    };
    let (mut offset, mut epoch) = (0, 1);
    life.store(epoch, offset);
    // The last owner delivers what is left.
    for act in acts.iter().cloned().chain([Act::Batch(usize::MAX)]) {
        let end = |count: usize| offset.saturating_add(count).min(life.published.len());
        match act {
            Act::Batch(count) => {
                let end = end(count);
                life.deliver(offset..end, epoch);
                offset = end;
            }
            Act::Crash(count) => {
                let end = end(count);
                life.deliver(offset..end, epoch);
                let from = at(life.stream.deliveries.len());
                // Its effects are over once the lost batch has been delivered again.
                let until = at(life.stream.deliveries.len() + end - offset);
                let reach = Reach::Agent(agent(epoch));
                life.disturbances
                    .push(Disturbance::new(Cause::Crash, reach, from, until));
                epoch += 1;
                life.store(epoch, offset);
                life.deliver(offset..end, epoch);
                offset = end;
            }
            Act::HandOver => epoch += 1,
        }
        life.store(epoch, offset);
    }
    life
}

/// Everybody owns it once only.
fn agent(epoch: i64) -> String {
    format!("agent-{epoch}")
}

fn commit(keys: &[Option<u8>]) -> Vec<Entry> {
    let mut next: BTreeMap<u8, i64> = BTreeMap::new();
    let entry = |(number, key): (usize, &Option<u8>)| {
        let position = key.map(|key| {
            let next = next.entry(key).or_default();
            *next += 1;
            KeyPosition {
                key: key.to_string(),
                sequence: *next - 1,
            }
        });
        Entry {
            outbox: "o".to_owned(),
            event_id: Uuid::from_u128(number as u128),
            position,
        }
    };
    keys.iter().enumerate().map(entry).collect()
}

fn at(second: usize) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(second as i64)
}

fn delivery(entry: &Entry, id: usize, epoch: i64, second: usize) -> Delivery {
    let epoch = ("tide-epoch".to_owned(), json!(epoch.to_string()));
    let envelope = Envelope {
        event_id: entry.event_id,
        outbox: entry.outbox.clone(),
        id: id as i64,
        key: entry.position.as_ref().map(|position| position.key.clone()),
        headers: Map::from_iter([epoch]),
        payload: Value::Null,
        created_at: at(0),
    };
    Delivery {
        stream: "s".to_owned(),
        envelope,
        order: second as u64,
        at: Some(at(second)),
    }
}

impl Life {
    fn deliver(&mut self, numbers: std::ops::Range<usize>, epoch: i64) {
        for id in numbers {
            let second = self.stream.deliveries.len();
            let delivery = delivery(&self.published[id], id, epoch, second);
            self.stream.deliveries.push(delivery);
        }
    }

    fn store(&mut self, epoch: i64, offset: usize) {
        self.positions.push(PositionChange {
            pipeline: "p".to_owned(),
            at: at(self.stream.deliveries.len()),
            writer: agent(epoch),
            after: Some(Position {
                epoch,
                owner: agent(epoch),
                last_change_id: offset as i64,
                horizon: None,
            }),
        });
    }

    fn blamed(&self) -> Tally {
        let tenures = Tenures::of(&self.positions);
        let streams = std::slice::from_ref(&self.stream);
        check_by_tenure(&self.published, streams, &self.disturbances, &tenures).totals()
    }

    fn judged(&self) -> Tally {
        check(
            &self.published,
            std::slice::from_ref(&self.stream),
            &self.disturbances,
        )
        .totals()
    }

    /// The last epoch under which this message arrived.
    fn newest_epoch_of(&self, delivery: &Delivery) -> i64 {
        let alike = self.stream.deliveries.iter();
        let alike = alike.filter(|one| one.envelope.event_id == delivery.envelope.event_id);
        let epochs = alike.filter_map(|one| one.envelope.epoch());
        epochs.max().expect("every delivery has an epoch")
    }

    /// Where each message arrived for the first time.
    fn first_arrivals(&self) -> HashMap<Uuid, usize> {
        let deliveries = self.stream.deliveries.iter().enumerate();
        deliveries.fold(HashMap::new(), |mut first, (index, delivery)| {
            first.entry(delivery.envelope.event_id).or_insert(index);
            first
        })
    }

    /// Pairs of first arrivals of neighbours within a key.
    fn neighbours(&self) -> Vec<(usize, usize)> {
        let first = self.first_arrivals();
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        let mut pairs = Vec::new();
        for entry in &self.published {
            if let Some(position) = &entry.position {
                let here = first[&entry.event_id];
                pairs.extend(
                    last.insert(&position.key, here)
                        .map(|before| (before, here)),
                );
            }
        }
        pairs
    }

    fn after_the_end(&self) -> OffsetDateTime {
        at(self.stream.deliveries.len() + 1_000)
    }
}

proptest! {
    #[test]
    fn a_legal_history_is_clean(life in life()) {
        let tally = life.judged();
        prop_assert!(tally.is_clean(), "{tally}");
        prop_assert_eq!(tally.delivered, life.published.len());
        let extra = life.stream.deliveries.len() - life.published.len();
        prop_assert_eq!(tally.duplicates_because(Cause::Crash), extra);
    }

    #[test]
    fn a_legal_history_is_clean_whoever_is_to_blame(mut life in life()) {
        // No batch is larger than 7, and none but the last is unstored.
        life.stream.limits = Limits { unstored: Some(7), on_the_wire: Some(0), by_request: false };
        life.stream.arrivals = Arrivals::InOrder;
        let tally = life.blamed();
        prop_assert!(tally.is_clean(), "{tally}");
        prop_assert_eq!(tally.overlaps, 0);
        prop_assert_eq!(&tally.duplicates, &life.judged().duplicates);
        prop_assert_eq!(check_positions(&life.positions), []);
    }

    #[test]
    fn an_undisturbed_owner_is_never_excused(mut life in life()) {
        // Without the crashes everything that came twice is somebody's fault.
        let crashes = life.judged().duplicates_total();
        life.disturbances.clear();
        prop_assert_eq!(life.blamed().unexplained_duplicates(), crashes);
    }

    #[test]
    fn one_more_delivery_of_an_undisturbed_owner_is_found(mut life in life(), which: Index) {
        let mut again = which.get(&life.stream.deliveries).clone();
        let newest = life.newest_epoch_of(&again);
        // One that crashed might have had the right to leave it unstored.
        let crashed = Reach::Agent(agent(newest));
        prop_assume!(life.disturbances.iter().all(|crash| crash.reach != crashed));
        let newer = i64::MAX.to_string();
        again.envelope.headers.insert("tide-epoch".to_owned(), json!(newer));
        life.stream.deliveries.push(again);
        prop_assert_eq!(life.blamed().unexplained_duplicates(), 1);
    }

    #[test]
    fn a_dropped_message_is_found(mut life in life(), which: Index) {
        let dropped = which.get(&life.published).event_id;
        life.stream.deliveries.retain(|delivery| delivery.envelope.event_id != dropped);
        let tally = life.judged();
        prop_assert_eq!((tally.lost, tally.reordered), (1, 0));
        prop_assert!(!tally.is_clean());
    }

    #[test]
    fn swapped_neighbours_are_found(mut life in life(), which: Index) {
        let pairs = life.neighbours();
        prop_assume!(!pairs.is_empty());
        let (one, other) = *which.get(&pairs);
        life.stream.deliveries.swap(one, other);
        prop_assert!(life.judged().reordered >= 1);
    }

    #[test]
    fn one_more_delivery_is_found(mut life in life(), which: Index) {
        let mut again = which.get(&life.stream.deliveries).clone();
        again.at = Some(life.after_the_end());
        life.stream.deliveries.push(again);
        prop_assert_eq!(life.judged().unexplained_duplicates(), 1);
    }

    #[test]
    fn an_invented_message_is_found(mut life in life(), which: Index) {
        let at = which.index(life.stream.deliveries.len());
        let mut invented = life.stream.deliveries[at].clone();
        invented.envelope.event_id = Uuid::from_u128(u128::MAX);
        life.stream.deliveries.insert(at, invented);
        let tally = life.judged();
        prop_assert_eq!((tally.phantom, tally.lost, tally.reordered), (1, 0, 0));
    }

    #[test]
    fn a_voice_from_the_past_is_found(mut life in life(), which: Index) {
        let keyed = |delivery: &&Delivery| delivery.envelope.key.is_some();
        let candidates: Vec<Delivery> =
            life.stream.deliveries.iter().filter(keyed).cloned().collect();
        prop_assume!(!candidates.is_empty());
        let mut stale = which.get(&candidates).clone();
        stale.envelope.headers.insert("tide-epoch".to_owned(), json!("0"));
        stale.at = Some(life.after_the_end());
        life.stream.deliveries.push(stale);
        prop_assert_eq!(life.judged().unexplained_stale_epochs(), 1);
    }
}
