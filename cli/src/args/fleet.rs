//! Commands that show the fleet and its agents.

use clap::{Args, Subcommand};
use tide_model::AgentName;
use time::OffsetDateTime;

use super::{moment, select::SelectArgs};

/// What to show of the fleet.
#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// Show agents, lags and what needs attention
    Status {
        /// Go on showing changes; with -o json one line each
        #[arg(long, short)]
        watch: bool,
        /// Which agents to show; the verdict is on the whole fleet.
        #[command(flatten)]
        select: SelectArgs,
    },
}

/// What to explain.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A pipeline, one of its shards, or an agent
    pub name: String,
    /// It is an agent, also if a pipeline has that name
    #[arg(long)]
    pub agent: bool,
}

/// Which events to show.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on showing what happens; with -o json or ndjson one line each
    #[arg(long, short)]
    pub follow: bool,
    /// From this time on: 2026-11-21T10:00:00Z, or how long ago, such as 90m
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    pub since: Option<OffsetDateTime>,
    /// Only this kind, or all below it: drain, drain.started, command, ownership, pipeline
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// Only about this agent, pipeline or outbox
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// Only by this actor
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
    /// At most this many of the past
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// What to show of agents.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// List agents
    #[command(visible_alias = "ls")]
    List(SelectArgs),
    /// Show one agent and what it owns
    Show {
        /// Its name
        name: AgentName,
    },
    /// Forget an agent that does not run: its record, its holds, and what was placed on it
    #[command(visible_alias = "rm")]
    Remove {
        /// Its name
        name: AgentName,
        /// What for; recorded
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        reason: String,
    },
}
