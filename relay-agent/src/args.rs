//! Flags and environment, exactly as typed.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand};
use tide_daemon::{duration::parse_seconds, telemetry::LogFormat};

use crate::control_plane_access::ControlPlaneAccess;

/// Moves messages from PostgreSQL outboxes to their sinks, as one of a fleet.
#[derive(Debug, Parser)]
#[command(name = "tide-agent", version, about, after_help = EXIT_CODES, args_conflicts_with_subcommands = false)]
pub struct Args {
    /// What to do; without a command the agent runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings, each also a flag of `run`.
    #[command(flatten)]
    pub settings: Settings,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  stopped in good order; or status: every pipeline is healthy
  1  failed: the message says why
  2  usage or configuration error
  3  forced to stop by the shutdown timeout or a second signal; or status: degraded";

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the agent (the default).
    Run,
    /// Show every pipeline, its owner and its lag, straight from the database.
    Status,
}

/// Settings of the agent. A flag wins over the environment, that over the file.
#[derive(Debug, Default, ClapArgs)]
pub struct Settings {
    /// Database that holds the outboxes: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
    #[arg(
        long,
        global = true,
        env = "TIDE_POSTGRES_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub postgres_url: Option<String>,
    /// Name of this agent, unique in its group [default: the host's name].
    #[arg(long, global = true, env = "TIDE_NAME")]
    pub name: Option<String>,
    /// Agents of one group share the pipelines out among themselves [default: default].
    #[arg(long, global = true, env = "TIDE_RELAY_GROUP_ID", value_name = "GROUP")]
    pub relay_group_id: Option<String>,
    /// How often to look for changes when no notification came: seconds, or 500ms, 5m [default: 30].
    #[arg(long, global = true, env = "TIDE_DISCOVERY_INTERVAL", value_parser = parse_seconds, value_name = "TIME")]
    pub discovery_interval: Option<Duration>,
    /// Notice changes and dead agents at the discovery interval only: no listening session, no
    /// watch on a neighbour. Slower by up to that interval in everything; for comparisons.
    #[arg(long, global = true, env = "TIDE_DISCOVERY_ONLY")]
    pub discovery_only: bool,
    /// How long a graceful shutdown may take [default: 30].
    #[arg(long, global = true, env = "TIDE_SHUTDOWN_TIMEOUT", value_parser = parse_seconds, value_name = "TIME")]
    pub shutdown_timeout: Option<Duration>,
    /// The server frees this agent's locks after this much silence [default: 3].
    #[arg(long, global = true, env = "TIDE_LEASE", value_parser = parse_seconds, value_name = "TIME")]
    pub lease: Option<Duration>,
    /// Share of the pipelines relative to other agents; 0 is a standby [default: 1].
    #[arg(long, global = true, env = "TIDE_WEIGHT")]
    pub weight: Option<u32>,
    /// Where to serve /metrics, /health, /livez and /readyz [default: 127.0.0.1:9090].
    #[arg(long, global = true, env = "TIDE_METRICS_ADDR", value_name = "ADDR")]
    pub metrics_addr: Option<SocketAddr>,
    /// Control planes to report to, such as `http://control-plane:7900`: one, several with commas
    /// between, or `auto` for the one that the database names; works without any.
    #[arg(long, global = true, env = "TIDE_CONTROL_PLANE", value_name = "URL")]
    pub control_plane: Option<String>,
    /// What to show to control planes.
    #[command(flatten)]
    pub control_plane_access: ControlPlaneAccess,
    /// How often the janitor deletes messages past their retention, and old history; one agent of
    /// the database does it at a time, and 0 is never this one [default: 60].
    #[arg(long, global = true, env = "TIDE_JANITOR_INTERVAL", value_parser = parse_seconds, value_name = "TIME")]
    pub janitor_interval: Option<Duration>,
    /// How long events and finished operations are kept, at least a day [default: 720h].
    #[arg(long, global = true, env = "TIDE_HISTORY_RETENTION", value_parser = parse_seconds, value_name = "TIME")]
    pub history_retention: Option<Duration>,
    /// Format of the log on standard error [default: text].
    #[arg(
        long,
        global = true,
        env = "TIDE_LOG_FORMAT",
        value_enum,
        value_name = "FORMAT"
    )]
    pub log_format: Option<LogFormat>,
    /// TOML file with the same settings: `postgres_url`, `name`, `relay_group_id`,
    /// `discovery_interval_secs`, `discovery_only`, `shutdown_timeout_secs`, `lease_secs`,
    /// `weight`, `metrics_addr`, `control_plane`, `control_plane_access` (a table of `ca_cert`,
    /// `client_cert`, `client_key`, `token_file`), `janitor_interval_secs`,
    /// `history_retention_secs`, `log_format`.
    #[arg(long, global = true, env = "TIDE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}
