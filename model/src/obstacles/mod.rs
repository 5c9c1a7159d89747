//! What stands against draining agents: every reason at once, with all holds counted. Pure.

use std::fmt;

use crate::{
    AgentName, UnitName, assign,
    explain::able,
    fleet::{DatabaseView, Hold},
};

/// Why agents cannot be drained; empty if they can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacles {
    agents: Vec<AgentName>,
    /// Pipelines that no other agent may take, by name.
    stranded: Vec<UnitName>,
    /// Why each other live agent takes none of them.
    others: Vec<String>,
    /// Pipelines that a hold keeps where they are.
    kept: Vec<(UnitName, Hold)>,
}

/// A sentence has room for this many names.
const LISTED: usize = 20;

impl Obstacles {
    /// Whether nothing stands against it.
    pub fn is_empty(&self) -> bool {
        self.stranded.is_empty() && self.kept.is_empty()
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        let mut hints = Vec::new();
        if let Some((_, hold)) = self.kept.first() {
            hints.push(format!(
                "ask {} to: tidectl hold remove {}",
                hold.actor, hold.id
            ));
        }
        if !self.stranded.is_empty() {
            hints.push("start another agent first".to_owned());
        }
        hints.push("drain all the same with --force".to_owned());
        hints.join(", or ")
    }
}

impl fmt::Display for Obstacles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agents = list(&self.agents);
        let mut before = "";
        if !self.stranded.is_empty() {
            let count = match self.stranded.len() {
                1 => "1 pipeline".to_owned(),
                count => format!("{count} pipelines"),
            };
            let stranded = list(&self.stranded);
            write!(
                f,
                "draining {agents} would leave {count} without an agent: {stranded}"
            )?;
            if !self.others.is_empty() {
                write!(f, "; {}", list(&self.others))?;
            }
            before = "; ";
        } else if !self.kept.is_empty() {
            write!(f, "draining {agents} would move what is to stay: ")?;
        }
        if !self.kept.is_empty() {
            let kept: Vec<String> = self
                .kept
                .iter()
                .map(|(pipeline, hold)| {
                    let to = hold
                        .to
                        .as_ref()
                        .map_or_else(String::new, |to| format!(" to {to}"));
                    format!(
                        "{pipeline} is {}{to} {}",
                        hold.kind.participle(),
                        hold.origin()
                    )
                })
                .collect();
            write!(f, "{before}{}", list(&kept))?;
        }
        Ok(())
    }
}

fn list(names: &[impl ToString]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED).map(ToString::to_string).collect();
    match names.len().saturating_sub(LISTED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What stands against draining these agents together.
pub fn drain_obstacles(view: &DatabaseView, agents: &[AgentName]) -> Obstacles {
    let bundles = view.bundles();
    let assigned = assign(&bundles, &view.candidates(agents));
    let leaves = |owner: &Option<AgentName>| owner.as_ref().is_some_and(|it| agents.contains(it));
    let mut leaving: Vec<&UnitName> = bundles
        .iter()
        .filter(|bundle| leaves(&bundle.owner))
        .flat_map(|bundle| &bundle.pipelines)
        .collect();
    leaving.sort();
    let stranded: Vec<UnitName> = leaving
        .iter()
        .filter(|pipeline| !assigned.contains_key(**pipeline))
        .map(|pipeline| (*pipeline).clone())
        .collect();
    let kept = leaving
        .into_iter()
        .filter_map(|pipeline| {
            let hold = view.staying(pipeline)?;
            // One that is pinned elsewhere is only on its way there.
            let here = hold.to.as_ref().is_none_or(|to| agents.contains(to));
            here.then(|| (pipeline.clone(), hold.clone()))
        })
        .collect();
    let others = if stranded.is_empty() {
        Vec::new()
    } else {
        let others = view.agents.iter().filter(|agent| agent.alive);
        let others = others.filter(|agent| !agents.contains(&agent.name));
        others
            .map(|agent| format!("{} is {}", agent.name, able(view, agent).detail))
            .collect()
    };
    Obstacles {
        agents: agents.to_vec(),
        stranded,
        others,
        kept,
    }
}

#[cfg(test)]
mod tests;
