//! Who should own what: a pure function that every agent computes alike.
//!
//! **Sticky**: a pipeline stays with its owner unless the owner may not keep it or moving it makes
//! the fleet better balanced. **Balanced by weight**: no move from the fullest to the emptiest
//! agent would still help. **Minimal**: only such moves are made, one by one, so a joining agent
//! takes exactly its share and nothing is shuffled among the others. The balancing step is greedy
//! largest-to-smallest list scheduling (Graham, 1969), bounded by what already runs where.
//!
//! The result is a preference. Agents that are not preferred wait for a grace time and then take
//! an unowned pipeline all the same, so a wrong or stale view can delay a message, never stop it.

mod backup;

use std::{
    cmp::{Ordering, Reverse},
    collections::BTreeMap,
};

use serde::{Deserialize, Serialize};

pub use self::backup::backups;
use crate::{AgentName, UnitName};

/// Units that share one advisory lock key, and so always move together. Nearly always it is one;
/// two names can hash alike.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The pipelines, at least one.
    pub pipelines: Vec<UnitName>,
    /// Their summed weight.
    pub weight: u32,
    /// Who holds the lock now, among the live agents.
    pub owner: Option<AgentName>,
    /// Where operators want it.
    pub placement: Option<AgentName>,
    /// Whether operators want it to stay.
    pub stays: Option<Stays>,
}

/// What keeps pipelines from being moved, while an agent is there that may run them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stays {
    /// At this agent: pinned.
    At(AgentName),
    /// At whoever has it: frozen.
    Put,
}

/// A live agent.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its name.
    pub name: AgentName,
    /// Its share; 0 makes it a standby that works only when nobody else can.
    pub weight: u32,
    /// What a hold permits it.
    pub admits: Admits,
}

/// What work an agent accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admits {
    /// Everything.
    All,
    /// What it has, nothing more: cordoned.
    OnlyItsOwn,
    /// Nothing: draining.
    Nothing,
}

/// Why a pipeline should be where it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its owner keeps it.
    Kept,
    /// An operator placed it.
    Placed,
    /// A hold keeps it at this agent.
    Pinned,
    /// A hold keeps it where it is.
    Frozen,
    /// It had no owner that may keep it.
    Unowned,
    /// Moving it balances the load.
    Balanced,
}

impl Reason {
    /// Whether moving it may even out the load.
    fn may_move(self) -> bool {
        match self {
            Self::Kept | Self::Unowned | Self::Balanced => true,
            Self::Placed | Self::Pinned | Self::Frozen => false,
        }
    }

    /// For plans and explanations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Placed => "placed",
            Self::Pinned => "pinned",
            Self::Frozen => "frozen",
            Self::Unowned => "unowned",
            Self::Balanced => "balanced",
        }
    }
}

/// Where one pipeline should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The agent that should own it.
    pub agent: AgentName,
    /// Why.
    pub reason: Reason,
}

/// An agent while the assignment is being worked out.
struct Bin<'a> {
    name: &'a AgentName,
    weight: u64,
    load: u64,
    takes_more: bool,
}

impl Bin<'_> {
    /// Compares load per weight, after adding `more` to each side, without rounding.
    fn fullness(&self, more: u64, other: &Self, other_more: u64) -> Ordering {
        ((self.load + more) * other.weight).cmp(&((other.load + other_more) * self.weight))
    }
}

/// Assigns every bundle to an agent, or to none where no agent may take it.
///
/// The order of `bundles` and `candidates` does not matter. Applying the result and assigning again
/// changes nothing.
pub fn assign(bundles: &[Bundle], candidates: &[Candidate]) -> BTreeMap<UnitName, Assignment> {
    let mut bins = bins(candidates);
    let mut order: Vec<&Bundle> = bundles.iter().collect();
    order.sort_by(|a, b| (Reverse(a.weight), &a.pipelines).cmp(&(Reverse(b.weight), &b.pipelines)));

    // Where each bundle is, by index into `order` and `bins`.
    let mut places: Vec<Option<(usize, Reason)>> =
        order.iter().map(|bundle| settled(bundle, &bins)).collect();
    for (bundle, place) in order.iter().zip(&places) {
        if let Some((bin, _)) = place {
            bins[*bin].load += u64::from(bundle.weight);
        }
    }
    for (bundle, place) in order.iter().zip(&mut places) {
        if place.is_none() {
            let weight = u64::from(bundle.weight);
            let emptiest = (0..bins.len())
                .filter(|bin| bins[*bin].takes_more)
                .min_by(|a, b| bins[*a].fullness(weight, &bins[*b], weight));
            if let Some(bin) = emptiest {
                bins[bin].load += weight;
                *place = Some((bin, Reason::Unowned));
            }
        }
    }
    balance(&order, &mut places, &mut bins);

    let mut assigned = BTreeMap::new();
    for (bundle, place) in order.iter().zip(&places) {
        if let Some((bin, reason)) = place {
            for pipeline in &bundle.pipelines {
                let assignment = Assignment {
                    agent: bins[*bin].name.clone(),
                    reason: *reason,
                };
                assigned.insert(pipeline.clone(), assignment);
            }
        }
    }
    assigned
}

/// Agents that may own anything. Standbys count only where no weighted agent takes work.
fn bins(candidates: &[Candidate]) -> Vec<Bin<'_>> {
    let standby = !candidates
        .iter()
        .any(|agent| agent.weight > 0 && agent.admits == Admits::All);
    let mut bins: Vec<Bin<'_>> = candidates
        .iter()
        .filter(|agent| agent.admits != Admits::Nothing && (agent.weight > 0 || standby))
        .map(|agent| Bin {
            name: &agent.name,
            weight: u64::from(agent.weight.max(1)),
            load: 0,
            takes_more: agent.admits == Admits::All,
        })
        .collect();
    bins.sort_by(|a, b| a.name.cmp(b.name));
    bins
}

/// The place that a bundle has before balancing: where it must stay, its placement, or its owner.
fn settled(bundle: &Bundle, bins: &[Bin<'_>]) -> Option<(usize, Reason)> {
    let find = |name: &Option<AgentName>| {
        name.as_ref()
            .and_then(|name| bins.binary_search_by(|bin| bin.name.cmp(name)).ok())
    };
    let owner = find(&bundle.owner);
    let admitted = |name: &Option<AgentName>| {
        find(name).filter(|bin| bins[*bin].takes_more || owner == Some(*bin))
    };
    let stays = match &bundle.stays {
        Some(Stays::At(agent)) => admitted(&Some(agent.clone())).map(|bin| (bin, Reason::Pinned)),
        Some(Stays::Put) => owner.map(|bin| (bin, Reason::Frozen)),
        None => None,
    };
    let placed = || admitted(&bundle.placement).map(|bin| (bin, Reason::Placed));
    stays
        .or_else(placed)
        .or_else(|| owner.map(|bin| (bin, Reason::Kept)))
}

/// Moves bundles from the fullest to the emptiest agent while that helps.
fn balance(order: &[&Bundle], places: &mut [Option<(usize, Reason)>], bins: &mut [Bin<'_>]) {
    let lightest = order
        .iter()
        .map(|bundle| u64::from(bundle.weight))
        .min()
        .unwrap_or(0);
    loop {
        let mut receivers: Vec<usize> = (0..bins.len())
            .filter(|bin| bins[*bin].takes_more)
            .collect();
        receivers.sort_by(|a, b| bins[*a].fullness(0, &bins[*b], 0));
        let Some(&to) = receivers.first() else { return };
        let mut donors: Vec<usize> = (0..bins.len()).filter(|bin| *bin != to).collect();
        donors.sort_by(|a, b| bins[*b].fullness(0, &bins[*a], 0));
        // Where not even the lightest bundle would help, looking at each of them would not either.
        donors.retain(|from| bins[to].fullness(lightest, &bins[*from], 0) == Ordering::Less);

        // A bundle helps when the receiver stays emptier than the donor was. Among those that no
        // agent runs yet moving is free; then the heaviest, to need the fewest moves.
        let best = donors.into_iter().find_map(|from| {
            order
                .iter()
                .enumerate()
                .filter(|(index, bundle)| {
                    matches!(places[*index], Some((bin, reason)) if bin == from && reason.may_move())
                        && bins[to].fullness(u64::from(bundle.weight), &bins[from], 0) == Ordering::Less
                })
                .min_by_key(|(_, bundle)| (bundle.owner.as_ref() == Some(bins[from].name), Reverse(bundle.weight)))
                .map(|(index, bundle)| (index, from, u64::from(bundle.weight)))
        });
        let Some((index, from, weight)) = best else {
            return;
        };
        bins[from].load -= weight;
        bins[to].load += weight;
        let reason = if order[index].owner.as_ref() == Some(bins[to].name) {
            Reason::Kept
        } else if order[index].owner.is_some() {
            Reason::Balanced
        } else {
            Reason::Unowned
        };
        places[index] = Some((to, reason));
    }
}

#[cfg(test)]
mod tests;
