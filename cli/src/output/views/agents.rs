//! Agents.

use tide_model::fleet::{AgentState, AgentView, FleetView, PipelineView};
use time::OffsetDateTime;

use super::{facts, pipelines::pipelines};
use crate::output::{
    Cell, Style, Table, Tone,
    humanize::{age, seconds},
};

/// The agents of a fleet, as its status shows them.
pub(super) fn fleet_rows(style: Style, fleet: &FleetView) -> String {
    agents(style, &fleet.agents, fleet.database_at)
}

/// Agents, one a row. Ages are counted up to `now`, on the clock of the agents' timestamps.
pub fn agents(style: Style, agents: &[AgentView], now: OffsetDateTime) -> String {
    let mut heading = vec![
        "AGENT", "STATE", "AGE", "VERSION", "PIPES", "WEIGHT", "LAG p95", "WORST", "HOLDS", "SEEN",
    ];
    if style.is_wide() {
        heading.extend(WIDE);
    }
    let mut table = Table::new(style, &heading).with_words_in("HOLDS");
    for agent in agents {
        let mut row = vec![
            Cell::from(agent.name.as_str()),
            state(agent.state),
            Cell::or_dash(is_up(agent.state).then(|| age(agent.started_at, now))),
            Cell::from(agent.version.as_str()),
            pipes(agent),
            Cell::from(agent.weight.to_string()),
            lag(agent, agent.lag_p95_seconds),
            lag(agent, agent.lag_worst_seconds),
            Cell::or_dash(holds(agent)),
            Cell::from(age(agent.last_seen_at, now)),
        ];
        if style.is_wide() {
            row.extend(wide(agent));
        }
        table.row(row);
    }
    table.print()
}

const WIDE: [&str; 7] = [
    "UNHEALTHY",
    "HOST",
    "PID",
    "METRICS",
    "REPORTS",
    "LAST DRAIN",
    "INCARNATION",
];

fn wide(agent: &AgentView) -> [Cell; WIDE.len()] {
    let drain = agent.last_drain.as_ref();
    [
        Cell::from(agent.unhealthy.to_string()),
        Cell::from(agent.hostname.as_str()),
        Cell::or_dash(agent.backend_pid),
        Cell::or_dash(agent.metrics_addr.as_deref()),
        Cell::from(if agent.reporting { "yes" } else { "no" }),
        Cell::or_dash(drain.map(|drain| drain.state)),
        Cell::from(agent.incarnation.to_string()),
    ]
}

/// One agent and what it owns.
pub fn agent(
    style: Style,
    agent: &AgentView,
    owned: &[PipelineView],
    now: OffsetDateTime,
) -> String {
    let when = |since| format!("{} ago", age(since, now));
    let mut text = facts(
        style,
        &[
            ("agent", agent.name.to_string()),
            (
                "state",
                style.paint(tone(agent.state), agent.state.as_str()),
            ),
            ("holds", holds(agent).unwrap_or_else(|| "-".to_owned())),
            (
                "last drain",
                agent
                    .last_drain
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |drain| drain.summary(agent.running())),
            ),
            (
                "pipelines",
                format!("{} ({} unhealthy)", agent.pipelines, agent.unhealthy),
            ),
            ("weight", agent.weight.to_string()),
            ("lag p95", lag_text(agent, agent.lag_p95_seconds)),
            ("worst lag", lag_text(agent, agent.lag_worst_seconds)),
            ("version", agent.version.clone()),
            ("host", agent.hostname.clone()),
            (
                "metrics",
                agent.metrics_addr.clone().unwrap_or_else(|| "-".to_owned()),
            ),
            ("incarnation", agent.incarnation.to_string()),
            (
                "backend",
                agent
                    .backend_pid
                    .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            ),
            ("started", when(agent.started_at)),
            ("seen", when(agent.last_seen_at)),
            (
                "reports",
                if agent.reporting {
                    "to the control plane"
                } else {
                    "-"
                }
                .to_owned(),
            ),
        ],
    );
    if !owned.is_empty() {
        text.push('\n');
        text.push_str(&pipelines(style, owned, now));
    }
    text
}

fn state(state: AgentState) -> Cell {
    Cell::toned(state.as_str(), tone(state))
}

fn tone(state: AgentState) -> Tone {
    match state {
        AgentState::Active => Tone::Good,
        AgentState::Cordoned | AgentState::Draining => Tone::Uneasy,
        AgentState::Drained => Tone::Strong,
        AgentState::Stopped => Tone::Faint,
        AgentState::Stale | AgentState::Lost => Tone::Bad,
    }
}

fn is_up(state: AgentState) -> bool {
    !matches!(state, AgentState::Stopped | AgentState::Lost)
}

/// How many it has; an arrow if it is giving them away.
fn pipes(agent: &AgentView) -> Cell {
    let unhealthy = match agent.unhealthy {
        0 => Tone::Plain,
        _ => Tone::Uneasy,
    };
    let text = match agent.state {
        AgentState::Draining => format!("{}>0", agent.pipelines),
        _ => agent.pipelines.to_string(),
    };
    Cell::toned(text, unhealthy)
}

/// A lag of no pipeline is not zero, it is nothing.
fn lag_text(agent: &AgentView, lag: f64) -> String {
    if agent.pipelines == 0 {
        "-".to_owned()
    } else {
        seconds(lag)
    }
}

fn lag(agent: &AgentView, lag: f64) -> Cell {
    Cell::from(lag_text(agent, lag))
}

fn holds(agent: &AgentView) -> Option<String> {
    (!agent.holds.is_empty()).then(|| agent.holds.join("; "))
}
