//! The verdicts, counted per pipeline, with a few examples of each.

use std::{collections::BTreeMap, fmt};

use uuid::Uuid;

use super::{Cause, Explanation};
use crate::publisher::KeyPosition;

/// How many findings of one kind are kept per pipeline.
const EXAMPLES: usize = 5;

/// The verdict on a whole history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// One account per stream, in their order.
    pub pipelines: Vec<PipelineAccount>,
}

/// The verdict on one pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineAccount {
    /// The pipeline.
    pub pipeline: String,
    /// The outbox it reads.
    pub outbox: String,
    /// The numbers.
    pub tally: Tally,
    /// The first few findings of each kind.
    pub findings: Vec<Finding>,
}

/// The numbers of one pipeline, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages committed to the outbox.
    pub committed: usize,
    /// Of these, how many were delivered, however often.
    pub delivered: usize,
    /// Committed and never delivered.
    pub lost: usize,
    /// Delivered and never committed.
    pub phantom: usize,
    /// Delivered as something else than what was committed.
    pub altered: usize,
    /// Delivered out of their key's order.
    pub reordered: usize,
    /// Deliveries of what was delivered before, by cause.
    pub duplicates: BTreeMap<Explanation, usize>,
    /// Deliveries by a former owner, by cause.
    pub stale_epochs: BTreeMap<Explanation, usize>,
    /// Former owners that delivered after a newer one had begun.
    pub overlaps: usize,
    /// Explained duplicates and late deliveries beyond what an owner may have under way.
    pub excess: usize,
}

/// A judgement on one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Never delivered.
    Lost,
    /// Never committed.
    Phantom,
    /// Not what was committed.
    Altered,
    /// Out of order.
    Reordered,
    /// Not the first time.
    Duplicate(Explanation),
    /// From a former owner.
    StaleEpoch(Explanation),
    /// Explained, but more than an owner may have under way.
    Excess,
}

/// A judgement and the message it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The judgement.
    pub verdict: Verdict,
    /// The message.
    pub event_id: Uuid,
    /// Its place in its key's order, if it has one.
    pub position: Option<KeyPosition>,
}

impl Accounts {
    /// The sums over all pipelines.
    pub fn totals(&self) -> Tally {
        self.pipelines
            .iter()
            .fold(Tally::default(), |mut sum, account| {
                sum.add(&account.tally);
                sum
            })
    }

    /// Whether nothing was lost, invented, altered or reordered, and everything irregular is
    /// explained.
    pub fn is_clean(&self) -> bool {
        self.totals().is_clean()
    }

    /// Whether, on top of that, nothing came twice: what a planned change must achieve.
    pub fn is_exactly_once(&self) -> bool {
        let totals = self.totals();
        totals.is_clean() && totals.duplicates.is_empty()
    }
}

impl Tally {
    /// See [`Accounts::is_clean`].
    pub fn is_clean(&self) -> bool {
        let wrong = self.lost + self.phantom + self.altered + self.reordered + self.excess;
        wrong + self.unexplained_duplicates() + self.unexplained_stale_epochs() == 0
    }

    /// All duplicates.
    pub fn duplicates_total(&self) -> usize {
        self.duplicates.values().sum()
    }

    /// Duplicates of one cause.
    pub fn duplicates_because(&self, cause: Cause) -> usize {
        self.duplicates
            .get(&Explanation::Because(cause))
            .copied()
            .unwrap_or(0)
    }

    /// Duplicates that nothing explains.
    pub fn unexplained_duplicates(&self) -> usize {
        self.duplicates
            .get(&Explanation::Unexplained)
            .copied()
            .unwrap_or(0)
    }

    /// Deliveries by a former owner that nothing explains.
    pub fn unexplained_stale_epochs(&self) -> usize {
        self.stale_epochs
            .get(&Explanation::Unexplained)
            .copied()
            .unwrap_or(0)
    }

    fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.phantom += other.phantom;
        self.altered += other.altered;
        self.reordered += other.reordered;
        self.overlaps += other.overlaps;
        self.excess += other.excess;
        for (sums, counts) in [
            (&mut self.duplicates, &other.duplicates),
            (&mut self.stale_epochs, &other.stale_epochs),
        ] {
            for (why, count) in counts {
                *sums.entry(*why).or_default() += count;
            }
        }
    }

    fn count(&mut self, verdict: Verdict) {
        let number = match verdict {
            Verdict::Lost => &mut self.lost,
            Verdict::Phantom => &mut self.phantom,
            Verdict::Altered => &mut self.altered,
            Verdict::Reordered => &mut self.reordered,
            Verdict::Duplicate(why) => self.duplicates.entry(why).or_default(),
            Verdict::StaleEpoch(why) => self.stale_epochs.entry(why).or_default(),
            Verdict::Excess => &mut self.excess,
        };
        *number += 1;
    }
}

impl PipelineAccount {
    pub(super) fn new(pipeline: &str, outbox: &str) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            outbox: outbox.to_owned(),
            tally: Tally::default(),
            findings: Vec::new(),
        }
    }

    pub(super) fn note(
        &mut self,
        verdict: Verdict,
        event_id: Uuid,
        position: Option<&KeyPosition>,
    ) {
        self.tally.count(verdict);
        let alike = self
            .findings
            .iter()
            .filter(|finding| finding.verdict == verdict)
            .count();
        if alike < EXAMPLES {
            self.findings.push(Finding {
                verdict,
                event_id,
                position: position.cloned(),
            });
        }
    }
}

impl fmt::Display for Accounts {
    /// A line per pipeline, a line of totals, and the first findings that are not explained.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for account in &self.pipelines {
            writeln!(
                formatter,
                "{} ({}): {}",
                account.pipeline, account.outbox, account.tally
            )?;
        }
        write!(formatter, "total: {}", self.totals())?;
        for account in &self.pipelines {
            let wrong = account
                .findings
                .iter()
                .filter(|finding| !finding.verdict.is_explained());
            for finding in wrong {
                write!(formatter, "\n  {}: {finding}", account.pipeline)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            committed,
            delivered,
            lost,
            phantom,
            altered,
            reordered,
            ..
        } = self;
        write!(
            formatter,
            "{delivered} of {committed} delivered, {lost} lost, {phantom} phantom, \
             {altered} altered, {reordered} reordered, duplicates "
        )?;
        by_cause(formatter, &self.duplicates)?;
        formatter.write_str(", stale epochs ")?;
        by_cause(formatter, &self.stale_epochs)?;
        if self.overlaps > 0 {
            write!(formatter, " from {} former owners", self.overlaps)?;
        }
        if self.excess > 0 {
            write!(formatter, ", {} more than may be under way", self.excess)?;
        }
        Ok(())
    }
}

impl Verdict {
    fn is_explained(self) -> bool {
        match self {
            Self::Duplicate(why) | Self::StaleEpoch(why) => why != Explanation::Unexplained,
            Self::Lost | Self::Phantom | Self::Altered | Self::Reordered | Self::Excess => false,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => formatter.write_str("lost"),
            Self::Phantom => formatter.write_str("phantom"),
            Self::Altered => formatter.write_str("altered"),
            Self::Reordered => formatter.write_str("reordered"),
            Self::Duplicate(why) => write!(formatter, "duplicate ({why})"),
            Self::StaleEpoch(why) => write!(formatter, "stale epoch ({why})"),
            Self::Excess => formatter.write_str("more than may be under way"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.verdict, self.event_id)?;
        match &self.position {
            Some(position) => write!(formatter, " ({} #{})", position.key, position.sequence),
            None => Ok(()),
        }
    }
}

fn by_cause(
    formatter: &mut fmt::Formatter<'_>,
    counts: &BTreeMap<Explanation, usize>,
) -> fmt::Result {
    write!(formatter, "{}", counts.values().sum::<usize>())?;
    for (index, (why, count)) in counts.iter().enumerate() {
        let opening = if index == 0 { " (" } else { ", " };
        write!(formatter, "{opening}{count} {why}")?;
    }
    formatter.write_str(if counts.is_empty() { "" } else { ")" })
}
