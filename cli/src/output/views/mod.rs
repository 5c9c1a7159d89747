//! What each kind of data looks like to people. Pure: data and a style in, text out.

mod agents;
mod balance;
mod fleet;
mod holds;
mod operations;
mod pipelines;
mod rebalance;

use std::fmt::Write as _;

pub use self::{
    agents::{agent, agents},
    balance::{balance, balance_data},
    fleet::{FleetStatus, fleet},
    holds::holds,
    operations::{moves, operation, operations, shares, step_line, waiting},
    pipelines::{owner, pipeline, pipelines, tone},
    rebalance::{Stays, plan, plan_data, plan_record},
};
use super::{Style, Tone};

/// Facts about one thing, one a line.
pub fn facts(style: Style, facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().fold(String::new(), |mut text, (name, value)| {
        let name = style.paint(Tone::Strong, &format!("{name:width$}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}  {value}");
        text
    })
}

/// Where a list came from, under one with all its columns; others are kept bare, for `awk`.
pub fn footer(style: Style, cited: &str) -> String {
    if style.is_wide() {
        let source = format!("source {cited}");
        format!("\n{}\n", style.paint(Tone::Faint, &source))
    } else {
        String::new()
    }
}

/// What needs attention, one a line; the rest is counted.
pub fn warnings(style: Style, warnings: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text = String::new();
    for warning in warnings.iter().take(SHOWN) {
        let _ = writeln!(text, "{} {warning}", style.paint(Tone::Bad, "!"));
    }
    if let Some(more) = warnings.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        let _ = writeln!(text, "{} and {more} more", style.paint(Tone::Bad, "!"));
    }
    text
}

#[cfg(test)]
mod tests;
