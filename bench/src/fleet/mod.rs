//! What a control plane costs, and how soon it shows what it is told, with a large fleet.
//!
//! The control plane and PostgreSQL are real processes. Agents are simulated in this process: each
//! has a session that holds its locks, as PostgreSQL sees it, and a connection of its own over which
//! it reports, as the control plane sees it. The lag of every pipeline changes all the time.

mod agent;
mod control;
mod figures;
mod lookout;
mod stage;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use rand::RngExt as _;
use tide_daemon::duration::parse_seconds;
use tokio::time::{Instant, sleep};

pub use self::figures::Figures;
use self::{lookout::Lookout, stage::Stage};
use crate::{
    cost::{Who, resident},
    distribution::Distribution,
    rig::say,
};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Agents.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    agents: usize,
    /// Pipelines of each agent.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pipelines: usize,
    /// How long to look on: seconds, or 500ms, 5m.
    #[arg(long, default_value = "30", value_parser = parse_seconds, value_name = "TIME")]
    over: Duration,
    /// How many changes to follow from an agent to a watcher.
    #[arg(long, default_value_t = 500, value_name = "N")]
    changes: usize,
    /// Grow the fleet step by step up to 2,000 × 500 and print the curve; judges 1,000 × 100 alone.
    #[arg(long, conflicts_with_all = ["agents", "pipelines"])]
    grow: bool,
    /// How to print the results.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// A table.
    Text,
    /// One array, an object for each size.
    Json,
}

/// How large a fleet, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Agents.
    pub agents: usize,
    /// Pipelines of each agent.
    pub pipelines: usize,
    /// How long the steady state is looked at.
    pub over: Duration,
    /// How many changes are followed from an agent to a watcher.
    pub changes: usize,
}

/// The steps of `--grow`: agents, and pipelines of each.
const GROWTH: [(usize, usize); 5] = [
    (100, 100),
    (500, 100),
    (1_000, 100),
    (2_000, 100),
    (2_000, 500),
];
/// The design's limits are for fleets up to this.
const JUDGED: (usize, usize) = (1_000, 100);
/// After everybody has told everything, and after a restart.
const SETTLING: Duration = Duration::from_secs(10);
/// A change that nobody sees within this will not be seen.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// Between two changes that are followed.
const PAUSE_MS: std::ops::Range<u64> = 10..50;
/// However large the fleet: it is whole by then, or never.
const WHOLE_WITHIN: Duration = Duration::from_mins(5);

/// Measures and prints; an error if a figure misses what the design wants.
pub async fn run(args: Args) -> Result<()> {
    let sizes = if args.grow {
        GROWTH.to_vec()
    } else {
        vec![(args.agents, args.pipelines)]
    };
    let mut all = Vec::new();
    for (agents, pipelines) in sizes {
        let figures = measure(Size {
            agents,
            pipelines,
            over: args.over,
            changes: args.changes,
        });
        let figures = figures.await?;
        if args.output == Output::Text {
            say(&figures.text())?;
        }
        all.push(figures);
    }
    if args.output == Output::Json {
        let values: Vec<_> = all.iter().map(Figures::json).collect();
        say(&serde_json::Value::Array(values).to_string())?;
    }
    let judged = all
        .iter()
        .filter(|figures| !args.grow || (figures.agents, figures.pipelines) == JUDGED);
    let missed: Vec<String> = judged.flat_map(Figures::missed).collect();
    if missed.is_empty() {
        return Ok(());
    }
    bail!("missed: {}", missed.join(", "))
}

/// Measures one size, from a database of its own to its end. Judges nothing.
pub async fn measure(size: Size) -> Result<Figures> {
    ensure!(
        size.agents > 0 && size.pipelines > 0,
        "--agents and --pipelines must be 1 at least"
    );
    let mut stage = Stage::set(size).await?;
    let lookout = Lookout::whole(&stage, WHOLE_WITHIN).await?;
    sleep(SETTLING.min(size.over)).await;

    // Following changes costs something too: an operator who looks on is part of the steady state.
    let (control, server) = (
        Who::Process(stage.control.pid()),
        Who::Family(stage.server()?),
    );
    let before = (control.busy()?, server.busy()?);
    let began = Instant::now();
    let delays = follow(&stage, &lookout, size).await?;
    sleep((began + size.over).saturating_duration_since(Instant::now())).await;
    let over = began.elapsed().as_secs_f64();
    let share = |who: Who, before: Duration| -> Result<f64> {
        Ok(who.busy()?.saturating_sub(before).as_secs_f64() / over)
    };
    let (control_share, server_share) = (share(control, before.0)?, share(server, before.1)?);
    let memory = resident(stage.control.pid())?;

    drop(lookout);
    let restarted = Instant::now();
    stage.control.restart().await?;
    let lookout = Lookout::whole(&stage, WHOLE_WITHIN).await?;
    let whole = restarted.elapsed();
    drop(lookout);
    let delays = Distribution::of(&delays);
    Ok(Figures {
        agents: size.agents,
        pipelines: size.pipelines,
        control_share,
        server_share,
        memory,
        changes: delays.count(),
        p50_ms: delays.quantile(0.5),
        p99_ms: delays.quantile(0.99),
        max_ms: delays.max(),
        whole_seconds: whole.as_secs_f64(),
    })
}

/// From a change at an agent until a watcher has been told, in milliseconds, one after another.
async fn follow(stage: &Stage, lookout: &Lookout, size: Size) -> Result<Vec<f64>> {
    let mut delays = Vec::with_capacity(size.changes);
    for number in 0..size.changes {
        let pause = rand::rng().random_range(PAUSE_MS);
        sleep(Duration::from_millis(pause)).await;
        let reason = format!("change {number}");
        let seen = lookout.expect(&reason);
        let changed_at = stage.change_somewhere(&reason).await?;
        let seen_at = tokio::time::timeout(SEEN_WITHIN, seen).await;
        let Ok(Ok(seen_at)) = seen_at else {
            bail!("{reason:?} was not shown within {SEEN_WITHIN:?}");
        };
        delays.push((seen_at - changed_at).as_secs_f64() * 1e3);
    }
    Ok(delays)
}
