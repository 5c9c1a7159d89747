//! What was found out and what was said of it: pure, with the time as an argument.

use std::{collections::BTreeMap, time::Duration};

use tide_model::UnitName;
use tokio::time::Instant;

use crate::sink::Probe;

/// A sink that fails is unreachable after so long without any answer: restarts of brokers are over by
/// then, and so are most of their failovers.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// For so long it counts. It bounds how often others are bothered with a sink that nobody reaches, and
/// how long an agent is left out that could reach it again and has no occasion to see it.
pub(super) const COUNTS_FOR: Duration = Duration::from_mins(10);

/// A sink that was not reached.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// The configuration that it was found with.
    pub(super) revision: i64,
    /// Whether we had the unit.
    pub(super) owned: bool,
    /// What was met instead.
    pub(super) reason: String,
    /// Of one whose address does not answer, where to look for that again.
    pub(super) probe: Option<Probe>,
}

/// What is to be said of a unit.
#[derive(Debug, Clone)]
pub(super) enum Word {
    /// Its sink has not been reached since then.
    Unreached(Failure, Instant),
    /// It is reached after all.
    Reached,
}

/// Who only looks takes its word back after so long in which it found the sink whenever it looked. An
/// owner's next attempt comes sooner: after an outage that was everybody's it delivers before anybody
/// else offers to, and nothing moves.
pub(super) const CONFIRMED: Duration = Duration::from_secs(45);

/// After so long without an attempt one that fails is the first: attempts of a worker come more often.
const FORGOTTEN: Duration = Duration::from_mins(2);

/// Attempts that failed, and nothing else in between.
#[derive(Debug, Clone, Copy)]
struct Streak {
    revision: i64,
    since: Instant,
    last: Instant,
}

#[derive(Debug)]
struct Mark {
    failure: Failure,
    until: Instant,
    /// Since when whoever only looks has found the sink.
    found: Option<Instant>,
}

impl Streak {
    fn is_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.last) < FORGOTTEN
    }
}

/// Everything that this run has found out.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Units that have not reached their sinks for some time.
    failing: BTreeMap<UnitName, Streak>,
    /// What others are to go by.
    marks: BTreeMap<UnitName, Mark>,
    /// What they do not know yet.
    unsaid: BTreeMap<UnitName, Word>,
}

impl Ledger {
    /// Whether there is anything that a sink which is reached could change.
    pub(super) fn is_empty(&self) -> bool {
        self.failing.is_empty() && self.marks.is_empty()
    }

    /// An attempt did not reach the sink. Counts once that has gone on for long enough.
    pub(super) fn failed(&mut self, unit: &UnitName, failure: Failure, now: Instant) {
        let revision = failure.revision;
        let goes_on = |streak: &&Streak| streak.revision == revision && streak.is_fresh(now);
        let before = self.failing.get(unit).filter(goes_on);
        let since = before.map_or(now, |streak| streak.since);
        let streak = Streak {
            revision,
            since,
            last: now,
        };
        self.failing.insert(unit.clone(), streak);
        if now.duration_since(since) >= PATIENCE {
            self.mark(unit, failure, since, now);
        }
    }

    /// The sink was looked for before we took the unit, and not found. Counts at once: whoever has it
    /// may keep it.
    pub(super) fn refused(&mut self, unit: &UnitName, failure: Failure, now: Instant) {
        self.mark(unit, failure, now, now);
    }

    /// The unit's owner reached the sink.
    pub(super) fn reached(&mut self, unit: &UnitName) {
        self.failing.remove(unit);
        if self.marks.remove(unit).is_some() {
            self.unsaid.insert(unit.clone(), Word::Reached);
        }
    }

    /// Somebody looked who does not have the unit, and found the sink, or did not.
    pub(super) fn looked(&mut self, unit: &UnitName, found: bool, now: Instant) {
        if found {
            self.failing.remove(unit);
        }
        if let Some(mark) = self.marks.get_mut(unit) {
            mark.found = found.then(|| mark.found.unwrap_or(now));
        }
    }

    /// Nobody tries it any more.
    pub(super) fn let_go(&mut self, unit: &UnitName) {
        self.failing.remove(unit);
    }

    /// Whether others go by it that we do not reach the sink of this configuration.
    pub(super) fn is_marked(&self, unit: &UnitName, revision: i64, now: Instant) -> bool {
        let counts = |mark: &Mark| mark.failure.revision == revision && now < mark.until;
        self.marks.get(unit).is_some_and(counts)
    }

    /// Takes back what is settled, drops what counts no longer, and says where to look again and for
    /// whom. What an owner has found out is neither asked of an address nor taken back for one.
    pub(super) fn tidy(&mut self, now: Instant) -> BTreeMap<Probe, Vec<UnitName>> {
        self.marks.retain(|_, mark| now < mark.until);
        self.failing.retain(|_, streak| streak.is_fresh(now));
        let settled = |mark: &Mark| {
            let found = mark.found.filter(|_| !mark.failure.owned);
            found.is_some_and(|found| now.duration_since(found) >= CONFIRMED)
        };
        for (unit, _) in self.marks.extract_if(.., |_, mark| settled(mark)) {
            self.unsaid.insert(unit, Word::Reached);
        }
        let mut looks: BTreeMap<Probe, Vec<UnitName>> = BTreeMap::new();
        for (unit, mark) in &self.marks {
            if let Some(probe) = &mark.failure.probe {
                looks.entry(probe.clone()).or_default().push(unit.clone());
            }
        }
        looks
    }

    /// Whether there is anything to say.
    pub(super) fn has_news(&self) -> bool {
        !self.unsaid.is_empty()
    }

    /// What is to be said now.
    pub(super) fn take(&mut self) -> BTreeMap<UnitName, Word> {
        std::mem::take(&mut self.unsaid)
    }

    /// What could not be said waits again, unless something newer has come up.
    pub(super) fn put_back(&mut self, words: BTreeMap<UnitName, Word>) {
        for (unit, word) in words {
            self.unsaid.entry(unit).or_insert(word);
        }
    }

    fn mark(&mut self, unit: &UnitName, failure: Failure, since: Instant, now: Instant) {
        let known = self.marks.get(unit);
        let says_it = |mark: &Mark| {
            mark.failure.revision == failure.revision
                && now < mark.until
                && (mark.failure.owned || !failure.owned)
        };
        if known.is_some_and(says_it) {
            return;
        }
        self.unsaid
            .insert(unit.clone(), Word::Unreached(failure.clone(), since));
        let until = now + COUNTS_FOR;
        let mark = Mark {
            failure,
            until,
            found: None,
        };
        self.marks.insert(unit.clone(), mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> UnitName {
        "orders".parse().unwrap()
    }

    fn failure(revision: i64, owned: bool) -> Failure {
        Failure {
            revision,
            owned,
            reason: "refused".to_owned(),
            probe: None,
        }
    }

    /// What the ledger wants said, in a word.
    fn said(ledger: &mut Ledger) -> Option<bool> {
        let word = ledger.take().remove(&unit())?;
        Some(matches!(word, Word::Unreached(..)))
    }

    #[test]
    fn an_owner_s_failures_count_when_nothing_else_came_of_ten_seconds() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..10 {
            ledger.failed(&unit(), failure(1, true), at(second));
        }
        assert_eq!(said(&mut ledger), None);
        // Once it answers the count begins anew, and so with another configuration.
        ledger.reached(&unit());
        ledger.failed(&unit(), failure(1, true), at(10));
        ledger.failed(&unit(), failure(2, true), at(19));
        ledger.failed(&unit(), failure(2, true), at(28));
        assert_eq!(said(&mut ledger), None);
        // And after a time in which nobody tried.
        ledger.failed(&unit(), failure(2, true), at(200));
        assert_eq!(said(&mut ledger), None);
        ledger.failed(&unit(), failure(2, true), at(210));
        assert_eq!(said(&mut ledger), Some(true));
        assert!(ledger.is_marked(&unit(), 2, at(210)));
        assert!(!ledger.is_marked(&unit(), 3, at(210)));
    }

    #[test]
    fn it_is_said_once_and_again_when_it_counts_no_longer() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let minutes = |number| start + Duration::from_mins(number);
        ledger.failed(&unit(), failure(1, true), start);
        for minute in 1..11 {
            ledger.failed(&unit(), failure(1, true), minutes(minute));
            assert_eq!(said(&mut ledger), (minute == 1).then_some(true), "{minute}");
            ledger.tidy(minutes(minute));
        }
        ledger.failed(&unit(), failure(1, true), minutes(11));
        assert_eq!(said(&mut ledger), Some(true));
        ledger.reached(&unit());
        assert_eq!(said(&mut ledger), Some(false));
        ledger.reached(&unit());
        assert_eq!(said(&mut ledger), None);
        assert!(ledger.is_empty());
    }

    #[test]
    fn who_looks_says_it_at_once_and_takes_it_back_when_that_is_settled() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        ledger.refused(&unit(), failure(1, false), start);
        assert_eq!(said(&mut ledger), Some(true));
        for (second, found) in [(10, true), (20, false), (30, true), (70, true)] {
            ledger.looked(&unit(), found, at(second));
            ledger.tidy(at(second));
            assert_eq!(said(&mut ledger), None, "{second}");
        }
        ledger.tidy(at(75));
        assert_eq!(said(&mut ledger), Some(false));
        assert!(!ledger.is_marked(&unit(), 1, at(75)));
    }

    #[test]
    fn who_looks_takes_nothing_back_that_an_owner_said() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        ledger.refused(&unit(), failure(1, false), start);
        assert_eq!(said(&mut ledger), Some(true));
        // It got the unit all the same, and cannot deliver.
        ledger.failed(&unit(), failure(1, true), start);
        ledger.failed(&unit(), failure(1, true), at(10));
        assert_eq!(said(&mut ledger), Some(true));
        ledger.let_go(&unit());
        ledger.looked(&unit(), true, at(11));
        ledger.refused(&unit(), failure(1, false), at(12));
        ledger.tidy(at(100));
        assert_eq!(said(&mut ledger), None);
        assert!(ledger.is_marked(&unit(), 1, at(100)));
    }

    #[test]
    fn what_could_not_be_said_waits_for_its_turn() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.refused(&unit(), failure(1, false), now);
        let words = ledger.take();
        ledger.reached(&unit());
        ledger.put_back(words);
        assert_eq!(said(&mut ledger), Some(false), "the newer word counts");
        assert!(ledger.tidy(now).is_empty());
    }
}
