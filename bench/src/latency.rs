//! From a commit to the sink, with and without an unrelated transaction that stays open.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use sqlx::{Connection as _, PgConnection};
use tide_catalog::{outboxes::outbox_create, pipelines::pipeline_set};
use tide_daemon::duration::parse_seconds;
use tide_sandbox::{http::Receiver, wait::eventually};
use time::OffsetDateTime;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use uuid::Uuid;

use crate::{
    distribution::Distribution,
    rig::{Rig, say},
};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Messages a second, of all outboxes together, one a transaction.
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Pipelines to webhooks, each with an outbox of its own.
    #[arg(long, default_value_t = 10)]
    pipelines: usize,
    /// Sessions that publish.
    #[arg(long, default_value_t = 10)]
    publishers: usize,
    /// How long to measure each way; so long the unrelated transaction is open.
    #[arg(long, default_value = "60", value_parser = parse_seconds, value_name = "TIME")]
    over: Duration,
}

/// When messages were committed, as their publishers saw it.
type Commits = Arc<Mutex<BTreeMap<Uuid, OffsetDateTime>>>;

/// Measures and prints.
pub async fn run(args: Args) -> Result<()> {
    ensure!(
        args.rate > 0.0 && args.pipelines > 0 && args.publishers > 0,
        "--rate, --pipelines and --publishers must be positive"
    );
    let rig = Rig::start().await?;
    let memory = (args.rate * args.over.as_secs_f64() * 1.5) as usize + 1_000;
    let receiver = Receiver::start_forgetful(memory).await?;
    let mut connection = rig.pool.acquire().await?;
    for number in 0..args.pipelines {
        let name = format!("bench{number}");
        outbox_create(&mut connection, &name, None).await?;
        let config = serde_json::json!({
            "sink_type": "webhook", "url": receiver.url("/"), "batch": true,
            "allow_networks": ["127.0.0.1"],
        });
        pipeline_set(&mut connection, &name, &name, &config).await?;
    }
    let _agent = rig.agent("bench", &[]).await?;
    // So that nothing is measured that happens once.
    measure(&rig, &receiver, &args, Duration::from_secs(3)).await?;
    let alone = measure(&rig, &receiver, &args, args.over).await?;
    report("nothing else open", &alone)?;
    let mut unrelated = PgConnection::connect(&rig.url).await?;
    let mut open = unrelated.begin().await?;
    // One with a transaction id and a snapshot, which hold back what they can.
    sqlx::query("CREATE TABLE unrelated AS SELECT 1")
        .execute(&mut *open)
        .await?;
    let beside = measure(&rig, &receiver, &args, args.over).await?;
    open.rollback().await?;
    report("an unrelated transaction open all the time", &beside)?;
    let ratio = |share| beside.quantile(share) / alone.quantile(share);
    say(&format!(
        "with it, against without: p50 × {:.2}, p99 × {:.2}, wanted: 1.2",
        ratio(0.5),
        ratio(0.99)
    ))
}

fn report(title: &str, latencies: &Distribution) -> Result<()> {
    say(&format!(
        "{title}: {} messages, from the commit to the request\n{}\n  wanted: p50 5 ms, p99 20 ms\n",
        latencies.count(),
        latencies.render()
    ))
}

/// Publishes for so long, waits until all of it has arrived, and compares.
async fn measure(
    rig: &Rig,
    receiver: &Receiver,
    args: &Args,
    over: Duration,
) -> Result<Distribution> {
    let commits = Commits::default();
    let mut publishers = JoinSet::new();
    for number in 0..args.publishers {
        let pace = Duration::from_secs_f64(args.publishers as f64 / args.rate);
        publishers.spawn(publish(
            PgConnection::connect(&rig.url).await?,
            format!("bench{}", number % args.pipelines),
            pace,
            Instant::now() + pace.mul_f64(number as f64 / args.publishers as f64),
            over,
            Arc::clone(&commits),
        ));
    }
    while let Some(done) = publishers.join_next().await {
        done??;
    }
    let commits = std::mem::take(&mut *commits.lock().unwrap_or_else(PoisonError::into_inner));
    let latencies = eventually(
        Duration::from_mins(1),
        "every message to arrive",
        async || {
            anyhow::Ok(receiver.inspect(|requests| {
                let mut latencies = Vec::with_capacity(commits.len());
                for request in requests.iter().filter(|request| request.is_accepted()) {
                    for envelope in request.envelopes.iter().flatten() {
                        if let Some(committed) = commits.get(&envelope.event_id) {
                            // It may arrive before its publisher hears that it is committed.
                            let late = (request.at - *committed).as_seconds_f64().max(0.0);
                            latencies.push(late * 1e3);
                        }
                    }
                }
                (latencies.len() >= commits.len()).then_some(latencies)
            }))
        },
    )
    .await?;
    Ok(Distribution::of(&latencies))
}

async fn publish(
    mut connection: PgConnection,
    outbox: String,
    pace: Duration,
    start: Instant,
    over: Duration,
    commits: Commits,
) -> Result<()> {
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    tokio::time::sleep_until(start).await;
    ticks.reset();
    let end = start + over;
    while ticks.tick().await < end {
        let event: Uuid = sqlx::query_scalar("SELECT tide.outbox_publish($1, $2)")
            .bind(&outbox)
            .bind(serde_json::json!({"text": "x".repeat(480)}))
            .fetch_one(&mut connection)
            .await?;
        let now = OffsetDateTime::now_utc();
        commits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(event, now);
    }
    Ok(())
}
