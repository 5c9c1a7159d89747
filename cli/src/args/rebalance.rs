//! Plans that even out the load.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tide_model::{PlanId, rebalance::By};

use super::{duration, operation::WaitArgs};

/// What to do about the balance.
#[derive(Debug, Subcommand)]
pub enum RebalanceCommand {
    /// Show what would even out the load, and keep the plan for a day; exit code 3 if there is
    /// something to do
    Plan(PlanArgs),
    /// Show a plan that is kept
    Show {
        /// Its id
        #[arg(value_name = "PLAN_ID")]
        plan: PlanId,
        /// Also show what stays where it is, and why
        #[arg(long)]
        all: bool,
    },
    /// Show a plan, ask, and carry it out; applied again, it is the same operation
    Apply(ApplyPlanArgs),
    /// Show whether control planes even out the load by themselves, and why not now
    Status,
    /// Keep control planes from evening out the load by themselves
    Pause {
        /// What for; shown and recorded
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// For how long; without an end if absent
        #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse_positive)]
        lasting: Option<Duration>,
    },
    /// End your pause
    Resume {
        /// End others' pauses too
        #[arg(long = "break")]
        breaking: bool,
    },
}

/// Arguments of `rebalance plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// What pipelines count for
    #[arg(long, value_enum, value_name = "MEASURE", default_value_t = Measure::Weight)]
    pub by: Measure,
    /// Also show what stays where it is, and why
    #[arg(long)]
    pub all: bool,
    /// Only show the plan, and keep nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `rebalance apply`.
#[derive(Debug, Args)]
pub struct ApplyPlanArgs {
    /// The plan; without one, a plan is made now
    #[arg(value_name = "PLAN_ID")]
    pub plan: Option<PlanId>,
    /// What pipelines count for, if a plan is made now [default: weight]
    #[arg(long, value_enum, value_name = "MEASURE", conflicts_with = "plan")]
    pub by: Option<Measure>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
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

/// What pipelines count for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// Their weights in force
    #[default]
    Weight,
    /// What they were measured to deliver, unless their configuration gives them a weight
    Load,
}

impl From<Measure> for By {
    fn from(measure: Measure) -> Self {
        match measure {
            Measure::Weight => Self::Weight,
            Measure::Load => Self::Load,
        }
    }
}
