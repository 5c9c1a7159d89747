//! `tide-torture`: a random fault run that can be repeated.

use std::{fs, io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;
use tide_tests::torture::{self, Keep, Narrator, Plan};

/// Does everything to a fleet that may happen to one, and judges what it delivered.
///
/// Exits with 0 if every promise was kept, 1 if one was broken, and 2 if the run did not work.
#[derive(Debug, Parser)]
#[command(name = "tide-torture")]
struct Args {
    /// How long publishers and faults go on
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// What the plan is drawn from; drawn itself if absent
    #[arg(long)]
    seed: Option<u64>,
    /// Instead of everything to few messages, what happens on bad days to so many a second, through a
    /// webhook, Kafka, JetStream and an inbox
    #[arg(long, value_name = "MESSAGES")]
    soak: Option<u32>,
    /// A plan to carry out again, instead of a new one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seconds", "seed", "soak"])]
    plan: Option<PathBuf>,
    /// Keep plan, accounts and logs even if every promise was kept
    #[arg(long)]
    keep: bool,
    /// Only print the plan
    #[arg(long)]
    only_plan: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            say(&format!("the run did not work: {error:#}"));
            ExitCode::from(2)
        }
    }
}

async fn run(args: Args) -> Result<ExitCode> {
    let plan = plan(&args)?;
    if args.only_plan {
        say(&plan.to_text());
        return Ok(ExitCode::SUCCESS);
    }
    let keep = if args.keep {
        Keep::Always
    } else {
        Keep::Violations
    };
    let outcome = torture::run(&plan, &Narrator::new(), keep).await?;
    if let Some(evidence) = &outcome.evidence {
        let evidence = evidence.display();
        say(&format!(
            "evidence: {evidence}\nagain: make torture PLAN={evidence}/plan.json"
        ));
    }
    Ok(if outcome.verdict.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn plan(args: &Args) -> Result<Plan> {
    if let Some(path) = &args.plan {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        return Plan::parse(&text).with_context(|| path.display().to_string());
    }
    let seed = args.seed.unwrap_or_else(rand::random);
    Ok(match args.soak {
        Some(rate) => torture::generate_soak(seed, args.seconds, rate),
        None => torture::generate(seed, args.seconds),
    })
}

fn say(text: &str) {
    // Nobody who listens is no reason to fail.
    drop(writeln!(std::io::stdout(), "{text}"));
}
