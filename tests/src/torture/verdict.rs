//! What a run came to. Pure.

use std::fmt;

use tide_sandbox::history::{Accounts, PositionOffence, Tenures, check_by_tenure, check_positions};

pub use super::settle::Record;

/// How many offences are shown.
const SHOWN: usize = 10;

/// Everything that was found.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Messages committed, rolled back on purpose, and transactions interrupted.
    pub published: [usize; 3],
    /// What arrived.
    pub accounts: Accounts,
    /// How often a pipeline was claimed.
    pub claims: usize,
    /// How often a position was written.
    pub positions: usize,
    /// Writes of positions that must not have been.
    pub offences: Vec<PositionOffence>,
    /// Agents that ended for no reason of ours, or not in good order.
    pub deserters: Vec<String>,
    /// What was missing when patience ended.
    pub stuck: Option<String>,
}

/// Judges a run.
pub fn judge(record: &Record) -> Verdict {
    let tenures = Tenures::of(&record.positions);
    Verdict {
        published: [
            record.published.len(),
            record.rolled_back,
            record.interrupted,
        ],
        accounts: check_by_tenure(
            &record.published,
            &record.streams,
            &record.disturbances,
            &tenures,
        ),
        claims: tenures.count(),
        positions: record.positions.len(),
        offences: check_positions(&record.positions),
        deserters: record.deserters.clone(),
        stuck: record.stuck.clone(),
    }
}

impl Verdict {
    /// Whether no promise was broken.
    pub fn is_clean(&self) -> bool {
        self.accounts.is_clean()
            && self.offences.is_empty()
            && self.deserters.is_empty()
            && self.stuck.is_none()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [committed, rolled_back, interrupted] = self.published;
        writeln!(
            formatter,
            "published {committed}, rolled back {rolled_back}, interrupted transactions {interrupted}"
        )?;
        writeln!(formatter, "{}", self.accounts)?;
        writeln!(
            formatter,
            "claims {}, overlaps {}, positions written {}, of these wrong {}",
            self.claims,
            self.accounts.totals().overlaps,
            self.positions,
            self.offences.len()
        )?;
        for offence in self.offences.iter().take(SHOWN) {
            writeln!(formatter, "  {offence}")?;
        }
        for deserter in &self.deserters {
            writeln!(formatter, "  {deserter}")?;
        }
        if let Some(stuck) = &self.stuck {
            writeln!(formatter, "  never delivered: {stuck}")?;
        }
        formatter.write_str(if self.is_clean() {
            "verdict: every promise was kept"
        } else {
            "verdict: A PROMISE WAS BROKEN"
        })
    }
}
