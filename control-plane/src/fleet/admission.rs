//! Who may send a snapshot next.
//!
//! After a restart of the control plane every agent has everything to tell. They are asked a few at a
//! time, in the order in which they came; until then their heartbeats show that they are there. When
//! even the queue is too long, the next one is sent away for a while. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::state::StreamId;

/// Snapshots that may be under way.
const AT_ONCE: usize = 64;
/// Streams that may wait to be asked.
const MAX_WAITING: usize = 4_096;
/// Whoever was asked and has not answered within this does not keep others from it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What a queue of this length is gone in, at the slowest.
const DRAINED_WITHIN: Duration = Duration::from_secs(5);

/// The queue, and who was asked.
#[derive(Debug, Default)]
pub(super) struct Admission {
    waiting: VecDeque<StreamId>,
    asked: BTreeMap<StreamId, Instant>,
}

/// The queue is full; come back after this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crowded(pub(super) Duration);

impl Admission {
    /// Fails if nobody more may wait.
    pub(super) fn room(&self) -> Result<(), Crowded> {
        if self.waiting.len() < MAX_WAITING {
            Ok(())
        } else {
            Err(Crowded(DRAINED_WITHIN))
        }
    }

    /// A stream has to be asked for a snapshot, unless it was or will be anyway.
    pub(super) fn want(&mut self, stream: StreamId) {
        if !self.asked.contains_key(&stream) && !self.waiting.contains(&stream) {
            self.waiting.push_back(stream);
        }
    }

    /// A stream has answered, or is gone.
    pub(super) fn done(&mut self, stream: StreamId) {
        self.asked.remove(&stream);
    }

    /// Who is asked now, of those that `still` have to be.
    pub(super) fn next(
        &mut self,
        now: Instant,
        still: impl Fn(StreamId) -> bool,
    ) -> Option<StreamId> {
        if self.asked.len() >= AT_ONCE {
            self.asked.retain(|_, at| now < *at + ANSWER_WITHIN);
        }
        while self.asked.len() < AT_ONCE {
            let stream = self.waiting.pop_front()?;
            if still(stream) {
                self.asked.insert(stream, now);
                return Some(stream);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<usize>) -> impl Iterator<Item = StreamId> {
        range.map(|id| StreamId(id as u64))
    }

    fn asked(admission: &mut Admission, now: Instant) -> Vec<StreamId> {
        std::iter::from_fn(|| admission.next(now, |_| true)).collect()
    }

    #[test]
    fn a_few_at_a_time_in_the_order_in_which_they_came() {
        let now = Instant::now();
        let mut admission = Admission::default();
        ids(0..AT_ONCE + 2).for_each(|id| admission.want(id));
        assert_eq!(
            asked(&mut admission, now),
            ids(0..AT_ONCE).collect::<Vec<_>>()
        );
        admission.want(StreamId(0));
        assert_eq!(asked(&mut admission, now), [], "all are busy");
        admission.done(StreamId(7));
        assert_eq!(asked(&mut admission, now), [StreamId(AT_ONCE as u64)]);
        let later = now + ANSWER_WITHIN;
        assert_eq!(asked(&mut admission, later), [StreamId(AT_ONCE as u64 + 1)]);
    }

    #[test]
    fn whoever_needs_it_no_longer_is_passed_over() {
        let mut admission = Admission::default();
        ids(0..3).for_each(|id| admission.want(id));
        let next = admission.next(Instant::now(), |id| id == StreamId(2));
        assert_eq!(next, Some(StreamId(2)));
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut admission = Admission::default();
        ids(0..MAX_WAITING).for_each(|id| {
            assert_eq!(admission.room(), Ok(()));
            admission.want(id);
        });
        assert_eq!(admission.room(), Err(Crowded(DRAINED_WITHIN)));
    }
}
