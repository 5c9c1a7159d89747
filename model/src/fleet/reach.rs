//! Which agents do not reach a pipeline's sink, and what of that counts.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use crate::AgentName;

/// One agent's word that it does not reach the sink of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreached {
    /// The agent.
    pub agent: AgentName,
    /// What it met instead.
    pub reason: String,
    /// Whether it had the unit, and could not deliver; others have only looked whether they could.
    pub owned: bool,
    /// Since when.
    pub since: OffsetDateTime,
    /// Until when that counts; then others may try it again.
    pub until: OffsetDateTime,
}

/// The agents that should not have a unit, by what was said of it.
///
/// An owner is not relieved of what was taken from another one for this reason: it looked before it
/// took it, and if it cannot deliver all the same, the sink is to blame. So while the first word
/// counts, no more than one move comes of it.
pub(super) fn unfit<'a>(
    said: &'a [Unreached],
    owner: Option<&'a AgentName>,
) -> impl Iterator<Item = &'a AgentName> {
    let owners: BTreeSet<&AgentName> = said
        .iter()
        .filter(|one| one.owned)
        .map(|one| &one.agent)
        .collect();
    let relieved = owners.iter().any(|agent| Some(*agent) != owner);
    said.iter()
        .map(|one| &one.agent)
        .filter(move |agent| !relieved || Some(*agent) != owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_relieved_once() {
        let said = |agent: &str, owned| Unreached {
            agent: agent.parse().unwrap(),
            reason: "refused".to_owned(),
            owned,
            since: OffsetDateTime::UNIX_EPOCH,
            until: OffsetDateTime::UNIX_EPOCH,
        };
        let [a, b]: [AgentName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let judged = |said: &[Unreached], owner: Option<&AgentName>| {
            let names = unfit(said, owner).map(AgentName::as_str);
            names.collect::<Vec<_>>().join(" ")
        };
        let first = [said("a", true)];
        assert_eq!(judged(&first, Some(&a)), "a");
        assert_eq!(judged(&first, Some(&b)), "a");
        // What b saw before it had anything is no reason to keep it there.
        let looked = [said("a", true), said("b", false)];
        assert_eq!(judged(&looked, Some(&a)), "a b");
        let both = [said("a", true), said("b", true)];
        assert_eq!(judged(&both, Some(&b)), "a");
        assert_eq!(judged(&both, Some(&a)), "b");
        assert_eq!(judged(&both, None), "a b");
    }
}
