//! Flags that every command takes.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use clap::{ArgMatches, Args, ValueEnum, parser::ValueSource};
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
        help = "Control plane to ask, or several replicas with commas between; a standby names the \
                active one, which is then asked [default: http://127.0.0.1:7900]"
    )]
    pub control_plane: Option<String>,
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
    #[arg(
        long,
        global = true,
        value_enum,
        help = "Whom to ask about the fleet; auto falls back to the database if no control plane \
                answers [default: auto]"
    )]
    pub source: Option<SourceChoice>,
    /// Fleet to use, by the name that `tidectl context set` gave it [default: the current one, unless
    /// a control plane or database is named]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "TIDE_CONTEXT",
        hide_env_values = true
    )]
    pub context: Option<String>,
    /// Bearer token for the control plane, or where it is.
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "TIDE_TOKEN",
        hide_env_values = true,
        help = "Bearer token for the control plane; better as '${file:PATH}' or '${env:NAME}' than \
                in plain"
    )]
    pub token: Option<String>,
    /// CA of the control plane's certificate, in PEM [default: the system's]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TIDE_CA_CERT",
        hide_env_values = true
    )]
    pub ca_cert: Option<PathBuf>,
    /// Certificate to show to the control plane, in PEM
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TIDE_CLIENT_CERT",
        hide_env_values = true
    )]
    pub client_cert: Option<PathBuf>,
    /// Private key of that certificate, in PEM
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TIDE_CLIENT_KEY",
        hide_env_values = true
    )]
    pub client_key: Option<PathBuf>,
    /// Which of these were typed, as opposed to set in the environment.
    #[arg(skip)]
    pub typed: Typed,
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

/// The flags that stand on the command line itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Typed(BTreeSet<&'static str>);

impl Typed {
    /// Of what was parsed.
    pub fn of(matches: &ArgMatches) -> Self {
        let flags = [
            "context",
            "control_plane",
            "postgres_url",
            "relay_group_id",
            "token",
            "ca_cert",
            "client_cert",
            "client_key",
        ];
        let typed = |flag: &&str| matches.value_source(flag) == Some(ValueSource::CommandLine);
        Self(flags.into_iter().filter(typed).collect())
    }

    /// Whether this flag was typed.
    pub fn has(&self, flag: &str) -> bool {
        self.0.contains(flag)
    }
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
    /// For people with wide screens: as a table, with everything that a list knows
    Wide,
    /// For programs
    Json,
    /// For both
    Yaml,
    /// For programs that read as it comes: one line for each of a list
    Ndjson,
}
