//! Commands that show the fleet and its agents.

use clap::Subcommand;
use tide_model::AgentName;

/// What to show of the fleet.
#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// Show agents, lags and what needs attention
    Status {
        /// Go on showing changes; with -o json one line each
        #[arg(long, short)]
        watch: bool,
    },
}

/// What to show of agents.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// List agents
    #[command(visible_alias = "ls")]
    List,
    /// Show one agent and what it owns
    Show {
        /// Its name
        name: AgentName,
    },
}
