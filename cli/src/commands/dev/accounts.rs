//! What the tour came to: what was published and delivered, what went wrong, and how long
//! pipelines stood still. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use tide_model::UnitName;
use tide_sandbox::history::{Accounts, Explanation, Finding, Tally, Verdict};

use super::story::Line;

/// How long one pipeline stood still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) pipeline: UnitName,
    pub(super) took: Duration,
}

/// Median and worst of some gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spread {
    pub(super) median: Duration,
    pub(super) worst: Duration,
}

/// Everything that is known at the end of a tour.
#[derive(Debug)]
pub(super) struct TourReport {
    pub(super) seed: u64,
    /// Messages committed to all outboxes.
    pub(super) published: usize,
    pub(super) accounts: Accounts,
    /// Pipelines whose deliveries nobody can read back; their positions reached the end.
    pub(super) unread: BTreeSet<UnitName>,
    /// From the kill to the next delivery.
    pub(super) crashes: Vec<Gap>,
    /// From the freeze to the next delivery.
    pub(super) freezes: Vec<Gap>,
    pub(super) lease: Duration,
    pub(super) elapsed: Duration,
    pub(super) lines: Vec<Line>,
}

/// A judgement that no cause excuses, and the pipeline it is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offence<'a> {
    pub(super) pipeline: &'a str,
    pub(super) finding: &'a Finding,
}

impl Spread {
    /// Of no gaps, zeros.
    pub(super) fn of(gaps: &[Gap]) -> Self {
        let mut times: Vec<Duration> = gaps.iter().map(|gap| gap.took).collect();
        times.sort_unstable();
        // The nearest rank: a gap that was measured, not one between two.
        let middle = times.len().div_ceil(2).saturating_sub(1);
        Self {
            median: times.get(middle).copied().unwrap_or_default(),
            worst: times.last().copied().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} median, {} worst",
            milliseconds(self.median),
            milliseconds(self.worst)
        )
    }
}

impl TourReport {
    /// Whether nothing was lost, invented, altered or reordered, and all that came twice or late
    /// did so because of what was done to an agent.
    pub(super) fn is_clean(&self) -> bool {
        self.accounts.is_clean()
    }

    /// The sums over all pipelines.
    pub(super) fn totals(&self) -> Tally {
        self.accounts.totals()
    }

    /// The first few judgements of each kind that nothing excuses.
    pub(super) fn offences(&self) -> Vec<Offence<'_>> {
        let all = self.accounts.pipelines.iter().flat_map(|account| {
            account.findings.iter().map(|finding| Offence {
                pipeline: &account.pipeline,
                finding,
            })
        });
        all.filter(|offence| !is_excused(offence.finding.verdict))
            .collect()
    }
}

fn is_excused(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Lost
        | Verdict::Phantom
        | Verdict::Altered
        | Verdict::Reordered
        | Verdict::Excess => false,
        Verdict::Duplicate(why) | Verdict::StaleEpoch(why) => why != Explanation::Unexplained,
    }
}

/// `37 (12 crash, 25 freeze)`, or `0`.
pub(super) fn by_cause(counts: &BTreeMap<Explanation, usize>) -> String {
    let total: usize = counts.values().sum();
    let causes: Vec<String> = counts
        .iter()
        .map(|(why, count)| format!("{why} {count}"))
        .collect();
    if causes.is_empty() {
        total.to_string()
    } else {
        format!("{total} ({})", causes.join(", "))
    }
}

/// `38 ms`, `2.05 s`: times that are compared with each other, so never rounded to a word.
pub(super) fn milliseconds(time: Duration) -> String {
    match time.as_millis() {
        0 if !time.is_zero() => "1 ms".to_owned(),
        short @ ..1_000 => format!("{short} ms"),
        long => format!("{}.{:02} s", long / 1_000, long % 1_000 / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(milliseconds: &[u64]) -> Vec<Gap> {
        let gap = |ms: &u64| Gap {
            pipeline: "p".parse().unwrap(),
            took: Duration::from_millis(*ms),
        };
        milliseconds.iter().map(gap).collect()
    }

    #[test]
    fn a_spread_is_made_of_what_was_measured() {
        let spread = |times: &[u64]| Spread::of(&gaps(times)).to_string();
        assert_eq!(spread(&[61, 20, 38]), "38 ms median, 61 ms worst");
        assert_eq!(spread(&[5, 40, 30, 20]), "20 ms median, 40 ms worst");
        assert_eq!(spread(&[2_051]), "2.05 s median, 2.05 s worst");
        assert_eq!(spread(&[]), "0 ms median, 0 ms worst");
    }

    #[test]
    fn times_keep_their_milliseconds() {
        for (microseconds, text) in [
            (0, "0 ms"),
            (3, "1 ms"),
            (38_900, "38 ms"),
            (999_999, "999 ms"),
            (1_000_000, "1.00 s"),
        ] {
            assert_eq!(milliseconds(Duration::from_micros(microseconds)), text);
        }
    }

    #[test]
    fn counts_name_their_causes() {
        use tide_sandbox::history::Cause;
        let counts = BTreeMap::from([
            (Explanation::Because(Cause::Crash), 12),
            (Explanation::Because(Cause::Freeze), 25),
        ]);
        assert_eq!(by_cause(&counts), "37 (crash 12, freeze 25)");
        assert_eq!(by_cause(&BTreeMap::new()), "0");
    }
}
