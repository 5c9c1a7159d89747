//! Commands about dead letters.

use clap::{Args, Subcommand};
use time::OffsetDateTime;

use super::moment;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// List dead letters in the order in which they were refused
    #[command(visible_alias = "ls")]
    List {
        /// Which
        #[command(flatten)]
        filter: FilterArgs,
        /// At most so many
        #[arg(long, value_name = "COUNT", default_value_t = 100,
              value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
    },
    /// List keys that are parked: a message of theirs was refused, and later ones wait behind it
    Keys {
        /// Of this pipeline
        #[arg(long, value_name = "NAME")]
        pipeline: Option<String>,
        /// At most so many
        #[arg(long, value_name = "COUNT", default_value_t = 100,
              value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
    },
    /// Show one dead letter, whole
    Show {
        /// Its number, from the list
        id: i64,
    },
    /// Have dead letters delivered again by the pipelines' owners
    Replay(ReplayArgs),
    /// Delete dead letters for good
    Discard(DiscardArgs),
}

/// Which letters.
#[derive(Debug, Clone, Args)]
pub struct FilterArgs {
    /// Of this pipeline
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Of this key
    #[arg(long)]
    pub key: Option<String>,
    /// Whose reason contains this, in any case
    #[arg(long, value_name = "TEXT")]
    pub error: Option<String>,
    /// Refused at this time or later: 2026-11-21T10:00:00Z, or how long ago, such as 90m
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    pub since: Option<OffsetDateTime>,
    /// Refused before this time
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    pub until: Option<OffsetDateTime>,
    /// These, with commas between
    #[arg(long = "id", value_name = "ID", value_delimiter = ',')]
    pub ids: Vec<i64>,
}

/// Arguments of `dlq replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Which
    #[command(flatten)]
    pub filter: FilterArgs,
    /// All of the group
    #[arg(long)]
    pub all: bool,
    /// At most so many messages a second of each shard
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub rate: Option<f64>,
    /// Recorded with the replay
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Only say which would be delivered again
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask, however many there are
    #[arg(long, short)]
    pub yes: bool,
}

/// Arguments of `dlq discard`.
#[derive(Debug, Args)]
pub struct DiscardArgs {
    /// Which
    #[command(flatten)]
    pub filter: FilterArgs,
    /// All of the group
    #[arg(long)]
    pub all: bool,
    /// Recorded in the audit
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Only say which would be deleted
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err("use a number above zero, such as 50 or 0.5".to_owned()),
    }
}
