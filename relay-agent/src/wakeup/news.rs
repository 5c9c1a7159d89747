//! Whether an idle pipeline may have something to read.
//!
//! A pipeline last read with a snapshot. What it has not seen is a message of a transaction that
//! the snapshot does not see, and there are two ways for one to come: an id that was drawn since,
//! which moves the outbox's sequence, or a transaction that drew its id before and ends only now.
//! The first is plain from the sequences. Of the second the snapshots say no more than that
//! transactions ended, of anybody: then the outbox is asked whether any of them wrote to it.

use std::time::Duration;

use tide_model::Snapshot;
use tokio::time::Instant;

/// Transactions that drew an id before they drew a transaction id are in nobody's snapshot yet.
/// They commit soon after, so for this long after the last message the outbox is asked soon after
/// every commit anywhere, and later only now and then.
const UNSETTLED: Duration = Duration::from_secs(5);
const UNSETTLED_PACE: Duration = Duration::from_millis(10);
const SETTLED_PACE: Duration = Duration::from_secs(1);

/// What a pipeline waits for.
#[derive(Debug)]
pub(crate) struct Idle {
    /// The outbox it reads.
    pub(crate) outbox: String,
    /// The highest id that had been drawn when it last read, as far as it knew.
    pub(crate) looked: i64,
    /// Every message that this snapshot sees has been read, as far as the outbox has any.
    pub(crate) seen: Snapshot,
    /// When it last read a message.
    pub(crate) last_message: Instant,
    /// When that was last found to be so.
    pub(crate) checked: Instant,
}

/// What the sequences and a new snapshot say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is something to read, or will be in a moment.
    News,
    /// Only the outbox knows.
    Ask,
    /// Nothing has happened, or nothing that is worth a question now.
    Rest,
}

impl Idle {
    /// Whether there is news, if `head` is the highest id drawn and `now` is what can be seen.
    pub(super) fn judge(&self, head: Option<i64>, now: &Snapshot, at: Instant) -> Verdict {
        // The same snapshot sees the same messages.
        if *now == self.seen {
            return Verdict::Rest;
        }
        if head.is_some_and(|head| head > self.looked) {
            return Verdict::News;
        }
        let pace = if at.duration_since(self.last_message) < UNSETTLED {
            UNSETTLED_PACE
        } else {
            SETTLED_PACE
        };
        if self.finished(now).next().is_some() || at.duration_since(self.checked) >= pace {
            Verdict::Ask
        } else {
            Verdict::Rest
        }
    }

    /// Transactions that were in progress and are not any more.
    pub(super) fn finished<'a>(&'a self, now: &'a Snapshot) -> impl Iterator<Item = u64> + 'a {
        let before = self.seen.in_progress().iter().copied();
        before.filter(|xid| now.sees(*xid))
    }

    /// Takes the outbox's answer: `now` sees messages of these transactions in it, among them the
    /// newest and all that [`Self::finished`]. Whether there is news.
    pub(super) fn answered(&mut self, now: &Snapshot, writers: &[u64], at: Instant) -> bool {
        if writers.iter().any(|xid| !self.seen.sees(*xid)) {
            return true;
        }
        self.seen = now.clone();
        self.checked = at;
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn idle(looked: i64, seen: &str, now: Instant) -> Idle {
        Idle {
            outbox: "o".to_owned(),
            looked,
            seen: seen.parse().unwrap(),
            last_message: now,
            checked: now,
        }
    }

    fn judge(idle: &Idle, head: i64, now: &str, at: Instant) -> Verdict {
        idle.judge(Some(head), &now.parse().unwrap(), at)
    }

    #[test]
    fn a_moved_sequence_wakes() {
        let now = Instant::now();
        assert_eq!(
            judge(&idle(4, "10:10:", now), 5, "11:11:", now),
            Verdict::News
        );
        assert_eq!(
            judge(&idle(5, "10:10:", now), 5, "10:10:", now),
            Verdict::Rest
        );
    }

    #[test]
    fn the_end_of_a_transaction_that_was_open_asks_without_a_new_id() {
        let now = Instant::now();
        let mut waiting = idle(5, "10:12:10", now);
        assert_eq!(judge(&waiting, 5, "10:12:10", now), Verdict::Rest);
        assert_eq!(judge(&waiting, 5, "12:12:", now), Verdict::Ask);
        assert!(waiting.answered(&"12:12:".parse().unwrap(), &[10, 11], now));
    }

    #[test]
    fn what_wrote_elsewhere_is_asked_about_once() {
        let now = Instant::now();
        let mut waiting = idle(5, "10:12:10", now);
        let after = "12:12:".parse().unwrap();
        assert!(!waiting.answered(&after, &[9], now));
        assert_eq!(judge(&waiting, 5, "12:12:", now), Verdict::Rest);
        assert_eq!(judge(&waiting, 5, "13:13:", now), Verdict::Rest);
    }

    #[test]
    fn unrelated_commits_are_asked_about_rarely_once_all_is_settled() {
        let start = Instant::now();
        let mut waiting = idle(5, "10:12:10", start);
        waiting.checked = start + UNSETTLED * 2;
        let soon = waiting.checked + UNSETTLED_PACE;
        assert_eq!(judge(&waiting, 5, "10:13:10", soon), Verdict::Rest);
        let later = waiting.checked + SETTLED_PACE;
        assert_eq!(judge(&waiting, 5, "10:13:10", later), Verdict::Ask);
    }

    /// A snapshot between 10 and 20, by what had ended.
    fn snapshot() -> impl Strategy<Value = Snapshot> {
        (10_u64..20, any::<u16>()).prop_map(|(xmax, open)| {
            let open: Vec<_> = (10..xmax)
                .filter(|xid| open >> (xid - 10) & 1 == 1)
                .collect();
            let xmin = open.first().copied().unwrap_or(xmax);
            let list: Vec<String> = open.iter().map(u64::to_string).collect();
            format!("{xmin}:{xmax}:{}", list.join(",")).parse().unwrap()
        })
    }

    /// `later` sees what `seen` saw, and perhaps more.
    fn union(seen: &Snapshot, later: &Snapshot) -> Snapshot {
        let xmax = seen.xmax().max(later.xmax());
        let open: Vec<_> = (10..xmax)
            .filter(|xid| !seen.sees(*xid) && !later.sees(*xid))
            .collect();
        let xmin = open.first().copied().unwrap_or(xmax);
        let list: Vec<String> = open.iter().map(u64::to_string).collect();
        format!("{xmin}:{xmax}:{}", list.join(",")).parse().unwrap()
    }

    proptest! {
        /// Whoever wrote: what a read would find is answered as news, and nothing else is.
        #[test]
        fn the_newest_and_the_finished_tell_all(
            seen in snapshot(),
            later in snapshot(),
            wrote in prop::collection::btree_set(8_u64..20, 0..6),
        ) {
            let now = union(&seen, &later);
            let at = Instant::now();
            let mut waiting = idle(5, "10:10:", at);
            waiting.seen = seen.clone();
            // What the statement in the catalog answers.
            let visible: Vec<u64> = wrote.iter().copied().filter(|xid| now.sees(*xid)).collect();
            let finished: Vec<u64> = waiting.finished(&now).collect();
            let answer: Vec<u64> = visible
                .iter()
                .copied()
                .filter(|xid| finished.contains(xid) || Some(xid) == visible.last())
                .collect();
            let news = visible.iter().any(|xid| !seen.sees(*xid));
            prop_assert_eq!(waiting.answered(&now, &answer, at), news);
        }
    }
}
