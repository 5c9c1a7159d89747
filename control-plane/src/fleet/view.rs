//! One picture of the fleet, which never changes, and what is different since an earlier one.
//!
//! Rows are shared between pictures, so the next one costs what has changed and a pointer for the
//! rest. Each row remembers under which revision it last changed: whoever was shown everything up to
//! some revision is told of newer rows only, and nobody has to remember what was shown to whom. A
//! watcher that reads slowly, or comes back later, costs a few numbers.

use std::{collections::VecDeque, sync::Arc};

use tide_model::{
    GroupName,
    fleet::{AgentView, Coverage, PipelineView},
};
use time::OffsetDateTime;

/// How many removals are remembered, for those who come back.
const REMOVALS: usize = 10_000;

/// The fleet at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) group: GroupName,
    /// Grows with every picture that differs from the one before.
    pub(crate) revision: u64,
    pub(crate) agents: Rows<AgentView>,
    pub(crate) pipelines: Rows<PipelineView>,
    pub(crate) database_at: OffsetDateTime,
    pub(crate) warnings: Arc<[String]>,
    pub(crate) coverage: Coverage,
}

/// Rows of one kind, in the database's order.
#[derive(Debug, Clone)]
pub(crate) struct Rows<T> {
    items: Vec<Arc<T>>,
    /// The revision under which each last changed.
    changed: Vec<u64>,
    /// The revision under which rows last came, went or changed places.
    layout: u64,
    removals: Arc<Removals>,
}

/// Names of what is gone, with the revision under which it went.
#[derive(Debug, Clone, Default)]
struct Removals {
    names: VecDeque<(u64, String)>,
    /// Removals up to this revision are forgotten.
    forgotten: u64,
}

/// Names of what is gone since a revision.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone<'a> {
    pub(crate) agents: Vec<&'a str>,
    pub(crate) pipelines: Vec<&'a str>,
}

impl View {
    /// What is gone since a revision; none if what changed since then cannot be told any more.
    pub(crate) fn gone_since(&self, revision: u64) -> Option<Gone<'_>> {
        if revision > self.revision {
            return None;
        }
        Some(Gone {
            agents: self.agents.removed_since(revision)?,
            pipelines: self.pipelines.removed_since(revision)?,
        })
    }

    /// The revision under which places last changed: what was read up to some place before must be
    /// read again from the first.
    pub(crate) fn layout(&self) -> u64 {
        self.agents.layout.max(self.pipelines.layout)
    }

    /// Enabled pipelines that nobody owns.
    pub(crate) fn unowned(&self) -> usize {
        let unowned = |pipeline: &&PipelineView| pipeline.enabled && pipeline.owner.is_none();
        self.pipelines.iter().filter(unowned).count()
    }
}

impl<T> Rows<T> {
    /// These rows, all of them new under a revision.
    pub(super) fn new(rows: Vec<Arc<T>>, revision: u64) -> Self {
        Self {
            changed: vec![revision; rows.len()],
            layout: revision,
            items: rows,
            removals: Arc::default(),
        }
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &T> {
        self.items.iter().map(|row| &**row)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Arc<T>> {
        self.items.get(index)
    }

    /// Under which revision a row last changed.
    pub(super) fn changed(&self, index: usize) -> u64 {
        self.changed.get(index).copied().unwrap_or_default()
    }

    /// Replaces a row, if the new one is different. Whether it is.
    pub(super) fn set(&mut self, index: usize, row: T, revision: u64) -> bool
    where
        T: PartialEq,
    {
        let (Some(old), Some(changed)) = (self.items.get_mut(index), self.changed.get_mut(index))
        else {
            return false;
        };
        let news = **old != row;
        if news {
            *old = Arc::new(row);
            *changed = revision;
        }
        news
    }

    /// Replaces all rows by others, each with the revision under which it last changed.
    pub(super) fn replace(&mut self, rows: Vec<(Arc<T>, u64)>) {
        (self.items, self.changed) = rows.into_iter().unzip();
    }

    /// Rows have come, gone or changed places; notes the names of those that are gone.
    pub(super) fn laid_out(&mut self, gone: impl IntoIterator<Item = String>, revision: u64) {
        self.layout = revision;
        for name in gone {
            Arc::make_mut(&mut self.removals).note(name, revision);
        }
    }

    /// At most so many rows that changed since a revision, or all rows, from a place on; and the place
    /// to go on from, if that was not the end.
    pub(crate) fn part(
        &self,
        since: Option<u64>,
        from: usize,
        at_most: usize,
    ) -> (Vec<&T>, Option<usize>) {
        let mut part = Vec::new();
        for (place, changed) in self.changed.iter().enumerate().skip(from) {
            if since.is_some_and(|since| *changed <= since) {
                continue;
            }
            if part.len() == at_most {
                return (part, Some(place));
            }
            part.extend(self.items.get(place).map(|row| &**row));
        }
        (part, None)
    }

    fn removed_since(&self, revision: u64) -> Option<Vec<&str>> {
        if revision < self.removals.forgotten {
            return None;
        }
        let newer = self.removals.names.iter().rev();
        let newer = newer.take_while(|(removed, _)| *removed > revision);
        Some(newer.map(|(_, name)| name.as_str()).collect())
    }
}

impl Removals {
    fn note(&mut self, name: String, revision: u64) {
        self.names.push_back((revision, name));
        if self.names.len() > REMOVALS
            && let Some((revision, _)) = self.names.pop_front()
        {
            self.forgotten = revision;
        }
    }
}

#[cfg(test)]
impl View {
    /// A view of these pipelines, each with the revision under which it last changed.
    pub(crate) fn of_pipelines(rows: Vec<(Arc<PipelineView>, u64)>, revision: u64) -> Self {
        let mut pipelines = Rows::new(Vec::new(), 0);
        pipelines.replace(rows);
        Self {
            group: "default".parse().unwrap(),
            revision,
            agents: Rows::new(Vec::new(), 0),
            pipelines,
            database_at: OffsetDateTime::UNIX_EPOCH,
            warnings: Arc::default(),
            coverage: Coverage::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_told_until_they_are_forgotten() {
        let mut rows: Rows<u8> = Rows::new(vec![Arc::new(1), Arc::new(2)], 1);
        rows.laid_out(["1".to_owned()], 5);
        assert_eq!(rows.removed_since(4), Some(vec!["1"]));
        assert_eq!(rows.removed_since(5), Some(vec![]));
        let many = (0..REMOVALS).map(|number| format!("n{number}"));
        rows.laid_out(many, 9);
        assert_eq!(rows.removals.names.len(), REMOVALS);
        assert_eq!(rows.removed_since(4), None, "one of 5 is forgotten");
        assert_eq!(
            rows.removed_since(5).map(|names| names.len()),
            Some(REMOVALS)
        );
    }

    #[test]
    fn what_is_the_same_is_no_change() {
        let mut rows: Rows<u8> = Rows::new(vec![Arc::new(1), Arc::new(2)], 1);
        assert!(!rows.set(0, 1, 2));
        assert!(rows.set(1, 3, 2));
        assert!(!rows.set(7, 3, 2), "there is none");
        assert_eq!(rows.part(Some(1), 0, 9), (vec![&3], None));
        assert_eq!(rows.part(Some(2), 0, 9), (vec![], None));
        assert_eq!(rows.part(None, 0, 1), (vec![&1], Some(1)));
        assert_eq!(rows.part(None, 1, 1), (vec![&3], None));
    }
}
