//! The command line: what may be typed, and nothing about what it does.
//!
//! One file a verb family. A new command is a variant of [`Command`], its arguments, and a module
//! in `commands`.

mod bundle;
mod catalog;
mod context;
mod doctor;
pub mod duration;
mod fleet;
mod global;
mod hold;
mod letters;
mod locks;
pub mod moment;
mod operation;
mod rebalance;
mod select;
mod wait;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use self::wait::{InvalidSubject, WaitForArgs, WaitSubject};
pub use self::{
    bundle::{BundleCommand, CollectArgs},
    catalog::{
        ApplyArgs, InboxCommand, MigrateArgs, OutboxCommand, PipelineCommand, PublishArgs,
        RewindArgs, StatusArgs, TestArgs,
    },
    context::ContextCommand,
    doctor::{DoctorArgs, Part},
    fleet::{AgentCommand, EventsArgs, ExplainArgs, FleetCommand},
    global::{DEFAULT_CONTROL_PLANE, DEFAULT_GROUP, GlobalArgs, OutputFormat, SourceChoice, Typed},
    hold::{
        CordonArgs, FreezeArgs, HoldCommand, LiftArgs, PinArgs, RemoveHoldArgs, SetArgs,
        UncordonArgs, UnholdArgs,
    },
    letters::{DiscardArgs, DlqCommand, FilterArgs, ReplayArgs},
    locks::{LocksCommand, ReleaseArgs},
    operation::{DrainArgs, MoveArgs, OperationCommand, UndrainArgs, WaitArgs, WatchLimit},
    rebalance::{ApplyPlanArgs, Measure, PlanArgs, RebalanceCommand},
    select::{AgentSelector, SelectArgs},
};
pub use crate::commands::dev::{DevArgs, DevBrokerArgs, Scenario};
use crate::exit::AFTER_HELP;

/// `tidectl` and everything that may follow.
#[derive(Debug, Parser)]
#[command(
    name = "tidectl",
    version,
    about = "Operate a Tide fleet: outboxes, inboxes, pipelines, agents, drains",
    after_help = AFTER_HELP,
    max_term_width = 100,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Install or upgrade the catalog in PostgreSQL
    Migrate(MigrateArgs),
    /// Create, inspect and drop outboxes; publish to them
    #[command(subcommand)]
    Outbox(OutboxCommand),
    /// Create, inspect and drop inboxes
    #[command(subcommand)]
    Inbox(InboxCommand),
    /// Configure, inspect and switch pipelines
    #[command(subcommand)]
    Pipeline(PipelineCommand),
    /// Look at messages that sinks refused, have them delivered again, discard them
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Show the fleet as a whole
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// Show agents, and forget those that are gone
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Empty an agent and keep it empty; says when it is safe to stop
    Drain(DrainArgs),
    /// Let a drained or draining agent work again
    Undrain(UndrainArgs),
    /// Let an agent keep what it has and take nothing more
    Cordon(CordonArgs),
    /// End your cordon of an agent
    Uncordon(UncordonArgs),
    /// Wait until an agent or a pipeline is as it should be
    Wait(WaitForArgs),
    /// List holds on agents and pipelines, and take them away
    #[command(subcommand)]
    Hold(HoldCommand),
    /// Even out the load
    #[command(subcommand)]
    Rebalance(RebalanceCommand),
    /// Bring one pipeline to an agent
    Move(MoveArgs),
    /// Follow, list and cancel drains, moves and rebalances
    #[command(subcommand, alias = "op")]
    Operation(OperationCommand),
    /// Show straight from PostgreSQL who owns what and whether it progresses
    Status(StatusArgs),
    /// Examine database, rights, settings, control planes and fleet; exit code 6 if a check fails
    Doctor(DoctorArgs),
    /// Compare the locks in PostgreSQL with the owners on record; release those that are nobody's
    #[command(subcommand)]
    Locks(LocksCommand),
    /// Explain where a pipeline is, why not elsewhere, and what it waits for; exit code 6 if that is
    /// an operator
    Explain(ExplainArgs),
    /// Show who did what, when and why; and who took over from whom
    Events(EventsArgs),
    /// Gather what every view says into one archive, for whoever is to help
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Give fleets names, and choose one
    #[command(subcommand)]
    Context(ContextCommand),
    /// Run a throw-away fleet on this machine
    Dev(DevArgs),
    /// Be the broker of a throw-away fleet
    #[command(hide = true)]
    DevBroker(DevBrokerArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write the pages of all commands
    Man {
        /// Write a page for each command to this folder; it is made if it is missing
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// Print the version
    Version,
}

impl Command {
    /// Whether it needs to know no fleet, so that a bad context is no hindrance.
    pub fn asks_nobody(&self) -> bool {
        matches!(
            self,
            Self::Context(_)
                | Self::Completion { .. }
                | Self::Man { .. }
                | Self::Version
                | Self::Dev(_)
                | Self::DevBroker(_)
        )
    }
}

#[cfg(test)]
mod tests;
