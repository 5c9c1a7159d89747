//! Which agents a bundle is to keep away from, because they do not reach its sink.

use super::{Bin, Bundle, find};

/// What is known of the agents' reach, for one bundle.
pub(super) struct Fitness {
    /// Those that it keeps away from, by index, in order; empty where that would leave nobody.
    shunned: Vec<usize>,
    /// Nobody who could have it reaches its sink.
    nowhere: bool,
}

impl Fitness {
    /// Weighs what was found against who is there. An owner counts although it takes nothing more.
    pub(super) fn of(bundle: &Bundle, bins: &[Bin<'_>]) -> Self {
        // The names are sorted, and so are the bins.
        let mut fitness = Self {
            shunned: bundle
                .unfit
                .iter()
                .filter_map(|name| find(bins, Some(name)))
                .collect(),
            nowhere: false,
        };
        if fitness.shunned.is_empty() {
            return fitness;
        }
        let owner = find(bins, bundle.owner.as_ref());
        let mut could = (0..bins.len()).filter(|bin| bins[*bin].takes_more || owner == Some(*bin));
        if !could.any(|bin| fitness.allows(bin)) {
            fitness.shunned.clear();
            fitness.nowhere = true;
        }
        fitness
    }

    /// Whether an agent may have it.
    pub(super) fn allows(&self, bin: usize) -> bool {
        self.allows_all() || self.shunned.binary_search(&bin).is_err()
    }

    /// Whether any agent may have it.
    pub(super) fn allows_all(&self) -> bool {
        self.shunned.is_empty()
    }

    /// Whether the sink is out of everybody's reach: no agent is better than another.
    pub(super) fn is_nowhere(&self) -> bool {
        self.nowhere
    }
}
