//! How far a pipeline got: the snapshot cursor, and how a page of messages moves it.
//!
//! The cursor `(high, S)` says: delivered is every message with `id <= high` that snapshot `S`
//! could see. What is left falls into two halves,
//!
//! - **late**: `id <= high`, written by a transaction that `S` could not see, and
//! - **new**: `id > high`.
//!
//! One read takes both halves under one snapshot `S'` and yields `(max id, S')`. Late messages
//! come first because their ids are lower. When there are more late ones than fit into a page the
//! cursor starts a [`Pass`]: it fixes its target `T = S'` and pages by id through "visible in `T`,
//! not in `S`", and only then becomes `(high, T)`. New messages wait for the end of the pass: they
//! were written after every late one of their key that `T` could see, so order per key holds.
//!
//! After a dump and restore, transaction ids of the rows belong to another cluster. The cursor
//! then delivers what its old snapshot had not seen below `high`, settles everything up to a
//! `floor`, and goes on with snapshots of the new cluster (see [`Cursor::rebased`]).
//!
//! When a pipeline gets another number of shards, each new shard begins in a pass whose `S` is not
//! one snapshot but one position of each former shard ([`Origin`]): what is left for it, up to the
//! highest of them, is what its messages' former shards had not delivered. All messages of a key
//! come from one former shard, so they are still delivered in the order of their commits.

use serde::{Deserialize, Serialize};

use crate::Snapshot;

/// Position of a pipeline in its outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The highest message id delivered; 0 before the first.
    pub high: i64,
    /// The snapshot in which everything up to `high` was delivered; none before the first read.
    pub snapshot: Option<Snapshot>,
    /// Where a pass over many late messages stands.
    pub pass: Option<Pass>,
    /// Messages at or below were settled before a restore and are never late again.
    pub floor: i64,
    /// Where the shards of the former layout stood, first to last, while their rest is delivered;
    /// empty otherwise.
    pub origins: Vec<Origin>,
}

/// Where one shard of a former layout stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The highest message id delivered.
    pub high: i64,
    /// The snapshot in which everything up to `high` was delivered; none before the first read.
    pub snapshot: Option<Snapshot>,
    /// The snapshot that a pass was about to deliver, if there was one.
    pub pass_target: Option<Snapshot>,
    /// How far it had come.
    pub pass_position: Option<i64>,
}

/// A pass over more late messages than one page holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// The snapshot that the pass delivers completely.
    pub target: Snapshot,
    /// The highest late id delivered in this pass.
    pub position: i64,
}

impl Cursor {
    /// Before the first message of an outbox.
    pub fn beginning() -> Self {
        Self {
            high: 0,
            snapshot: None,
            pass: None,
            floor: 0,
            origins: Vec::new(),
        }
    }

    /// After a read of both halves under `seen` that returned every late message, and new ones up
    /// to `last` (none if nothing was new).
    #[must_use]
    pub fn advanced(&self, last: Option<i64>, seen: Snapshot) -> Self {
        let high = last.map_or(self.high, |last| last.max(self.high));
        Self {
            high,
            snapshot: Some(seen),
            pass: None,
            floor: self.floor,
            origins: Vec::new(),
        }
    }

    /// After a page of a pass towards `target` that ended at `position` and left more behind.
    #[must_use]
    pub fn passing(&self, position: i64, target: Snapshot) -> Self {
        Self {
            pass: Some(Pass { target, position }),
            ..self.clone()
        }
    }

    /// After the last page of a pass: everything up to `high` that its target sees is delivered.
    #[must_use]
    pub fn passed(&self) -> Self {
        let snapshot = self
            .pass
            .as_ref()
            .map(|pass| pass.target.clone())
            .or(self.snapshot.clone());
        Self {
            high: self.high,
            snapshot,
            pass: None,
            floor: self.floor,
            origins: Vec::new(),
        }
    }

    /// After a restore into another cluster, once all that `snapshot` had not seen is delivered:
    /// keep `high`, go on from `seen`, and never look at or below `floor` for late messages.
    #[must_use]
    pub fn rebased(&self, floor: i64, seen: Snapshot) -> Self {
        Self {
            high: self.high,
            snapshot: Some(seen),
            pass: None,
            floor,
            origins: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn a_read_without_news_still_moves_the_snapshot() {
        let cursor = Cursor::beginning().advanced(Some(7), snapshot("5:5:"));
        let later = cursor.advanced(None, snapshot("9:9:"));
        assert_eq!((later.high, later.snapshot), (7, Some(snapshot("9:9:"))));
    }

    #[test]
    fn late_messages_never_lower_the_high_mark() {
        let cursor = Cursor::beginning().advanced(Some(7), snapshot("5:5:"));
        assert_eq!(cursor.advanced(Some(3), snapshot("9:9:")).high, 7);
    }

    #[test]
    fn a_pass_ends_in_its_target_not_in_what_came_later() {
        let cursor = Cursor::beginning().advanced(Some(100), snapshot("5:5:"));
        let passing = cursor
            .passing(10, snapshot("9:9:"))
            .passing(20, snapshot("9:9:"));
        assert_eq!(passing.snapshot, Some(snapshot("5:5:")));
        let done = passing.passed();
        assert_eq!(
            (done.high, done.snapshot, done.pass),
            (100, Some(snapshot("9:9:")), None)
        );
    }
}
