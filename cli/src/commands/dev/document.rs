//! What a tour's report looks like to programs.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tide_model::UnitName;
use tide_sandbox::history::{Explanation, PipelineAccount, Tally};

use super::{
    accounts::{Gap, Offence, Spread, TourReport},
    story::Line,
};

/// The report as a program reads it.
#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    clean: bool,
    published: usize,
    #[serde(flatten)]
    totals: Counts,
    crash_to_next_delivery: Gaps<'a>,
    freeze_to_next_delivery: Gaps<'a>,
    lease_seconds: f64,
    pipelines: Vec<Account<'a>>,
    /// Pipelines that keep nothing: nobody can tell what they delivered.
    unread: Vec<&'a UnitName>,
    offences: Vec<OffenceLine<'a>>,
    seed: u64,
    elapsed_seconds: f64,
    story: &'a [Line],
}

/// What became of the messages of one pipeline, or of all.
#[derive(Debug, Serialize)]
struct Counts {
    /// Messages that should have been delivered.
    expected: usize,
    delivered: usize,
    lost: usize,
    reordered: usize,
    phantom: usize,
    altered: usize,
    duplicated: usize,
    duplicated_because: BTreeMap<String, usize>,
    stale_epochs: usize,
    stale_epochs_because: BTreeMap<String, usize>,
    unexplained: usize,
}

#[derive(Debug, Serialize)]
struct Account<'a> {
    pipeline: &'a str,
    outbox: &'a str,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Serialize)]
#[expect(
    clippy::struct_field_names,
    reason = "in JSON the unit belongs to the name"
)]
struct Gaps<'a> {
    median_ms: f64,
    worst_ms: f64,
    pipelines_ms: BTreeMap<&'a UnitName, f64>,
}

#[derive(Debug, Serialize)]
struct OffenceLine<'a> {
    pipeline: &'a str,
    finding: String,
}

impl<'a> Document<'a> {
    /// The document of a report.
    pub(super) fn new(report: &'a TourReport) -> Self {
        let accounts = &report.accounts.pipelines;
        let offence = |offence: Offence<'a>| OffenceLine {
            pipeline: offence.pipeline,
            finding: offence.finding.to_string(),
        };
        Self {
            clean: report.is_clean(),
            published: report.published,
            totals: Counts::new(&report.totals()),
            crash_to_next_delivery: Gaps::new(&report.crashes),
            freeze_to_next_delivery: Gaps::new(&report.freezes),
            lease_seconds: report.lease.as_secs_f64(),
            pipelines: accounts.iter().map(Account::new).collect(),
            unread: report.unread.iter().collect(),
            offences: report.offences().into_iter().map(offence).collect(),
            seed: report.seed,
            elapsed_seconds: report.elapsed.as_secs_f64(),
            story: &report.lines,
        }
    }
}

impl Counts {
    fn new(tally: &Tally) -> Self {
        Self {
            expected: tally.committed,
            delivered: tally.delivered,
            lost: tally.lost,
            reordered: tally.reordered,
            phantom: tally.phantom,
            altered: tally.altered,
            duplicated: tally.duplicates_total(),
            duplicated_because: causes(&tally.duplicates),
            stale_epochs: tally.stale_epochs.values().sum(),
            stale_epochs_because: causes(&tally.stale_epochs),
            unexplained: tally.unexplained_duplicates() + tally.unexplained_stale_epochs(),
        }
    }
}

impl<'a> Account<'a> {
    fn new(account: &'a PipelineAccount) -> Self {
        Self {
            pipeline: &account.pipeline,
            outbox: &account.outbox,
            counts: Counts::new(&account.tally),
        }
    }
}

impl<'a> Gaps<'a> {
    fn new(gaps: &'a [Gap]) -> Self {
        let spread = Spread::of(gaps);
        let each = gaps
            .iter()
            .map(|gap| (&gap.pipeline, fractional_milliseconds(gap.took)));
        Self {
            median_ms: fractional_milliseconds(spread.median),
            worst_ms: fractional_milliseconds(spread.worst),
            pipelines_ms: each.collect(),
        }
    }
}

fn causes(counts: &BTreeMap<Explanation, usize>) -> BTreeMap<String, usize> {
    counts
        .iter()
        .map(|(why, count)| (why.to_string(), *count))
        .collect()
}

/// Microseconds are kept, and nothing below them.
fn fractional_milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}
