//! Judging one pipeline's stream.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{
    Disturbance, PipelineAccount, Stream, Verdict, disturbance,
    key_order::{KeyOrder, Novelty, Order, Owner, Rank},
};
use crate::{
    envelope::{Delivery, Envelope},
    publisher::{Entry, KeyPosition},
};

pub(super) fn judge(
    stream: &Stream,
    published: &HashMap<Uuid, &Entry>,
    disturbances: &[Disturbance],
) -> PipelineAccount {
    let mut judge = Judge::new(stream, published, disturbances);
    for delivery in &stream.deliveries {
        judge.arrive(delivery);
    }
    judge.close()
}

struct Judge<'a> {
    disturbances: &'a [Disturbance],
    expected: HashMap<Uuid, Expected<'a>>,
    /// By key; what has no key is a key of its own with one message, which has no order.
    orders: HashMap<Lane<'a>, KeyOrder>,
    account: PipelineAccount,
}

struct Expected<'a> {
    entry: &'a Entry,
    lane: Lane<'a>,
    rank: Rank,
    /// The outbox id under which it first came.
    id: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lane<'a> {
    Key(&'a str),
    Keyless(Uuid),
}

impl<'a> Judge<'a> {
    fn new(
        stream: &Stream,
        published: &HashMap<Uuid, &'a Entry>,
        disturbances: &'a [Disturbance],
    ) -> Self {
        let entries = published
            .values()
            .filter(|entry| entry.outbox == stream.outbox);
        let mut lanes: BTreeMap<Option<&KeyPosition>, Vec<&'a Entry>> = BTreeMap::new();
        for entry in entries {
            lanes
                .entry(entry.position.as_ref())
                .or_default()
                .push(entry);
        }
        let mut expected = HashMap::new();
        let mut sizes: HashMap<Lane<'a>, usize> = HashMap::new();
        // Positions sort by key, then sequence: ranks are given in commit order.
        for entry in lanes.into_values().flatten() {
            let lane = match &entry.position {
                Some(position) => Lane::Key(&position.key),
                None => Lane::Keyless(entry.event_id),
            };
            let size = sizes.entry(lane).or_default();
            expected.insert(
                entry.event_id,
                Expected {
                    entry,
                    lane,
                    rank: *size,
                    id: None,
                },
            );
            *size += 1;
        }
        let orders = sizes
            .into_iter()
            .map(|(lane, size)| (lane, KeyOrder::new(size)))
            .collect();
        let mut account = PipelineAccount::new(&stream.pipeline, &stream.outbox);
        account.tally.committed = expected.len();
        Self {
            disturbances,
            expected,
            orders,
            account,
        }
    }

    fn arrive(&mut self, delivery: &Delivery) {
        let envelope = &delivery.envelope;
        let Some(expected) = self.expected.get_mut(&envelope.event_id) else {
            self.account.note(Verdict::Phantom, envelope.event_id, None);
            return;
        };
        let position = expected.entry.position.as_ref();
        if expected.is_altered(envelope) {
            self.account
                .note(Verdict::Altered, envelope.event_id, position);
        }
        let order = self
            .orders
            .get_mut(&expected.lane)
            .expect("every lane has its order");
        let arrival = order.arrive(expected.rank, envelope.epoch());
        let why = disturbance::explain(self.disturbances, &self.account.pipeline, delivery.at);
        match arrival.novelty {
            Novelty::First => self.account.tally.delivered += 1,
            Novelty::Duplicate => {
                self.account
                    .note(Verdict::Duplicate(why), envelope.event_id, position);
            }
        }
        match arrival.order {
            Order::Kept => {}
            Order::Late | Order::Skipped => {
                self.account
                    .note(Verdict::Reordered, envelope.event_id, position);
            }
        }
        match arrival.owner {
            Owner::Current => {}
            Owner::Former => {
                self.account
                    .note(Verdict::StaleEpoch(why), envelope.event_id, position);
            }
        }
    }

    fn close(mut self) -> PipelineAccount {
        let mut lost: Vec<&Entry> = self
            .expected
            .values()
            .filter(|expected| expected.id.is_none())
            .map(|expected| expected.entry)
            .collect();
        lost.sort_by_key(|entry| (entry.position.as_ref(), entry.event_id));
        for entry in lost {
            self.account
                .note(Verdict::Lost, entry.event_id, entry.position.as_ref());
        }
        self.account
    }
}

impl Expected<'_> {
    /// Whether what arrived is not what was committed, or not what arrived before.
    fn is_altered(&mut self, envelope: &Envelope) -> bool {
        let key = self.entry.position.as_ref().map(|position| &position.key);
        let first = *self.id.get_or_insert(envelope.id);
        envelope.key.as_ref() != key || envelope.outbox != self.entry.outbox || envelope.id != first
    }
}
