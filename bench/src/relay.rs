//! Rows a second from a backlog of 512-byte messages.

use std::time::Duration;

use anyhow::Result;
use tide_catalog::{messages::Message, outboxes::outbox_create, pipelines::pipeline_set};
use tide_sandbox::wait::eventually;
use tokio::time::Instant;

use crate::rig::{Rig, say};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Messages in the backlog.
    #[arg(long, default_value_t = 1_000_000)]
    rows: i64,
    /// Messages in a batch, for both.
    #[arg(long, default_value_t = 1_000)]
    batch: i64,
    /// Rounds; each prints its own ratio.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// Measures and prints.
pub async fn run(args: Args) -> Result<()> {
    let rig = Rig::start().await?;
    let mut connection = rig.pool.acquire().await?;
    outbox_create(&mut connection, "bench", None).await?;
    sqlx::query(
        "INSERT INTO tide.outbox_bench (key, payload)
         SELECT 'key-' || i % 1000, jsonb_build_object('n', i, 'text', repeat('x', 480)) FROM generate_series(1, $1) i",
    )
    .bind(args.rows)
    .execute(&mut *connection)
    .await?;
    sqlx::query("VACUUM ANALYZE tide.outbox_bench")
        .execute(&mut *connection)
        .await?;
    drop(connection);
    let agent = rig.agent("bench", &[]).await?;
    for round in 1..=args.rounds {
        let bare = bare_loop(&rig, &args).await?;
        let relayed = through_the_agent(&rig, &args, round).await?;
        say(&format!(
            "round {round}: bare read loop {bare:>9.0} rows/s   null sink {relayed:>9.0} rows/s   ratio {:.2}",
            relayed / bare
        ))?;
    }
    drop(agent);
    Ok(())
}

/// The same columns by primary key, decoded into the same type, and nothing else.
async fn bare_loop(rig: &Rig, args: &Args) -> Result<f64> {
    let mut connection = rig.pool.acquire().await?;
    let started = Instant::now();
    let mut last = 0;
    loop {
        let page: Vec<Message> = sqlx::query_as(
            "SELECT id, event_id, key, payload::text, headers::text, created_at
             FROM tide.outbox_bench WHERE id > $1 ORDER BY id LIMIT $2",
        )
        .bind(last)
        .bind(args.batch)
        .fetch_all(&mut *connection)
        .await?;
        match page.last() {
            Some(message) => last = message.id,
            None => return Ok(args.rows as f64 / started.elapsed().as_secs_f64()),
        }
    }
}

/// From writing the pipeline to its position at the end of the outbox, stored.
async fn through_the_agent(rig: &Rig, args: &Args, round: u32) -> Result<f64> {
    let name = format!("null-{round}");
    let config = serde_json::json!({"sink_type": "null", "batch_size": args.batch});
    let started = Instant::now();
    pipeline_set(&mut *rig.pool.acquire().await?, &name, "bench", &config).await?;
    eventually(
        Duration::from_mins(10),
        "the pipeline to reach the end",
        async || {
            let position: Option<i64> = sqlx::query_scalar(
                "SELECT last_change_id FROM tide.relay_consumer_offsets WHERE name = $1",
            )
            .bind(&name)
            .fetch_optional(&rig.pool)
            .await?;
            Ok::<_, sqlx::Error>((position >= Some(args.rows)).then_some(()))
        },
    )
    .await?;
    Ok(args.rows as f64 / started.elapsed().as_secs_f64())
}
