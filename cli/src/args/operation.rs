//! Commands that change the fleet, and the operations that they start.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tide_model::{
    AgentName, OperationId, UnitName,
    hold::{DrainMode, DrainTerms, OnDeadline},
};

use super::{duration, hold::LiftArgs, select::AgentSelector};

/// Arguments of `drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The agents, or patterns of their names in quotes, such as 'relay-*'; several are judged and
    /// emptied together
    #[arg(value_name = "AGENT", required = true)]
    pub agents: Vec<AgentSelector>,
    /// Do not ask, where a pattern says which agents
    #[arg(long, short)]
    pub yes: bool,
    /// What for; shown with the hold and recorded
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub reason: String,
    /// What comes afterwards
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Mode::Evacuate)]
    pub mode: Mode,
    /// Give up after this long; the hold stays
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    pub deadline: Option<Duration>,
    /// What becomes of what is left at the deadline
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value_t = AtDeadline::Keep,
        requires = "deadline"
    )]
    pub on_deadline: AtDeadline,
    /// Hand over at most so many pipelines at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub pace: Option<u32>,
    /// Drain even if some pipelines have nowhere to go, or are to stay, or a pattern means all agents
    #[arg(long)]
    pub force: bool,
    /// Only say where each pipeline would go
    #[arg(long, conflicts_with_all = ["wait", "detach", "deadline"])]
    pub plan: bool,
    /// Whether to wait.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// What comes after a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The agent comes back: the hold ends when it is started again, and its share returns
    Restart,
    /// It stays empty until it is undrained
    Evacuate,
    /// It ends by itself once it is empty, and is forgotten
    Remove,
}

/// What becomes of what is left at the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AtDeadline {
    /// The drain has failed, and the agent goes on giving away
    Keep,
    /// What is on the wire is given up, and may come twice
    Force,
}

impl DrainArgs {
    /// How the agents are drained.
    pub fn terms(&self) -> DrainTerms {
        DrainTerms {
            mode: match self.mode {
                Mode::Restart => DrainMode::Restart,
                Mode::Evacuate => DrainMode::Evacuate,
                Mode::Remove => DrainMode::Remove,
            },
            on_deadline: match self.on_deadline {
                AtDeadline::Keep => OnDeadline::Keep,
                AtDeadline::Force => OnDeadline::Force,
            },
            pace: self.pace,
        }
    }
}

/// Arguments of `undrain`.
#[derive(Debug, Args)]
pub struct UndrainArgs {
    /// The agent
    pub agent: AgentName,
    /// Whether to break others'.
    #[command(flatten)]
    pub lift: LiftArgs,
}

/// Arguments of `move`.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// The pipeline
    pub pipeline: UnitName,
    /// The agent that shall own it
    #[arg(long, value_name = "AGENT")]
    pub to: AgentName,
    /// What for; recorded
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub reason: String,
    /// Give up after this long
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    pub deadline: Option<Duration>,
    /// Whether to wait.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// What to do with operations.
#[derive(Debug, Subcommand)]
pub enum OperationCommand {
    /// List operations, newest first
    #[command(visible_alias = "ls")]
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one operation and where each of its pipelines stands
    Show {
        /// Its id
        id: OperationId,
    },
    /// Follow one operation to its end
    Watch {
        /// Its id
        id: OperationId,
        /// How long to watch.
        #[command(flatten)]
        limit: WatchLimit,
    },
    /// Give one operation up; what has moved stays where it is
    Cancel {
        /// Its id
        id: OperationId,
    },
}

/// Whether to wait for the end of an operation.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Wait for the end (the default), at most this long; then exit with 5, and the operation goes on
    #[arg(
        long,
        value_name = "LIMIT",
        num_args = 0..=1,
        require_equals = true,
        conflicts_with = "detach",
        value_parser = duration::parse_positive
    )]
    pub wait: Option<Option<Duration>>,
    /// Return at once; the operation goes on
    #[arg(long)]
    pub detach: bool,
}

/// How long to watch.
#[derive(Debug, Clone, Args)]
pub struct WatchLimit {
    /// Stop watching after this long and exit with 5; the operation goes on
    #[arg(long, value_name = "LIMIT", value_parser = duration::parse_positive)]
    pub wait: Option<Duration>,
}

impl WaitArgs {
    /// The longest time to wait; forever if none.
    pub fn limit(&self) -> Option<Duration> {
        self.wait.flatten()
    }
}
