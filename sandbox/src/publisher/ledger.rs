//! The account of what was committed.

use std::collections::BTreeMap;

use uuid::Uuid;

/// One committed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The outbox it was published to.
    pub outbox: String,
    /// Its identity, drawn by the publisher.
    pub event_id: Uuid,
    /// Its place in the order of its key; `None` if it has no key.
    pub position: Option<KeyPosition>,
}

/// A place in the commit order of one key of one outbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPosition {
    /// The key.
    pub key: String,
    /// Counts its committed messages from 0, without gaps, over all publishers of a database.
    pub sequence: i64,
}

/// Everything a publisher committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The plan's seed.
    pub seed: u64,
    /// What was committed, in no particular order.
    pub entries: Vec<Entry>,
    /// How many messages were rolled back on purpose.
    pub rolled_back: usize,
    /// How many transactions were given up because the server or the connection went away.
    pub interrupted: usize,
}

impl Ledger {
    /// The committed messages of one outbox.
    pub fn of_outbox<'a>(&'a self, outbox: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries
            .iter()
            .filter(move |entry| entry.outbox == outbox)
    }

    /// How many messages each outbox got.
    pub fn counts(&self) -> BTreeMap<&str, usize> {
        self.entries
            .iter()
            .fold(BTreeMap::new(), |mut counts, entry| {
                *counts.entry(&*entry.outbox).or_default() += 1;
                counts
            })
    }
}

/// The account as it is being written.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) committed: Vec<Entry>,
    pub(super) unknown: Vec<Unknown>,
    pub(super) rolled_back: usize,
    pub(super) interrupted: usize,
    /// Why publishing cannot work at all.
    pub(super) refusal: Option<String>,
}

/// A transaction whose commit was asked for and not answered.
#[derive(Debug, Clone)]
pub(super) struct Unknown {
    pub(super) mark: Mark,
    pub(super) entries: Vec<Entry>,
}

/// Names a transaction, before the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) id: Uuid,
    pub(super) phases: Phases,
}

/// How a transaction is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phases {
    One,
    Two,
}

impl Book {
    /// Moves a transaction out of the unknown ones, if it is still there.
    pub(super) fn resolve(&mut self, id: Uuid, verdict: Verdict) {
        let Some(index) = self
            .unknown
            .iter()
            .position(|unknown| unknown.mark.id == id)
        else {
            return;
        };
        let unknown = self.unknown.swap_remove(index);
        match verdict {
            Verdict::Committed => self.committed.extend(unknown.entries),
            Verdict::RolledBack => {}
        }
    }

    pub(super) fn ledger(&self, seed: u64) -> Ledger {
        Ledger {
            seed,
            entries: self.committed.clone(),
            rolled_back: self.rolled_back,
            interrupted: self.interrupted,
        }
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Committed,
    RolledBack,
}
