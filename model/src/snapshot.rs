//! A PostgreSQL transaction snapshot: which transactions a read could see.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// `xmin:xmax:xip_list` as `pg_current_snapshot()` prints it.
///
/// A transaction is visible in it when its id is below `xmax` and not in `in_progress`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

/// Text that is not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a transaction snapshot (xmin:xmax:xip,...)")]
pub struct InvalidSnapshot(String);

impl Snapshot {
    /// The snapshot that sees nothing.
    pub fn empty() -> Self {
        Self {
            xmin: 0,
            xmax: 0,
            in_progress: Vec::new(),
        }
    }

    /// The first transaction id that had not been assigned, or not completed, when it was taken.
    pub fn xmax(&self) -> u64 {
        self.xmax
    }

    /// The oldest transaction that was still in progress.
    pub fn xmin(&self) -> u64 {
        self.xmin
    }

    /// Transactions below `xmax` that were still in progress, ascending.
    pub fn in_progress(&self) -> &[u64] {
        &self.in_progress
    }

    /// Whether a row written by transaction `xid` was visible.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmax && self.in_progress.binary_search(&xid).is_err()
    }
}

impl TryFrom<String> for Snapshot {
    type Error = InvalidSnapshot;

    fn try_from(text: String) -> Result<Self, InvalidSnapshot> {
        text.parse()
    }
}

impl From<Snapshot> for String {
    fn from(snapshot: Snapshot) -> Self {
        snapshot.to_string()
    }
}

impl FromStr for Snapshot {
    type Err = InvalidSnapshot;

    fn from_str(text: &str) -> Result<Self, InvalidSnapshot> {
        let parse = || {
            let mut parts = text.splitn(3, ':');
            let xmin = parts.next()?.parse().ok()?;
            let xmax = parts.next()?.parse().ok()?;
            let mut in_progress = parts
                .next()?
                .split(',')
                .filter(|xid| !xid.is_empty())
                .map(str::parse)
                .collect::<Result<Vec<u64>, _>>()
                .ok()?;
            in_progress.sort_unstable();
            (xmin <= xmax).then_some(Self {
                xmin,
                xmax,
                in_progress,
            })
        };
        parse().ok_or_else(|| InvalidSnapshot(text.to_owned()))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (index, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_parsed() {
        for text in ["10:10:", "10:20:10,14,15", "748293:748295:748293"] {
            assert_eq!(text.parse::<Snapshot>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn sees_completed_transactions_only() {
        let snapshot: Snapshot = "10:20:10,14".parse().unwrap();
        assert!(snapshot.sees(9) && snapshot.sees(11) && snapshot.sees(19));
        assert!(!snapshot.sees(10) && !snapshot.sees(14) && !snapshot.sees(20));
    }

    #[test]
    fn refuses_other_text() {
        for text in ["", "1:2", "a:b:", "5:4:", "1:2:x"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }
}
