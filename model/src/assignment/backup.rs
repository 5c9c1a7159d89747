//! Who comes next: the pipelines that an agent would get if their owner vanished.

use std::collections::{BTreeMap, BTreeSet};

use super::{Bundle, Candidate, assign};
use crate::{AgentName, UnitName};

/// Pipelines of other live agents that would be `me`'s if their owner vanished now, so that a
/// standby can make ready for them.
///
/// It asks [`assign`] once an owner, about a fleet without that one, so it agrees with what the
/// survivors will decide. Every pipeline has one backup at most.
pub fn backups(bundles: &[Bundle], candidates: &[Candidate], me: &AgentName) -> BTreeSet<UnitName> {
    let live: BTreeSet<&AgentName> = candidates.iter().map(|agent| &agent.name).collect();
    let mut estates: BTreeMap<&AgentName, Vec<&Bundle>> = BTreeMap::new();
    for bundle in bundles {
        match &bundle.owner {
            Some(owner) if owner != me && live.contains(owner) => {
                estates.entry(owner).or_default().push(bundle);
            }
            Some(_) | None => {}
        }
    }
    estates
        .into_iter()
        .flat_map(|(owner, orphans)| {
            let left: Vec<Candidate> = candidates
                .iter()
                .filter(|agent| agent.name != *owner)
                .cloned()
                .collect();
            let bundles: Vec<Bundle> = bundles
                .iter()
                .map(|bundle| Bundle {
                    owner: bundle.owner.clone().filter(|name| name != owner),
                    ..bundle.clone()
                })
                .collect();
            let assigned = assign(&bundles, &left);
            orphans
                .into_iter()
                .flat_map(|bundle| bundle.pipelines.clone())
                .filter(move |name| assigned.get(name).is_some_and(|next| next.agent == *me))
        })
        .collect()
}
