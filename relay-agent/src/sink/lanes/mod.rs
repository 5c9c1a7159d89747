//! Keeps the order of every key with many messages on the wire: of each key one at a time.
//!
//! A broker that acknowledges each message by itself may fail one and take its successor. Sent
//! together, the successor would be first for good, because the one that failed is sent again. So
//! a message leaves when its predecessor of the same key is acknowledged. Messages without a key
//! have no order and wait for nobody.
//!
//! Acknowledgements are awaited in the order in which the messages left. Brokers give them about in
//! that order, and whoever listens for hundreds at a time is woken up for each.
//!
//! After a failure nothing behind it is begun, and everything before it is still brought to its
//! end, so that the failure is the first message that is not delivered. What was acknowledged
//! behind it is remembered and not sent again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    future::Future,
    time::Duration,
};

use futures_util::FutureExt as _;
use tide_catalog::messages::Message;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{Batch, SinkError};

/// As many messages are on the wire at most. Each is encoded only when it leaves.
pub(super) const WIDTH: usize = 512;

/// Messages that are acknowledged, although one before them is not.
#[derive(Debug, Default)]
pub(super) struct Ahead(HashSet<Uuid>);

/// A message was not taken: which, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) index: usize,
    pub(super) error: SinkError,
}

/// How a batch is brought to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// So many messages on the wire at most.
    pub(super) width: usize,
    /// Everything must be acknowledged within this.
    pub(super) timeout: Duration,
}

/// Delivers a batch: `publish` sends the message of an index, and what it returns ends when that is
/// acknowledged. It may learn that other messages failed; its own did if its index is among the
/// failures.
///
/// Dropping the future drops those of `publish`; what was heard of them by then is in `ahead`.
pub(super) async fn deliver<F, A>(
    batch: &Batch<'_>,
    ahead: &mut Ahead,
    limits: Limits,
    publish: impl Fn(usize) -> F,
) -> Result<(), SinkError>
where
    F: Future<Output = Result<A, Vec<Failure>>>,
    A: Future<Output = Result<(), Vec<Failure>>>,
{
    let mut way = Way {
        lanes: Lanes::new(batch.messages, |message| {
            ahead.0.contains(&message.event_id)
        }),
        messages: batch.messages,
        ahead,
    };
    let lanes = &mut way.lanes;
    batch.progress.reached(lanes.prefix());
    let deadline = Instant::now() + limits.timeout;
    let mut on_the_wire = VecDeque::new();
    let mut failures = BTreeMap::new();
    loop {
        let begun = (on_the_wire.len() < limits.width).then(|| lanes.begin());
        let (index, outcome) = if let Some(index) = begun.flatten() {
            match timeout_at(deadline, publish(index)).await {
                Ok(Ok(acknowledgement)) => {
                    on_the_wire.push_back((index, acknowledgement));
                    continue;
                }
                outcome => (index, outcome.map(|refused| refused.map(drop))),
            }
        } else if let Some((index, acknowledgement)) = on_the_wire.pop_front() {
            (index, timeout_at(deadline, acknowledgement).await)
        } else {
            break;
        };
        let Ok(outcome) = outcome else {
            // What is behind may have been answered for.
            for (index, acknowledgement) in on_the_wire {
                if acknowledgement.now_or_never() == Some(Ok(())) {
                    lanes.delivered(index);
                }
            }
            let late = format!("not acknowledged within {:?}", limits.timeout);
            return Err(SinkError::transient(late).after(lanes.prefix()));
        };
        for failure in outcome.err().unwrap_or_default() {
            lanes.failed(failure.index);
            failures.insert(failure.index, failure.error);
        }
        lanes.delivered(index);
        batch.progress.reached(lanes.prefix());
    }
    match failures.pop_first() {
        Some((index, error)) => Err(error.after(index)),
        None => Ok(()),
    }
}

/// A batch on its way. However it ends, what is acknowledged behind the first message that is not is
/// remembered.
struct Way<'a> {
    lanes: Lanes,
    messages: &'a [Message],
    ahead: &'a mut Ahead,
}

impl Drop for Way<'_> {
    fn drop(&mut self) {
        let delivered = self.lanes.delivered_out_of_turn();
        self.ahead.0 = delivered
            .map(|index| self.messages[index].event_id)
            .collect();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Not begun, or on the wire.
    Open,
    Delivered,
    Failed,
}

/// Which message may leave next.
#[derive(Debug)]
struct Lanes {
    /// Of each message the next one of its key.
    following: Vec<Option<usize>>,
    /// May leave now.
    ready: BTreeSet<usize>,
    fates: Vec<Fate>,
    /// The first failure: nothing from here on is begun.
    limit: usize,
    prefix: usize,
}

impl Lanes {
    fn new(messages: &[Message], is_delivered: impl Fn(&Message) -> bool) -> Self {
        let mut lanes = Self {
            following: vec![None; messages.len()],
            ready: BTreeSet::new(),
            fates: vec![Fate::Open; messages.len()],
            limit: messages.len(),
            prefix: 0,
        };
        let mut last_of_key: HashMap<&str, usize> = HashMap::new();
        for (index, message) in messages.iter().enumerate() {
            if is_delivered(message) {
                lanes.fates[index] = Fate::Delivered;
                continue;
            }
            let before = message
                .key
                .as_deref()
                .and_then(|key| last_of_key.insert(key, index));
            match before {
                Some(before) => lanes.following[before] = Some(index),
                None => drop(lanes.ready.insert(index)),
            }
        }
        lanes.advance();
        lanes
    }

    /// The first message that may leave now, which then has left.
    fn begin(&mut self) -> Option<usize> {
        let first = *self.ready.first()?;
        (first < self.limit && self.ready.remove(&first)).then_some(first)
    }

    /// Unless it is known already that it failed.
    fn delivered(&mut self, index: usize) {
        if self.fates[index] == Fate::Failed {
            return;
        }
        self.fates[index] = Fate::Delivered;
        self.ready.extend(self.following[index]);
        self.advance();
    }

    fn failed(&mut self, index: usize) {
        self.fates[index] = Fate::Failed;
        self.limit = self.limit.min(index);
        self.prefix = self.prefix.min(index);
    }

    /// How many messages from the start are delivered.
    fn prefix(&self) -> usize {
        self.prefix
    }

    /// Those that are delivered although one before them is not.
    fn delivered_out_of_turn(&self) -> impl Iterator<Item = usize> {
        let fates = self.fates.iter().enumerate().skip(self.prefix);
        fates.filter_map(|(index, fate)| (*fate == Fate::Delivered).then_some(index))
    }

    fn advance(&mut self) {
        let open = self.fates[self.prefix..]
            .iter()
            .position(|fate| *fate != Fate::Delivered);
        self.prefix = open.map_or(self.fates.len(), |more| self.prefix + more);
    }
}

#[cfg(test)]
mod tests;
