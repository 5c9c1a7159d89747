//! Judging one pipeline's stream.

use std::collections::{BTreeMap, HashMap};

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Arrivals, Disturbance, End, Explanation, Limits, PipelineAccount, Stream, Tenures, Verdict,
    disturbance,
    key_order::{Epochs, KeyOrder, Novelty, Order, Owner, Rank},
    tenure::Excuse,
};
use crate::{
    envelope::{Delivery, Envelope},
    publisher::{Entry, KeyPosition},
};

/// What tells a cause.
#[derive(Debug, Clone, Copy)]
pub(super) enum Evidence<'a> {
    /// When something arrived.
    Times,
    /// Who is to blame.
    Tenures(&'a Tenures),
}

pub(super) fn judge(
    stream: &Stream,
    published: &HashMap<Uuid, &Entry>,
    disturbances: &[Disturbance],
    evidence: Evidence<'_>,
) -> PipelineAccount {
    let mut judge = Judge::new(stream, published, disturbances, evidence);
    for delivery in &stream.deliveries {
        judge.arrive(delivery);
    }
    judge.close(stream.end)
}

struct Judge<'a> {
    disturbances: &'a [Disturbance],
    evidence: Evidence<'a>,
    expected: HashMap<Uuid, Expected<'a>>,
    /// By key; what has no key is a key of its own with one message, which has no order.
    orders: HashMap<Lane<'a>, KeyOrder>,
    /// By what arrives in one order: all of it, or each lane.
    epochs: HashMap<Option<Lane<'a>>, Epochs>,
    arrivals: Arrivals,
    limits: Limits,
    /// How much of each tenure was delivered again.
    repeated: BTreeMap<Option<i64>, usize>,
    /// How much each former owner delivered after its time.
    belated: BTreeMap<Option<i64>, usize>,
    /// When the last of that arrived.
    last_belated: Option<OffsetDateTime>,
    account: PipelineAccount,
}

struct Expected<'a> {
    entry: &'a Entry,
    lane: Lane<'a>,
    rank: Rank,
    /// The outbox id under which it first came.
    id: Option<i64>,
    /// The newest epoch under which it came.
    epoch: Option<i64>,
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
        evidence: Evidence<'a>,
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
                    epoch: None,
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
            evidence,
            expected,
            orders,
            epochs: HashMap::new(),
            arrivals: stream.arrivals,
            limits: stream.limits,
            repeated: BTreeMap::new(),
            belated: BTreeMap::new(),
            last_belated: None,
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
        let one_order = match self.arrivals {
            Arrivals::InOrder => None,
            Arrivals::InOrderPerKey => Some(expected.lane),
        };
        let epoch = envelope.epoch();
        let owner = self.epochs.entry(one_order).or_default().owner(epoch);
        let order = self
            .orders
            .get_mut(&expected.lane)
            .expect("every lane has its order");
        let arrival = order.arrive(expected.rank, owner);
        // A message comes again because of whoever delivered it before, and late because of its sender.
        let blamed = match owner {
            Owner::Current => expected.epoch,
            Owner::Former => epoch,
        };
        expected.epoch = expected.epoch.max(epoch);
        match arrival.order {
            Order::Kept => {}
            Order::Late | Order::Skipped => {
                self.account
                    .note(Verdict::Reordered, envelope.event_id, position);
            }
        }
        if arrival.novelty == Novelty::First {
            self.account.tally.delivered += 1;
        }
        if arrival.novelty == Novelty::First && owner == Owner::Current {
            return;
        }
        let Excuse {
            why,
            times,
            surprised,
        } = self.excuse(delivery, blamed);
        if arrival.novelty == Novelty::Duplicate {
            self.account
                .note(Verdict::Duplicate(why), envelope.event_id, position);
        }
        let (count, most) = match owner {
            Owner::Current => {
                let most = self.limits.unstored.map(|most| most * times);
                (self.repeated.entry(blamed).or_default(), most)
            }
            Owner::Former => {
                self.account
                    .note(Verdict::StaleEpoch(why), envelope.event_id, position);
                let most = self.limits.on_the_wire;
                // Who could see the end of its time coming had nothing on the wire by then.
                let most = most.map(|most| if surprised { most } else { 0 });
                // What came in one request was on the wire as one.
                let beside = delivery.at.is_some() && delivery.at == self.last_belated;
                self.last_belated = delivery.at;
                if self.limits.by_request && beside {
                    return;
                }
                (self.belated.entry(blamed).or_default(), most)
            }
        };
        *count += 1;
        if why != Explanation::Unexplained && most.is_some_and(|most| *count > most) {
            self.account
                .note(Verdict::Excess, envelope.event_id, position);
        }
    }

    /// What excuses something irregular.
    fn excuse(&self, delivery: &Delivery, blamed: Option<i64>) -> Excuse {
        let pipeline = &self.account.pipeline;
        match self.evidence {
            Evidence::Times => Excuse {
                why: disturbance::explain(self.disturbances, pipeline, delivery.at),
                times: self.disturbances.len(),
                surprised: true,
            },
            Evidence::Tenures(tenures) => tenures.excuse(self.disturbances, pipeline, blamed),
        }
    }

    fn close(mut self, end: End) -> PipelineAccount {
        self.account.tally.overlaps = self.belated.len();
        if end == End::Open {
            return self.account;
        }
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
