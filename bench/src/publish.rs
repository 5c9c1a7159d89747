//! What publishers lose to a fleet that reads what they write.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tide_catalog::{outboxes::outbox_create, pipelines::pipeline_set};
use tide_daemon::duration::parse_seconds;
use tide_sandbox::{postgres, process::Process};
use tokio::process::Command;

use crate::rig::{Rig, say};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Connections that publish at a time, one measurement each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    connections: Vec<u32>,
    /// How long each run publishes: seconds, or 500ms, 5m.
    #[arg(long, default_value = "10", value_parser = parse_seconds, value_name = "TIME")]
    over: Duration,
    /// Runs with and without the fleet, in turn.
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Agents that read.
    #[arg(long, default_value_t = 1)]
    agents: usize,
    /// Transactions a second of all publishers; 0 means as many as they can.
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

const SCRIPT: &str = "SELECT tide.outbox_publish('bench', '{\"text\": \"";

/// Measures and prints. With and without alternate, so that a machine that warms up or tires does
/// so for both.
pub async fn run(args: Args) -> Result<()> {
    ensure!(
        args.agents > 0 && args.rounds > 0,
        "--agents and --rounds must be 1 at least"
    );
    let rig = Rig::start().await?;
    let pgbench = pgbench()?;
    let mut connection = rig.pool.acquire().await?;
    outbox_create(&mut connection, "bench", None).await?;
    let config = serde_json::json!({"sink_type": "null"});
    pipeline_set(&mut connection, "bench", "bench", &config).await?;
    let script = rig.scratch.path().join("publish.sql");
    std::fs::write(&script, format!("{SCRIPT}{}\"}}');\n", "x".repeat(480)))?;
    for connections in &args.connections {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for round in 0..args.rounds {
            // with, without, without, with, …
            for reading in [round % 2 == 0, round % 2 == 1] {
                sqlx::query("TRUNCATE tide.outbox_bench")
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("CHECKPOINT").execute(&mut *connection).await?;
                let fleet = if reading {
                    fleet(&rig, &args).await?
                } else {
                    Vec::new()
                };
                let rate = publish(&pgbench, &rig, &script, *connections, &args).await?;
                drop(fleet);
                if reading { &mut with } else { &mut without }.push(rate);
            }
        }
        let (with, without) = (median(with), median(without));
        say(&format!(
            "{connections:>3} connections: {without:>8.0} transactions/s alone, {with:>8.0} with the fleet reading, \
             ratio {:.3}, wanted: 0.97",
            with / without
        ))?;
    }
    Ok(())
}

async fn fleet(rig: &Rig, args: &Args) -> Result<Vec<Process>> {
    let mut agents = Vec::new();
    for number in 1..=args.agents {
        agents.push(rig.agent(&format!("relay-{number}"), &[]).await?);
    }
    Ok(agents)
}

/// Transactions a second, as pgbench says.
async fn publish(
    pgbench: &Path,
    rig: &Rig,
    script: &Path,
    connections: u32,
    args: &Args,
) -> Result<f64> {
    let mut command = Command::new(pgbench);
    command
        .args(["--no-vacuum", "--protocol", "prepared", "--file"])
        .arg(script)
        .args(["--client", &connections.to_string()])
        .args(["--jobs", &connections.min(4).to_string()])
        .args(["--time", &args.over.as_secs().max(1).to_string()])
        .kill_on_drop(true);
    if args.rate > 0 {
        command.args(["--rate", &args.rate.to_string()]);
    }
    let output = command.arg(&rig.url).output().await.context("pgbench")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "pgbench: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    parse(&text).with_context(|| format!("no rate in what pgbench said: {text}"))
}

fn parse(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

fn pgbench() -> Result<PathBuf> {
    let chosen =
        std::env::var_os(postgres::BIN_DIR).map(|folder| PathBuf::from(folder).join("pgbench"));
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let installed = debian.filter_map(|entry| Some(entry.ok()?.path().join("bin/pgbench")));
    chosen
        .into_iter()
        .chain(installed)
        .find(|path| path.exists())
        .context("pgbench is not there; it comes with PostgreSQL's server or its contrib package")
}

/// The middle; of an even number, the lower one.
fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates
        .get((rates.len().saturating_sub(1)) / 2)
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_what_pgbench_says() {
        let text = "number of failed transactions: 0 (0.000%)\ntps = 4123.5 (without initial connection time)\n";
        assert!(parse(text).is_some_and(|rate| (rate - 4123.5).abs() < 1e-9));
        assert_eq!(parse("pgbench (15)"), None);
    }

    #[test]
    fn the_middle_is_a_run_that_was() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.0).abs() < 1e-9);
    }
}
