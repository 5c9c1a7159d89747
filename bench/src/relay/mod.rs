//! Rows a second from a backlog of 512-byte messages: the bare read loop, every sink's bare client,
//! and the whole pipeline with that sink, each in the same run.
//!
//! A pipeline cannot be faster than its parts alone. Nor can it be faster than its parts together,
//! where they share the machine: the processor time that each takes for a row, added up, bounds what
//! all cores together can do. Both bounds are printed, and the ratio to the lower one.

mod clients;
mod speed;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};
use tide_catalog::{
    messages::{Message, PageLimits, Source, read_page},
    outboxes::outbox_create,
    pipelines::{pipeline_delete, pipeline_set},
};
use tide_model::Cursor;
use tide_sandbox::wait::eventually;

use self::{
    clients::{Destination, SinkKind},
    speed::{Speed, measure},
};
use crate::{
    cost::Who,
    distribution::Distribution,
    rig::{Rig, say},
};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Messages in the backlog.
    #[arg(long, default_value_t = 1_000_000)]
    rows: usize,
    /// Messages in a batch, for everybody.
    #[arg(long, default_value_t = 1_000)]
    batch: usize,
    /// Sinks.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = SinkKind::ALL)]
    sinks: Vec<SinkKind>,
    /// Rounds; each prints its own ratios, and several their medians.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
}

/// The outbox, and where its table is.
const OUTBOX: &str = "bench";
const RELATION: &str = "tide.outbox_bench";
/// So much of the bounds is wanted.
const WANTED: f64 = 0.8;

/// Measures and prints.
pub async fn run(args: Args) -> Result<()> {
    let rig = Rig::start().await?;
    let mut connection = rig.pool.acquire().await?;
    outbox_create(&mut connection, OUTBOX, None).await?;
    sqlx::query(
        "INSERT INTO tide.outbox_bench (key, payload)
         SELECT 'key-' || i % 1000, jsonb_build_object('n', i, 'text', repeat('x', 480)) FROM generate_series(1, $1) i",
    )
    .bind(args.rows as i64)
    .execute(&mut *connection)
    .await?;
    // The server has done its own writing before anything is measured.
    for quiet in ["VACUUM ANALYZE tide.outbox_bench", "CHECKPOINT"] {
        sqlx::query(quiet).execute(&mut *connection).await?;
    }
    drop(connection);
    let cores = std::thread::available_parallelism()?.get() as f64;
    say(&format!(
        "{} messages, {} a batch, {cores} cores; rows/s, and microseconds of processor time a row",
        args.rows, args.batch
    ))?;
    let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 1..=args.rounds {
        let (read, messages) = read_alone(&rig, &args).await?;
        say(&format!("round {round}\n  read loop        {read}"))?;
        for sink in &args.sinks {
            let mut destination = sink.start(&rig).await?;
            let alone = match &mut destination {
                Some(destination) => Some(send_alone(&rig, destination, &messages, &args).await?),
                None => None,
            };
            let config = destination
                .as_ref()
                .map_or_else(|| json!({"sink_type": "null"}), Destination::config);
            let whole = relayed(&rig, &args, destination.as_ref(), config).await?;
            let together = cores / (read.cpu + alone.map_or(0.0, |alone| alone.cpu));
            let bounds = [
                Some(read.rate),
                alone.map(|alone| alone.rate),
                Some(together),
            ];
            let lowest = bounds.into_iter().flatten().fold(f64::INFINITY, f64::min);
            let name = sink.name();
            if let Some(alone) = alone {
                say(&format!("  {name:<8} client  {alone}"))?;
            }
            let ratio = whole.rate / lowest;
            ratios.entry(name).or_default().push(ratio);
            say(&format!(
                "  {name:<8} whole   {whole}   parts together at most {together:>9.0}   ratio {ratio:.2}, wanted: {WANTED:.2}",
            ))?;
        }
    }
    if args.rounds > 1 {
        say("medians of all rounds")?;
        for (name, ratios) in ratios {
            let median = Distribution::of(&ratios).quantile(0.5);
            say(&format!(
                "  {name:<8} ratio {median:.2}, wanted: {WANTED:.2}"
            ))?;
        }
    }
    Ok(())
}

/// The agent's own read, page after page, and nothing else. Returns the last pages too, for those who
/// send from memory.
async fn read_alone(rig: &Rig, args: &Args) -> Result<(Speed, Vec<Message>)> {
    let mut connection = rig.pool.acquire().await?;
    let source = Source {
        relation: RELATION.to_owned(),
        shard: None,
    };
    let limits = PageLimits {
        messages: args.batch,
        bytes: usize::MAX,
    };
    let who = [Who::Process(std::process::id()), Who::Family(rig.server()?)];
    let mut kept = Vec::new();
    let speed = measure(args.rows, &who, async {
        let mut cursor = Cursor::beginning();
        loop {
            let page = read_page(&mut connection, &source, &cursor, limits).await?;
            if page.messages.is_empty() {
                return Ok(());
            }
            cursor = page.cursor;
            kept = page.messages;
        }
    })
    .await?;
    Ok((speed, kept))
}

/// The client that the sink uses, fed with the same messages again and again.
async fn send_alone(
    rig: &Rig,
    destination: &mut Destination,
    messages: &[Message],
    args: &Args,
) -> Result<Speed> {
    let mut who = vec![Who::Process(std::process::id()), Who::Family(rig.server()?)];
    who.extend(destination.process());
    let mut client = destination.client(rig, messages).await?;
    measure(args.rows, &who, async {
        let mut sent = 0;
        while sent < args.rows {
            sent += client.send_batch(args.batch.min(args.rows - sent)).await?;
        }
        Ok(())
    })
    .await
}

/// From writing the pipeline to its position at the end of the outbox, stored.
async fn relayed(
    rig: &Rig,
    args: &Args,
    destination: Option<&Destination>,
    mut config: Value,
) -> Result<Speed> {
    let agent = rig.agent("bench", &[]).await?;
    config["batch_size"] = json!(args.batch);
    // This process is where webhooks go.
    let me = Who::Process(std::process::id());
    let mut who = vec![me, Who::Process(agent.pid()), Who::Family(rig.server()?)];
    who.extend(destination.and_then(Destination::process));
    let mut connection = rig.pool.acquire().await?;
    let speed = measure(args.rows, &who, async {
        pipeline_set(&mut connection, OUTBOX, OUTBOX, &config).await?;
        let end = args.rows as i64;
        eventually(
            Duration::from_mins(10),
            "the pipeline to reach the end",
            async || {
                let position: Option<i64> = sqlx::query_scalar(
                    "SELECT last_change_id FROM tide.relay_consumer_offsets WHERE name = $1",
                )
                .bind(OUTBOX)
                .fetch_optional(&rig.pool)
                .await?;
                Ok::<_, sqlx::Error>((position >= Some(end)).then_some(()))
            },
        )
        .await?;
        Ok(())
    })
    .await?;
    pipeline_delete(&mut connection, OUTBOX).await?;
    Ok(speed)
}
