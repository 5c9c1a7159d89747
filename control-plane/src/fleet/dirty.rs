//! What a message did, and what changed since the last view was made.

use std::collections::BTreeSet;

use tide_model::{AgentName, UnitName};

/// What may look different since it was last asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dirty {
    /// Ownership or health is among it, which nobody should wait for.
    pub(super) urgent: bool,
    /// The database was read: anything.
    pub(super) database: bool,
    /// These agents.
    pub(super) agents: BTreeSet<AgentName>,
    /// These pipelines, and whoever owns them.
    pub(super) pipelines: BTreeSet<UnitName>,
}

impl Dirty {
    /// Whether nothing looks different.
    pub(super) fn is_empty(&self) -> bool {
        !self.database && self.agents.is_empty() && self.pipelines.is_empty()
    }
}

/// What a message did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Applied {
    /// Whether watchers see something else now.
    pub(crate) changed: bool,
    /// Whether something was missed that only a snapshot can tell.
    pub(crate) needs_snapshot: bool,
}
