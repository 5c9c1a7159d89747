//! Commands about holds.

use std::time::Duration;

use clap::{Args, Subcommand};
use tide_model::{AgentName, HoldId, PipelineName};

use super::duration;

/// What to do with holds.
#[derive(Debug, Subcommand)]
pub enum HoldCommand {
    /// List every hold that is in force: on whom, whose, until when, what for
    #[command(visible_alias = "ls")]
    List,
    /// Take holds away: your own, or anybody's with --break
    #[command(visible_alias = "rm")]
    Remove(RemoveHoldArgs),
}

/// Arguments of `hold remove`.
#[derive(Debug, Args)]
pub struct RemoveHoldArgs {
    /// Ids, as `hold list` shows them
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<HoldId>,
    /// Whether to break others'.
    #[command(flatten)]
    pub lift: LiftArgs,
}

/// Arguments of `cordon`.
#[derive(Debug, Args)]
pub struct CordonArgs {
    /// The agent
    pub agent: AgentName,
    /// How it is held.
    #[command(flatten)]
    pub hold: SetArgs,
}

/// Arguments of `uncordon`.
#[derive(Debug, Args)]
pub struct UncordonArgs {
    /// The agent
    pub agent: AgentName,
    /// Whether to break others'.
    #[command(flatten)]
    pub lift: LiftArgs,
}

/// Arguments of `pipeline pin`.
#[derive(Debug, Args)]
pub struct PinArgs {
    /// The pipeline, with all its shards
    pub name: PipelineName,
    /// The agent that shall keep it; its present owner if none is named
    #[arg(long, value_name = "AGENT")]
    pub to: Option<AgentName>,
    /// How it is held.
    #[command(flatten)]
    pub hold: SetArgs,
}

/// Arguments of `pipeline freeze`.
#[derive(Debug, Args)]
pub struct FreezeArgs {
    /// The pipeline, with all its shards
    pub name: PipelineName,
    /// How it is held.
    #[command(flatten)]
    pub hold: SetArgs,
}

/// Arguments of `pipeline unpin` and `pipeline unfreeze`.
#[derive(Debug, Args)]
pub struct UnholdArgs {
    /// The pipeline
    pub name: PipelineName,
    /// Whether to break others'.
    #[command(flatten)]
    pub lift: LiftArgs,
}

/// How a hold is set.
#[derive(Debug, Clone, Args)]
pub struct SetArgs {
    /// What for; shown wherever the hold is
    #[arg(long, value_name = "TEXT", required = true)]
    pub reason: String,
    /// It ends by itself after this long
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse_positive)]
    pub lasting: Option<Duration>,
    /// Tells it apart from another of yours on the same target; your name if none
    #[arg(long = "as", value_name = "NAME")]
    pub name_of_hold: Option<String>,
}

/// How holds are taken away.
#[derive(Debug, Clone, Args)]
pub struct LiftArgs {
    /// Take others' away too
    #[arg(long = "break")]
    pub breaking: bool,
    /// What for; recorded
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub reason: String,
}
