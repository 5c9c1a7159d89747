//! `tide-bench`: `cargo run --release -p tide-bench -- relay`.

use clap::{Parser, Subcommand};
use tide_bench::{failover, fleet, idle, latency, publish, relay};
use tide_daemon::crypto::install_crypto_provider;

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
    /// What a control plane costs with a large fleet, and how soon it shows what it is told.
    Fleet(fleet::Args),
    /// From a commit to the sink, with and without an unrelated transaction that stays open.
    Latency(latency::Args),
    /// What publishers lose to a fleet that reads what they write (needs pgbench).
    Publish(publish::Args),
    /// What many pipelines cost that have nothing to do.
    Idle(idle::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    install_crypto_provider();
    match Args::parse().command {
        Command::Relay(args) => relay::run(args).await,
        Command::Failover(args) => failover::run(args).await,
        Command::Fleet(args) => fleet::run(args).await,
        Command::Latency(args) => latency::run(args).await,
        Command::Publish(args) => publish::run(args).await,
        Command::Idle(args) => idle::run(args).await,
    }
}
