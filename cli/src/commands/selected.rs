//! Which agents a command is about, where it was told by patterns.

use tide_model::{AgentName, fleet::AgentView};

use crate::{
    args::AgentSelector,
    error::CliError,
    output::humanize::{counted, listed},
};

/// The agents that are meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selected {
    /// Each once, in the order of the command line.
    pub(super) agents: Vec<AgentName>,
    /// Whether a pattern says so, and not the operator by name.
    pub(super) by_pattern: bool,
    /// Whether patterns have left no running agent out.
    pub(super) everybody: bool,
}

/// Agents that were named; none where a pattern has to be looked up.
pub(super) fn named(selectors: &[AgentSelector]) -> Option<Selected> {
    let no_pattern = selectors.iter().all(|one| one.pattern().is_none());
    no_pattern.then(|| Selected {
        agents: once_each(selectors.iter().map(AgentSelector::name)),
        by_pattern: false,
        everybody: false,
    })
}

/// Agents that were named, and those of `known` that run and match a pattern. A name that is known is
/// no pattern, whatever is in it.
pub(super) fn matched(
    selectors: &[AgentSelector],
    known: &[AgentView],
) -> Result<Selected, CliError> {
    let running: Vec<&AgentView> = known.iter().filter(|it| it.running().is_some()).collect();
    let mut agents = Vec::new();
    let mut by_pattern = false;
    for selector in selectors {
        let literal = known.iter().any(|agent| agent.name == *selector.name());
        let Some(pattern) = selector.pattern().filter(|_| !literal) else {
            agents.push(selector.name());
            continue;
        };
        by_pattern = true;
        let before = agents.len();
        let names = running.iter().map(|agent| &agent.name);
        agents.extend(names.filter(|name| pattern.matches(name.as_str())));
        if agents.len() == before {
            let names: Vec<&str> = running.iter().map(|agent| agent.name.as_str()).collect();
            return Err(CliError::NotFound {
                message: format!("no running agent matches {pattern}"),
                hint: match names.as_slice() {
                    [] => "no agent runs; start tide-agent".to_owned(),
                    names => format!("the ones that run: {}", listed(names)),
                },
            });
        }
    }
    let agents = once_each(agents.into_iter());
    let everybody = by_pattern && running.iter().all(|agent| agents.contains(&agent.name));
    Ok(Selected {
        agents,
        by_pattern,
        everybody,
    })
}

impl Selected {
    /// For a question: `3 agents: relay-1, relay-2, relay-3`.
    pub(super) fn counted(&self) -> String {
        let names: Vec<&str> = self.agents.iter().map(AgentName::as_str).collect();
        format!("{}: {}", counted(names.len(), "agent"), listed(&names))
    }
}

fn once_each<'a>(names: impl Iterator<Item = &'a AgentName>) -> Vec<AgentName> {
    let mut agents: Vec<AgentName> = Vec::new();
    for name in names {
        if !agents.contains(name) {
            agents.push(name.clone());
        }
    }
    agents
}

#[cfg(test)]
mod tests {
    use tide_model::{Incarnation, fleet::AgentState};
    use time::OffsetDateTime;

    use super::*;

    fn agent(name: &str, state: AgentState) -> AgentView {
        AgentView {
            name: name.parse().unwrap(),
            state,
            incarnation: Incarnation(uuid::Uuid::nil()),
            version: String::new(),
            hostname: String::new(),
            weight: 1,
            metrics_addr: None,
            pipelines: 0,
            unhealthy: 0,
            lag_p95_seconds: 0.0,
            lag_worst_seconds: 0.0,
            holds: Vec::new(),
            started_at: OffsetDateTime::UNIX_EPOCH,
            last_seen_at: OffsetDateTime::UNIX_EPOCH,
            reporting: false,
            backend_pid: None,
            last_drain: None,
        }
    }

    fn fleet() -> Vec<AgentView> {
        vec![
            agent("edge-1", AgentState::Active),
            agent("relay-1", AgentState::Active),
            agent("relay-2", AgentState::Cordoned),
            agent("relay-3", AgentState::Lost),
            agent("odd*", AgentState::Active),
        ]
    }

    fn selectors(texts: &[&str]) -> Vec<AgentSelector> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn names(selected: &Selected) -> Vec<&str> {
        selected.agents.iter().map(AgentName::as_str).collect()
    }

    #[test]
    fn a_pattern_means_the_running_agents_that_match_each_once() {
        for (texts, expected, by_pattern, everybody) in [
            (&["relay-*"][..], &["relay-1", "relay-2"][..], true, false),
            (
                &["relay-2", "relay-?"],
                &["relay-2", "relay-1"],
                true,
                false,
            ),
            // A name is taken as it is, whether it runs, is known, or looks like a pattern.
            (&["relay-3", "new-1"], &["relay-3", "new-1"], false, false),
            (&["odd*"], &["odd*"], false, false),
            (
                &["*"],
                &["edge-1", "relay-1", "relay-2", "odd*"],
                true,
                true,
            ),
            (
                &["*-?", "odd*"],
                &["edge-1", "relay-1", "relay-2", "odd*"],
                true,
                true,
            ),
        ] {
            let selected = matched(&selectors(texts), &fleet()).unwrap();
            assert_eq!(names(&selected), expected, "{texts:?}");
            assert_eq!(
                (selected.by_pattern, selected.everybody),
                (by_pattern, everybody),
                "{texts:?}"
            );
        }
    }

    #[test]
    fn names_alone_need_nobody_to_be_asked() {
        let selected = named(&selectors(&["relay-2", "relay-1", "relay-2"])).unwrap();
        assert_eq!(names(&selected), ["relay-2", "relay-1"]);
        assert!(!selected.by_pattern && !selected.everybody);
        assert_eq!(named(&selectors(&["relay-2", "edge-*"])), None);
    }

    #[test]
    fn a_pattern_that_means_nobody_is_an_error_that_says_who_runs() {
        let error = matched(&selectors(&["relay-1", "west-*"]), &fleet()).unwrap_err();
        assert_eq!(error.to_string(), "no running agent matches west-*");
        assert_eq!(
            error.hint().unwrap(),
            "the ones that run: edge-1, relay-1, relay-2, odd*"
        );
        // One that is gone is drained by name only: a hold on it would wait for its return.
        assert!(matched(&selectors(&["relay-3*"]), &fleet()).is_err());
    }

    #[test]
    fn a_question_counts_and_names() {
        let selected = named(&selectors(&["relay-1", "relay-2"])).unwrap();
        assert_eq!(selected.counted(), "2 agents: relay-1, relay-2");
    }
}
