//! Random fault runs: everything that may happen to a fleet happens to it, and the judge decides.
//!
//! ```text
//! seed ──▶ Plan ──▶ execute: publishers, agents, sinks, faults ──▶ heal, settle ──▶ Verdict
//!           │                                                                         │
//!           └── plan.json: the same run again                    evidence on violation ┘
//! ```
//!
//! The [`plan`] is pure: a seed and a length give a list of timed operations, which can be written
//! and read back. The executor is a thin shell over [`Fleet`](crate::Fleet) that notes what it did
//! and when. The [`verdict`] comes from what publishers committed, what sinks received and what the
//! stored positions did; logs are evidence for people.
//!
//! The interleaving of processes remains the machine's, so the same plan need not find the same
//! fault again; it makes the same faults likely again.

mod evidence;
mod execute;
mod generate;
mod harm;
mod load;
pub mod plan;
mod positions;
mod processes;
mod settle;
mod setup;
mod sinks;
pub mod verdict;

use std::path::PathBuf;

use anyhow::Result;

pub use self::{
    execute::Narrator,
    generate::{generate, generate_soak},
    plan::{Operation, Plan, Step},
    verdict::Verdict,
};

/// A run that is over.
#[derive(Debug)]
pub struct Outcome {
    /// What was found.
    pub verdict: Verdict,
    /// Where logs, plan and accounts are, if something was.
    pub evidence: Option<PathBuf>,
}

/// When to keep the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// If a promise was broken.
    Violations,
    /// Always.
    Always,
}

/// Carries out a plan on a fleet of its own, heals everything and judges.
///
/// An error means that the run itself did not work, not that Tide broke a promise.
pub async fn run(plan: &Plan, narrator: &Narrator, keep: Keep) -> Result<Outcome> {
    let mut run = execute::Run::start(plan, narrator).await?;
    run.carry_out(plan).await?;
    let record = run.settle().await?;
    let verdict = verdict::judge(&record);
    narrator.say(&verdict.to_string());
    let evidence = match keep {
        Keep::Violations if verdict.is_clean() => None,
        Keep::Violations | Keep::Always => Some(run.keep_evidence(plan, &record, &verdict)?),
    };
    Ok(Outcome { verdict, evidence })
}
