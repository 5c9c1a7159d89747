//! Flags that every command takes.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tide_model::GroupName;

use super::duration;

/// Where a control plane on this machine listens.
pub const DEFAULT_CONTROL_PLANE: &str = "http://127.0.0.1:7900";
/// The group of a fleet that names none.
pub const DEFAULT_GROUP: &str = "default";

/// Where things are, whom to ask, and how to print.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// PostgreSQL that holds the catalog: postgres://USER:PASSWORD@HOST:PORT/DATABASE
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TIDE_POSTGRES_URL",
        hide_env_values = true
    )]
    pub postgres_url: Option<String>,
    /// Control plane to ask, or several replicas with commas between; a standby names the active
    /// one, which is then asked
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TIDE_CONTROL_PLANE",
        hide_env_values = true,
        default_value = DEFAULT_CONTROL_PLANE
    )]
    pub control_plane: String,
    /// Group of agents to look at [default: default]
    #[arg(
        long,
        global = true,
        value_name = "GROUP",
        env = "TIDE_RELAY_GROUP_ID",
        hide_env_values = true
    )]
    pub relay_group_id: Option<GroupName>,
    /// Whom to ask about the fleet; auto falls back to the database if no control plane answers
    #[arg(long, global = true, value_enum, default_value_t = SourceChoice::Auto)]
    pub source: SourceChoice,
    /// How to print data
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
    /// Print without colours
    #[arg(long, global = true, help = "Print without colours [env: NO_COLOR]")]
    pub no_color: bool,
    /// Longest wait for one answer
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "10s",
        value_parser = duration::parse_positive
    )]
    pub timeout: Duration,
    /// Who asks; recorded with every change
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help = "Who asks; recorded with every change [default: USER@host]"
    )]
    pub actor: Option<String>,
}

/// Whom to ask about the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SourceChoice {
    /// The control plane, or the database if it is unreachable
    Auto,
    /// Only the control plane
    ControlPlane,
    /// Only PostgreSQL
    Database,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people
    Table,
    /// For programs
    Json,
    /// For both
    Yaml,
}
