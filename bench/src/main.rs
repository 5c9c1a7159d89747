//! `tide-bench`: `cargo run --release -p tide-bench -- relay`.

use clap::{Parser, Subcommand};
use tide_bench::{failover, relay};

/// Measures Tide against what this machine can do. Build with --release, agents included.
#[derive(Debug, Parser)]
#[command(name = "tide-bench", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Rows a second from a backlog: a bare read loop, and a whole agent with the null sink.
    Relay(relay::Args),
    /// From the loss of an owner, or a planned change, to the next delivery by another agent.
    Failover(failover::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Relay(args) => relay::run(args).await,
        Command::Failover(args) => failover::run(args).await,
    }
}
