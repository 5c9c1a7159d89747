//! Places in a JSON value, as a tree: what is to be found at each, or on the way to it.

use std::collections::BTreeMap;

/// One place, and the places within it.
#[derive(Debug, Clone)]
pub(super) struct Branch<T> {
    /// What is at this place. Nothing is within it then.
    pub(super) here: Option<T>,
    /// Members of an object.
    pub(super) names: BTreeMap<String, Branch<T>>,
    /// Elements of an array.
    pub(super) indexes: BTreeMap<usize, Branch<T>>,
    /// All elements of an array. There are no `indexes` then.
    pub(super) every: Option<Box<Branch<T>>>,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Name(String),
    Index(usize),
    Every,
}

/// Two paths of which one leads through or to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overlap;

impl<T> Default for Branch<T> {
    fn default() -> Self {
        Self {
            here: None,
            names: BTreeMap::new(),
            indexes: BTreeMap::new(),
            every: None,
        }
    }
}

impl<T> Branch<T> {
    /// Whether there is nothing here or within.
    pub(super) fn is_empty(&self) -> bool {
        self.here.is_none() && !self.has_within()
    }

    fn has_within(&self) -> bool {
        !self.names.is_empty() || !self.indexes.is_empty() || self.every.is_some()
    }

    /// Adds a place, unless another one is on its way, within it, or perhaps the same.
    pub(super) fn add(&mut self, path: &[Step], what: T) -> Result<(), Overlap> {
        if self.here.is_some() {
            return Err(Overlap);
        }
        match path.split_first() {
            None if self.has_within() => Err(Overlap),
            None => {
                self.here = Some(what);
                Ok(())
            }
            Some((Step::Name(name), rest)) => {
                let branch = self.names.entry(name.clone()).or_default();
                branch.add(rest, what)
            }
            Some((Step::Index(_), _)) if self.every.is_some() => Err(Overlap),
            Some((Step::Index(index), rest)) => {
                self.indexes.entry(*index).or_default().add(rest, what)
            }
            Some((Step::Every, _)) if !self.indexes.is_empty() => Err(Overlap),
            Some((Step::Every, rest)) => self.every.get_or_insert_default().add(rest, what),
        }
    }

    /// Puts something at a place that is known to overlap with none.
    pub(super) fn put(&mut self, names: &[String], what: T) {
        let mut branch = self;
        for name in names {
            branch = branch.names.entry(name.clone()).or_default();
        }
        branch.here = Some(what);
    }

    /// Adds a place of which everything within is meant as well.
    pub(super) fn cover(&mut self, names: &[String], all: T) {
        let mut branch = self;
        for name in names {
            if branch.here.is_some() {
                return;
            }
            branch = branch.names.entry(name.clone()).or_default();
        }
        branch.here = Some(all);
        branch.names.clear();
    }

    /// What is to be found in an element of an array.
    pub(super) fn element(&self, index: usize) -> Option<&Self> {
        self.every.as_deref().or_else(|| self.indexes.get(&index))
    }
}
