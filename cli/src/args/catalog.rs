//! Commands that go straight to PostgreSQL: the catalog, outboxes, pipelines, status.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use tide_model::{AgentName, PipelineName, UnitName};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    duration,
    hold::{FreezeArgs, PinArgs, UnholdArgs},
    moment,
    select::SelectArgs,
};

/// Arguments of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Only say what would be applied
    #[arg(long)]
    pub dry_run: bool,
}

/// What to do with outboxes.
#[derive(Debug, Subcommand)]
pub enum OutboxCommand {
    /// Create an outbox
    Create {
        /// Its name
        name: String,
        /// How long delivered messages stay at least, as a PostgreSQL interval [default: 24 hours]
        #[arg(long, value_name = "INTERVAL")]
        retention: Option<String>,
    },
    /// List outboxes
    #[command(visible_alias = "ls")]
    List,
    /// Show size, position and slowest pipeline of one outbox or all
    Status {
        /// Only this one
        name: Option<String>,
    },
    /// Publish one message and print its event id
    Publish(PublishArgs),
    /// Drop an outbox and its messages
    Drop {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Arguments of `outbox publish`.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The outbox
    pub name: String,
    /// JSON, @FILE to read it from a file, or - for standard input
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    pub payload: String,
    /// Messages of one key are delivered in order
    #[arg(long)]
    pub key: Option<String>,
    /// A JSON object
    #[arg(long, value_name = "JSON")]
    pub headers: Option<String>,
    /// Identity of the message; drawn by the database if absent
    #[arg(long, value_name = "UUID")]
    pub event_id: Option<Uuid>,
}

/// What to do with inboxes.
#[derive(Debug, Subcommand)]
pub enum InboxCommand {
    /// Create an inbox
    Create {
        /// Its name
        name: String,
        /// How long processed messages stay at least, as a PostgreSQL interval [default: 72 hours]
        #[arg(long, value_name = "INTERVAL")]
        retention: Option<String>,
    },
    /// List inboxes
    #[command(visible_alias = "ls")]
    List,
    /// Show what waits in one inbox or all, since when, and what failed
    Status {
        /// Only this one
        name: Option<String>,
    },
    /// Drop an inbox and its messages
    Drop {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// What to do with pipelines.
#[derive(Debug, Subcommand)]
pub enum PipelineCommand {
    /// Create and change pipelines as files describe them, all or none
    Apply(ApplyArgs),
    /// List pipelines
    #[command(visible_alias = "ls")]
    List {
        /// Only those that this agent owns
        #[arg(long, value_name = "AGENT")]
        owner: Option<AgentName>,
        /// Which of them, and in which order.
        #[command(flatten)]
        select: SelectArgs,
    },
    /// Show one pipeline
    Show {
        /// Its name, or one shard's: orders#2/4
        name: UnitName,
    },
    /// Let a pipeline run
    Enable {
        /// Its name
        name: PipelineName,
    },
    /// Stop a pipeline; its position stays
    Disable {
        /// Its name
        name: PipelineName,
    },
    /// Deliver nothing until resumed; the owner stays, and the batch on its way is finished
    Pause {
        /// Its name
        name: PipelineName,
        /// Shown wherever the pipeline is
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// It goes on by itself after this long
        #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse_positive)]
        lasting: Option<Duration>,
    },
    /// End your pause: the pipeline goes on where it was, unless others have paused it too
    Resume(UnholdArgs),
    /// Keep a pipeline at one agent, for as long as that one can run it
    Pin(PinArgs),
    /// End your pin of a pipeline
    Unpin(UnholdArgs),
    /// Keep a pipeline where it is, for as long as its owner can run it
    Freeze(FreezeArgs),
    /// End your freeze of a pipeline
    Unfreeze(UnholdArgs),
    /// Deliver again what was delivered after a message or a time
    Rewind(RewindArgs),
    /// Show what would become of the newest messages, and send nothing
    Test(TestArgs),
    /// Delete a pipeline and its position; the messages stay
    Delete {
        /// Its name
        name: PipelineName,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Arguments of `pipeline rewind`.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true))]
pub struct RewindArgs {
    /// Its name; all its shards are rewound
    pub name: PipelineName,
    /// The last message that is not delivered again
    #[arg(long, value_name = "ID", group = "target", value_parser = clap::value_parser!(i64).range(0..))]
    pub to_id: Option<i64>,
    /// Deliver again what was written at this time or later: 2026-11-21T10:00:00Z, or how long
    /// ago, such as 90m
    #[arg(long, value_name = "TIME", group = "target", value_parser = moment::parse)]
    pub to_time: Option<OffsetDateTime>,
    /// Deliver everything again that the outbox has
    #[arg(long, group = "target")]
    pub to_beginning: bool,
    /// Go on although the outbox's retention has taken some of the messages
    #[arg(long)]
    pub accept_gone: bool,
    /// Recorded in the audit
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Only say how many messages would be delivered again
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Arguments of `pipeline test`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("pipeline").required(true))]
pub struct TestArgs {
    /// A pipeline that is there
    #[arg(group = "pipeline")]
    pub name: Option<PipelineName>,
    /// One that is not, or not yet as it will be: YAML or JSON; - for standard input
    #[arg(short, long, value_name = "FILE", group = "pipeline")]
    pub file: Option<PathBuf>,
    /// With so many of the newest messages of its outbox
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = up_to_a_thousand)]
    pub last: usize,
}

fn up_to_a_thousand(text: &str) -> Result<usize, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=1_000).contains(number));
    number.ok_or_else(|| "a whole number from 1 to 1000".to_owned())
}

/// Arguments of `pipeline apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
A file holds one pipeline, several documents, or a list, in YAML or JSON:
  name: orders
  outbox: order_events
  config: {sink_type: kafka, brokers: 'kafka:9092', topic: orders}")]
pub struct ApplyArgs {
    /// YAML or JSON; - for standard input; may be repeated
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Only say what would change; the database checks it and forgets it
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Time between the two looks that tell whether pipelines progress; 0 looks once
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    pub interval: Duration,
}
