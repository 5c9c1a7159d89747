//! What many pipelines cost that have nothing to do.

use std::time::Duration;

use anyhow::Result;
use tide_catalog::{outboxes::outbox_create, pipelines::pipeline_set};
use tide_daemon::duration::parse_seconds;
use tide_sandbox::wait::eventually;
use tokio::time::{Instant, sleep};

use crate::{
    cost::{Who, resident},
    rig::{Rig, say},
};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Pipelines.
    #[arg(long, default_value_t = 1_000)]
    pipelines: usize,
    /// Outboxes that they read, evenly.
    #[arg(long, default_value_t = 10)]
    outboxes: usize,
    /// How long to look on: seconds, or 500ms, 5m.
    #[arg(long, default_value = "30", value_parser = parse_seconds, value_name = "TIME")]
    over: Duration,
    /// Publish one message to each outbox before, so that nobody is as new as on the first day.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    used: bool,
}

/// How long idle pipelines may still be busy with what came before.
const SETTLING: Duration = Duration::from_secs(15);
/// The design's limits.
const SHARE: f64 = 0.02;
const MEMORY: u64 = 100_000_000;
const SESSIONS: i64 = 8;

/// Measures and prints.
pub async fn run(args: Args) -> Result<()> {
    let rig = Rig::start().await?;
    let mut connection = rig.pool.acquire().await?;
    for outbox in 0..args.outboxes {
        outbox_create(&mut connection, &format!("bench{outbox}"), None).await?;
    }
    for number in 0..args.pipelines {
        let outbox = format!("bench{}", number % args.outboxes);
        let config = serde_json::json!({"sink_type": "null"});
        pipeline_set(&mut connection, &format!("p{number}"), &outbox, &config).await?;
    }
    let agent = rig.agent("bench", &[]).await?;
    eventually(
        Duration::from_mins(2),
        "every pipeline to run",
        async || {
            let running: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM tide.relay_consumer_offsets WHERE state = 'running'",
            )
            .fetch_one(&rig.pool)
            .await?;
            Ok::<_, sqlx::Error>((running as usize == args.pipelines).then_some(()))
        },
    )
    .await?;
    if args.used {
        for outbox in 0..args.outboxes {
            sqlx::query("SELECT tide.outbox_publish($1, '{}')")
                .bind(format!("bench{outbox}"))
                .execute(&mut *connection)
                .await?;
        }
    }
    sleep(SETTLING).await;

    let sessions: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tide-agent%'",
    )
    .fetch_one(&mut *connection)
    .await?;
    let pid = agent.pid();
    let parts = [
        ("agent", Who::Process(pid)),
        ("server", Who::Family(rig.server()?)),
    ];
    let started = Instant::now();
    let before = parts.map(|(_, who)| who.busy());
    sleep(args.over).await;
    let elapsed = started.elapsed();
    say(&format!(
        "{} idle pipelines of {} outboxes, over {:.0} s",
        args.pipelines,
        args.outboxes,
        elapsed.as_secs_f64()
    ))?;
    for ((name, who), before) in parts.into_iter().zip(before) {
        let used = who.busy()?.saturating_sub(before?);
        let share = used.as_secs_f64() / elapsed.as_secs_f64();
        say(&format!(
            "  {name:<8} {:>6.2} % of a core, wanted: {:.0} %",
            share * 100.0,
            SHARE * 100.0
        ))?;
    }
    say(&format!(
        "  memory   {:>6.1} MB, wanted: {} MB\n  sessions {sessions:>6}, wanted: {SESSIONS}",
        resident(pid)? as f64 / 1e6,
        MEMORY / 1_000_000
    ))
}
