//! Commands about the locks of pipelines.

use clap::{Args, Subcommand};

/// What to do with the locks of pipelines.
#[derive(Debug, Subcommand)]
pub enum LocksCommand {
    /// Compare the locks that sessions hold with the owners on record; exit code 3 if they differ
    #[command(visible_alias = "ls")]
    List,
    /// List the locks of sessions that are no agent's; exit code 3 if there are any
    Orphans,
    /// End sessions that hold locks and are no agent's
    Release(ReleaseArgs),
}

/// Arguments of `locks release`.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// Backends of the sessions, as `locks orphans` lists them
    #[arg(
        value_name = "PID",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub pids: Vec<i32>,
    /// All of them
    #[arg(long)]
    pub all: bool,
    /// Recorded in the audit
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}
