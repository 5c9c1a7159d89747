//! What publishers lose to a fleet that reads what they write.
//!
//! Publishing goes on all the time, on a server that makes every commit durable, and in slices of it
//! the fleet reads or does not read. What a machine does by the way (checkpoints, its neighbours on
//! the same disk) changes publishing by more than the fleet does, so each slice is compared with the
//! one beside it only, and the mean comes with its standard error.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use sqlx::PgConnection;
use tide_catalog::{
    outboxes::outbox_create,
    pipelines::{pipeline_delete, pipeline_set},
};
use tide_daemon::duration::parse_seconds;
use tide_sandbox::postgres;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::rig::{Rig, say};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Connections that publish at a time, one measurement each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    connections: Vec<u32>,
    /// How long each slice is: seconds, or 500ms, 5m.
    #[arg(long, default_value = "2", value_parser = parse_seconds, value_name = "TIME")]
    over: Duration,
    /// Slices with and without the fleet reading, in turn.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..))]
    rounds: u32,
    /// Agents, of which one reads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    agents: u32,
    /// Transactions a second of all publishers; 0 means as many as they can.
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

/// The outbox and its one pipeline.
const NAME: &str = "bench";
const SCRIPT: &str = "SELECT tide.outbox_publish('bench', '{\"text\": \"";
/// So much of the rate is wanted with the fleet reading.
const WANTED: f64 = 0.97;
/// Until publishers have connected, and until readers have begun.
const PATIENCE: Duration = Duration::from_secs(20);

/// Measures and prints.
pub async fn run(args: Args) -> Result<()> {
    let settings = [
        ("shared_buffers", "1GB"),
        // None in the middle of a slice.
        ("max_wal_size", "32GB"),
        ("checkpoint_timeout", "1h"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let rig = Rig::start_durable(settings.to_vec()).await?;
    let pgbench = pgbench()?;
    let mut connection = rig.pool.acquire().await?;
    outbox_create(&mut connection, NAME, None).await?;
    let script = rig.scratch.path().join("publish.sql");
    std::fs::write(&script, format!("{SCRIPT}{}\"}}');\n", "x".repeat(480)))?;
    let mut agents = Vec::new();
    for number in 1..=args.agents {
        agents.push(rig.agent(&format!("relay-{number}"), &[]).await?);
    }
    for connections in &args.connections {
        sqlx::query("TRUNCATE tide.outbox_bench")
            .execute(&mut *connection)
            .await?;
        sqlx::query("CHECKPOINT").execute(&mut *connection).await?;
        let mut publishers = publish(&pgbench, &rig, &script, *connections, &args)?;
        let slices = slices(&mut connection, &args).await;
        publishers.kill().await?;
        let slices = slices?;
        let (ratio, error) = ratio(&slices);
        let alone = mean(slices.iter().map(|(_, without)| *without));
        let with = mean(slices.iter().map(|(with, _)| *with));
        say(&format!(
            "{connections:>3} connections: {alone:>8.0} transactions/s alone, {with:>8.0} with the fleet reading, \
             ratio {ratio:.3} ± {error:.3}, wanted: {WANTED:.2}"
        ))?;
    }
    Ok(())
}

/// Transactions a second with and without the fleet reading, slice beside slice.
async fn slices(connection: &mut PgConnection, args: &Args) -> Result<Vec<(f64, f64)>> {
    let began = drawn(connection).await?;
    moves(connection, "publishers to connect", async |connection| {
        Ok(drawn(connection).await? > began + 100)
    })
    .await?;
    let mut slices = Vec::new();
    for round in 0..args.rounds {
        let (mut with, mut without) = (0.0, 0.0);
        // with, without, without, with, …
        for reading in [round % 2 == 0, round % 2 == 1] {
            if reading {
                begin_to_read(connection).await?;
                with = rate(connection, args.over).await?;
                pipeline_delete(connection, NAME).await?;
            } else {
                without = rate(connection, args.over).await?;
            }
        }
        slices.push((with, without));
    }
    Ok(slices)
}

/// From the newest message on, so that there is nothing to catch up with.
async fn begin_to_read(connection: &mut PgConnection) -> Result<()> {
    let config = serde_json::json!({"sink_type": "null", "start": "latest"});
    pipeline_set(connection, NAME, NAME, &config).await?;
    let now = drawn(connection).await?;
    moves(connection, "the fleet to read", async |connection| {
        let position: Option<i64> = sqlx::query_scalar(
            "SELECT last_change_id FROM tide.relay_consumer_offsets WHERE name = $1",
        )
        .bind(NAME)
        .fetch_optional(connection)
        .await?;
        Ok(position > Some(now))
    })
    .await
}

async fn moves(
    connection: &mut PgConnection,
    what: &str,
    has: impl AsyncFn(&mut PgConnection) -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !has(connection).await? {
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} for {what}");
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Messages published a second.
async fn rate(connection: &mut PgConnection, over: Duration) -> Result<f64> {
    let (before, began) = (drawn(connection).await?, Instant::now());
    sleep(over).await;
    let after = drawn(connection).await?;
    ensure!(after > before, "the publishers have stopped");
    Ok((after - before) as f64 / began.elapsed().as_secs_f64())
}

/// The newest message's id: publishers draw one each transaction, and roll none back.
async fn drawn(connection: &mut PgConnection) -> Result<i64> {
    let last = sqlx::query_scalar(
        "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('tide.outbox_bench', 'id')::regclass), 0)",
    );
    Ok(last.fetch_one(connection).await?)
}

/// Publishes until it is killed.
fn publish(
    pgbench: &Path,
    rig: &Rig,
    script: &Path,
    connections: u32,
    args: &Args,
) -> Result<Child> {
    let mut command = Command::new(pgbench);
    command
        .args(["--no-vacuum", "--protocol", "prepared", "--file"])
        .arg(script)
        .args(["--client", &connections.to_string()])
        .args(["--jobs", &connections.min(4).to_string()])
        // It is killed long before.
        .args(["--time", "86400"])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true);
    if args.rate > 0 {
        command.args(["--rate", &args.rate.to_string()]);
    }
    command.arg(&rig.url).spawn().context("pgbench")
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

/// The geometric mean of the ratios, and its standard error.
fn ratio(slices: &[(f64, f64)]) -> (f64, f64) {
    let logs: Vec<f64> = slices
        .iter()
        .map(|(with, without)| (with / without).ln())
        .collect();
    let count = logs.len() as f64;
    let middle = mean(logs.iter().copied());
    let spread: f64 = logs.iter().map(|log| (log - middle).powi(2)).sum();
    let error = (spread / (count - 1.0) / count).sqrt();
    (middle.exp(), middle.exp() * error)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_a_mean_of_ratios_and_says_how_sure_it_is() {
        let (exact, none) = ratio(&[(97.0, 100.0), (194.0, 200.0)]);
        assert!((exact - 0.97).abs() < 1e-9 && none < 1e-9);
        let (middle, error) = ratio(&[(50.0, 100.0), (200.0, 100.0)]);
        assert!(
            (middle - 1.0).abs() < 1e-9 && error > 0.5,
            "{middle} {error}"
        );
    }
}
