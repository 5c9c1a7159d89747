//! From a disturbance of an owner to the next delivery by another agent, as the sinks see it.
//!
//! Agents are processes, killed with SIGKILL, stopped with SIGSTOP, cut off by a proxy, or asked to
//! hand over. Messages are published all the while, so that a gap is never a lack of messages; one
//! that waits for the next message is as long as one message takes to come (`--rate`).

mod arrivals;
mod crew;
mod report;
mod scenes;

use std::time::Duration;

use anyhow::{Result, ensure};
use tide_catalog::{outboxes::outbox_create, pipelines::pipeline_set};
use tide_daemon::duration::parse_seconds;
use tide_sandbox::publisher::{PublishPlan, Publisher};

use self::{
    arrivals::{Arrivals, SinkKind},
    report::Report,
};
use crate::rig::{Rig, say};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How many times an owner is killed with SIGKILL.
    #[arg(long, default_value_t = 200, value_name = "N")]
    crashes: usize,
    /// How many times an owner is stopped with SIGSTOP for longer than its lease.
    #[arg(long, default_value_t = 10, value_name = "N")]
    freezes: usize,
    /// How many times an owner is cut off from PostgreSQL for longer than its lease.
    #[arg(long, default_value_t = 10, value_name = "N")]
    cuts: usize,
    /// How many planned changes of each kind: stop and come back, drain and undrain, move.
    #[arg(long, default_value_t = 20, value_name = "N")]
    handovers: usize,
    /// Also kill agents that neither listen nor watch each other but look at this interval only,
    /// as peers do that share nothing but locks: seconds, or 500ms, 5m.
    #[arg(long, value_parser = parse_seconds, value_name = "TIME")]
    peer_interval: Option<Duration>,
    /// How many times one of those is killed.
    #[arg(long, default_value_t = 10, value_name = "N")]
    peer_crashes: usize,
    /// The agents' lease: seconds, or 500ms, 5m.
    #[arg(long, default_value = "3", value_parser = parse_seconds, value_name = "TIME")]
    lease: Duration,
    /// Agents.
    #[arg(long, default_value_t = 2, value_name = "N")]
    agents: usize,
    /// Pipelines, shared by the agents; each that an agent had is one sample.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pipelines: usize,
    /// Messages a second, each for every pipeline.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Where the pipelines deliver to.
    #[arg(long, value_enum, default_value_t = SinkKind::Webhook)]
    sink: SinkKind,
    /// How to print the results.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Quantiles and histograms.
    Text,
    /// One object.
    Json,
}

/// What every scene plays on.
struct Stage<'a> {
    args: &'a Args,
    rig: &'a Rig,
    arrivals: Arrivals,
}

/// Measures, and prints what was measured: all of it, or what there is when Ctrl-C is pressed or
/// something goes wrong.
pub async fn run(args: Args) -> Result<()> {
    ensure!(
        args.agents >= 2,
        "--agents must be 2 at least: somebody has to take over"
    );
    ensure!(
        args.pipelines >= args.agents,
        "--pipelines must be as many as --agents at least: who owns nothing leaves no gap"
    );
    let mut report = Report::default();
    let outcome = tokio::select! {
        biased;
        outcome = measure(&args, &mut report) => outcome,
        pressed = tokio::signal::ctrl_c() => pressed.map_err(Into::into),
    };
    if !report.is_empty() {
        say(&match args.output {
            Output::Text => report.text(),
            Output::Json => report.json().to_string(),
        })?;
    }
    outcome
}

async fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let rig = Rig::start().await?;
    let mut arrivals = Arrivals::start(args.sink, rig.scratch.path()).await?;
    let mut connection = rig.pool.acquire().await?;
    outbox_create(&mut connection, "bench", None).await?;
    for index in 0..args.pipelines {
        let name = format!("p{index}");
        let config = arrivals.accept(&name);
        pipeline_set(&mut connection, &name, "bench", &config).await?;
    }
    drop(connection);
    let publisher = Publisher::start(&rig.pool, PublishPlan::steady(["bench"], args.rate)).await?;
    let stage = Stage {
        args,
        rig: &rig,
        arrivals,
    };
    if args.crashes > 0 {
        scenes::crashes(&stage, args.crashes, report).await?;
    }
    if let Some(interval) = args.peer_interval
        && args.peer_crashes > 0
    {
        scenes::peers(&stage, interval, args.peer_crashes, report).await?;
    }
    if args.handovers > 0 {
        scenes::planned(&stage, args.handovers, report).await?;
    }
    if args.freezes > 0 {
        scenes::freezes(&stage, args.freezes, report).await?;
    }
    if args.cuts > 0 {
        scenes::cuts(&stage, args.cuts, report).await?;
    }
    publisher.stop(Duration::from_secs(30)).await?;
    Ok(())
}
