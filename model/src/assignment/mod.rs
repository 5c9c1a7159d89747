//! Who should own what: a pure function that every agent computes alike.
//!
//! **Sticky**: a pipeline stays with its owner unless the owner may not keep it or moving it makes
//! the fleet better balanced. **Balanced by weight**: no move from the fullest to the emptiest
//! agent would still help. **Minimal**: only such moves are made, one by one, so a joining agent
//! takes exactly its share and nothing is shuffled among the others. The balancing step is greedy
//! largest-to-smallest list scheduling (Graham, 1969), bounded by what already runs where.
//!
//! **Where it can be delivered**: an agent that could not reach a pipeline's sink does not get it,
//! and gives it to one that may. Where that is said of all of them it is the sink's fault: it is
//! left out of account, and nothing moves for it.
//!
//! The result is a preference. Agents that are not preferred wait for a grace time and then take
//! an unowned pipeline all the same, so a wrong or stale view can delay a message, never stop it.

mod backup;
mod fitness;

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};

pub use self::backup::backups;
use self::fitness::Fitness;
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
    /// Agents that could not reach a sink of these pipelines; nearly always none.
    pub unfit: BTreeSet<AgentName>,
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
    /// Its owner does not reach its sink, and this agent may.
    Reachable,
    /// Its owner does not reach its sink, and nobody else who could have it does: it stays.
    Unreachable,
}

impl Reason {
    /// Whether moving it may even out the load.
    fn may_move(self) -> bool {
        match self {
            Self::Kept | Self::Unowned | Self::Balanced | Self::Reachable => true,
            Self::Placed | Self::Pinned | Self::Frozen | Self::Unreachable => false,
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
            Self::Reachable => "reachable",
            Self::Unreachable => "unreachable",
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

    let fitness: Vec<Fitness> = order
        .iter()
        .map(|bundle| Fitness::of(bundle, &bins))
        .collect();

    // Where each bundle is, by index into `order` and `bins`.
    let mut places: Vec<Option<(usize, Reason)>> = order
        .iter()
        .zip(&fitness)
        .map(|(bundle, fitness)| settled(bundle, fitness, &bins))
        .collect();
    for (bundle, place) in order.iter().zip(&places) {
        if let Some((bin, _)) = place {
            bins[*bin].load += u64::from(bundle.weight);
        }
    }
    for ((bundle, fitness), place) in order.iter().zip(&fitness).zip(&mut places) {
        if place.is_none() {
            let weight = u64::from(bundle.weight);
            let emptiest = (0..bins.len())
                .filter(|bin| bins[*bin].takes_more && fitness.allows(*bin))
                .min_by(|a, b| bins[*a].fullness(weight, &bins[*b], weight));
            if let Some(bin) = emptiest {
                bins[bin].load += weight;
                let left = find(&bins, bundle.owner.as_ref()).is_some();
                *place = Some((
                    bin,
                    if left {
                        Reason::Reachable
                    } else {
                        Reason::Unowned
                    },
                ));
            }
        }
    }
    balance(&order, &fitness, &mut places, &mut bins);

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

/// The place of an agent among those that may own anything.
fn find(bins: &[Bin<'_>], name: Option<&AgentName>) -> Option<usize> {
    name.and_then(|name| bins.binary_search_by(|bin| bin.name.cmp(name)).ok())
}

/// The place that a bundle has before balancing: where it must stay, its placement, or its owner,
/// if that can deliver it, or nobody can.
fn settled(bundle: &Bundle, fitness: &Fitness, bins: &[Bin<'_>]) -> Option<(usize, Reason)> {
    let owner = find(bins, bundle.owner.as_ref());
    let admitted = |name: Option<&AgentName>| {
        find(bins, name).filter(|bin| bins[*bin].takes_more || owner == Some(*bin))
    };
    let stays = match &bundle.stays {
        Some(Stays::At(agent)) => admitted(Some(agent)).map(|bin| (bin, Reason::Pinned)),
        Some(Stays::Put) => owner.map(|bin| (bin, Reason::Frozen)),
        None => None,
    };
    let placed = || admitted(bundle.placement.as_ref()).map(|bin| (bin, Reason::Placed));
    let kept = || {
        let owner = owner.filter(|bin| fitness.allows(*bin))?;
        let reason = if fitness.is_nowhere() {
            Reason::Unreachable
        } else {
            Reason::Kept
        };
        Some((owner, reason))
    };
    stays.or_else(placed).or_else(kept)
}

/// Moves bundles from the fullest to the emptiest agent while that helps.
fn balance(
    order: &[&Bundle],
    fitness: &[Fitness],
    places: &mut [Option<(usize, Reason)>],
    bins: &mut [Bin<'_>],
) {
    let lightest = order
        .iter()
        .map(|bundle| u64::from(bundle.weight))
        .min()
        .unwrap_or(0);
    // What the emptiest must not have may help the next one. Where everybody may have everything
    // that is so for nothing.
    let receiving = if fitness.iter().all(Fitness::allows_all) {
        1
    } else {
        bins.len()
    };
    loop {
        let mut receivers: Vec<usize> = (0..bins.len())
            .filter(|bin| bins[*bin].takes_more)
            .collect();
        receivers.sort_by(|a, b| bins[*a].fullness(0, &bins[*b], 0));
        let best = receivers.iter().take(receiving).find_map(|to| {
            let (index, from) = helpful(order, fitness, places, bins, (*to, lightest))?;
            Some((index, from, *to))
        });
        let Some((index, from, to)) = best else {
            return;
        };
        let weight = u64::from(order[index].weight);
        bins[from].load -= weight;
        bins[to].load += weight;
        let reason = match places[index] {
            Some((_, Reason::Reachable)) => Reason::Reachable,
            _ if order[index].owner.as_ref() == Some(bins[to].name) => Reason::Kept,
            _ if order[index].owner.is_some() => Reason::Balanced,
            _ => Reason::Unowned,
        };
        places[index] = Some((to, reason));
    }
}

/// The bundle whose move to an agent helps most, and where it is now. A bundle helps when the
/// receiver stays emptier than the donor was. Among those that no agent runs yet moving is free;
/// then the heaviest, to need the fewest moves.
fn helpful(
    order: &[&Bundle],
    fitness: &[Fitness],
    places: &[Option<(usize, Reason)>],
    bins: &[Bin<'_>],
    (to, lightest): (usize, u64),
) -> Option<(usize, usize)> {
    let mut donors: Vec<usize> = (0..bins.len()).filter(|bin| *bin != to).collect();
    donors.sort_by(|a, b| bins[*b].fullness(0, &bins[*a], 0));
    // Where not even the lightest bundle would help, looking at each of them would not either.
    donors.retain(|from| bins[to].fullness(lightest, &bins[*from], 0) == Ordering::Less);
    donors.into_iter().find_map(|from| {
        order
            .iter()
            .enumerate()
            .filter(|(index, bundle)| {
                matches!(places[*index], Some((bin, reason)) if bin == from && reason.may_move())
                    && fitness[*index].allows(to)
                    && bins[to].fullness(u64::from(bundle.weight), &bins[from], 0) == Ordering::Less
            })
            .min_by_key(|(_, bundle)| {
                let runs = bundle.owner.as_ref() == Some(bins[from].name);
                (runs, Reverse(bundle.weight))
            })
            .map(|(index, _)| (index, from))
    })
}

#[cfg(test)]
mod tests;
