//! Keeps the order of every key with many messages on the wire: of each key one at a time.
//!
//! A broker that acknowledges each message by itself may fail one and take its successor. Sent
//! together, the successor would be first for good, because the one that failed is sent again. So
//! a message leaves when its predecessor of the same key is acknowledged. Messages without a key
//! have no order and wait for nobody.
//!
//! After a failure nothing behind it is begun, and everything before it is still brought to its
//! end, so that the failure is the first message that is not delivered. What was acknowledged
//! behind it is remembered and not sent again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    future::Future,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
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
#[derive(Debug)]
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

/// Delivers a batch: `publish` sends the message of an index and returns when it is acknowledged.
/// It may learn that other messages failed; its own did if its index is among the failures.
///
/// Dropping the future drops those of `publish`; what they had achieved is in `ahead`.
pub(super) async fn deliver<F>(
    batch: &Batch<'_>,
    ahead: &mut Ahead,
    limits: Limits,
    publish: impl Fn(usize) -> F,
) -> Result<(), SinkError>
where
    F: Future<Output = Result<(), Vec<Failure>>>,
{
    let messages = batch.messages;
    // What is remembered of messages that are not in this batch is of no use any more.
    let known: HashSet<Uuid> = messages.iter().map(|message| message.event_id).collect();
    ahead.0.retain(|id| known.contains(id));
    let mut lanes = Lanes::new(messages, |message| ahead.0.contains(&message.event_id));
    batch.progress.reached(lanes.prefix());
    let deadline = Instant::now() + limits.timeout;
    let mut on_the_wire = FuturesUnordered::new();
    let mut failures = BTreeMap::new();
    loop {
        while on_the_wire.len() < limits.width
            && let Some(index) = lanes.begin()
        {
            let published = publish(index);
            on_the_wire.push(async move { (index, published.await) });
        }
        let Ok(next) = timeout_at(deadline, on_the_wire.next()).await else {
            let late = format!("not acknowledged within {:?}", limits.timeout);
            return Err(SinkError::transient(late).after(lanes.prefix()));
        };
        let Some((index, outcome)) = next else {
            break;
        };
        for failure in outcome.err().unwrap_or_default() {
            ahead.0.remove(&messages[failure.index].event_id);
            lanes.failed(failure.index);
            failures.insert(failure.index, failure.error);
        }
        if lanes.delivered(index) {
            ahead.0.insert(messages[index].event_id);
        }
        batch.progress.reached(lanes.prefix());
    }
    if let Some((index, error)) = failures.pop_first() {
        return Err(error.after(index));
    }
    ahead.0.clear();
    Ok(())
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

    /// Says whether it is: that it failed may have been heard before.
    fn delivered(&mut self, index: usize) -> bool {
        if self.fates[index] == Fate::Failed {
            return false;
        }
        self.fates[index] = Fate::Delivered;
        self.ready.extend(self.following[index]);
        self.advance();
        true
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

    fn advance(&mut self) {
        let open = self.fates[self.prefix..]
            .iter()
            .position(|fate| *fate != Fate::Delivered);
        self.prefix = open.map_or(self.fates.len(), |more| self.prefix + more);
    }
}

#[cfg(test)]
mod tests;
