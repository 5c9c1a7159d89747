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
}

/// One thing an owner does.
#[derive(Debug, Clone)]
enum Act {
    /// Delivers so many messages, then commits its offset.
    Batch(usize),
    /// Delivers so many messages and dies; the next owner starts from the committed offset.
    Crash(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![3 => (1..8_usize).prop_map(Act::Batch), 1 => (0..8_usize).prop_map(Act::Crash)]
}

/// Keys of the messages in commit order (`None` for none), and what the owners did.
fn life() -> impl Strategy<Value = Life> {
    let keys = proptest::collection::vec(proptest::option::weighted(0.8, 0..4_u8), 2..60);
    (keys, proptest::collection::vec(act(), 1..12)).prop_map(|(keys, acts)| live(&keys, &acts))
}

fn live(keys: &[Option<u8>], acts: &[Act]) -> Life {
    let published = commit(keys);
    let mut deliveries = Vec::new();
    let mut disturbances = Vec::new();
    let (mut offset, mut epoch) = (0_usize, 1);
    // The last owner delivers what is left.
    let acts = acts.iter().cloned().chain([Act::Batch(usize::MAX)]);
    for act in acts {
        let (count, crashes) = match act {
            Act::Batch(count) => (count, false),
            Act::Crash(count) => (count, true),
        };
        let end = offset.saturating_add(count).min(published.len());
        for (id, entry) in published.iter().enumerate().take(end).skip(offset) {
            deliveries.push(delivery(entry, id, epoch, deliveries.len()));
        }
        if crashes {
            epoch += 1;
            let from = at(deliveries.len());
            // Its effects are over once the lost batch has been delivered again.
            let until = at(deliveries.len() + end - offset);
            disturbances.push(Disturbance::new(Cause::Crash, Reach::All, from, until));
            for (id, entry) in published.iter().enumerate().take(end).skip(offset) {
                deliveries.push(delivery(entry, id, epoch, deliveries.len()));
            }
        }
        offset = end;
    }
    Life {
        published,
        stream: Stream::new("p", "o", deliveries),
        disturbances,
    }
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
    fn judged(&self) -> Tally {
        check(
            &self.published,
            std::slice::from_ref(&self.stream),
            &self.disturbances,
        )
        .totals()
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
