//! The fleet on one screen.

use serde::Serialize;
use time::OffsetDateTime;

use super::{agents::fleet_rows, warnings};
use tide_model::fleet::{FleetView, PipelineView};

use crate::output::{
    Style, Tone,
    humanize::{age, counted, seconds},
};

/// The fleet, and where it was read.
#[derive(Debug, Serialize)]
pub struct FleetStatus<'a> {
    /// `control-plane` or `database`.
    pub source: &'static str,
    /// Whether nothing asks for attention.
    pub healthy: bool,
    /// 95th percentile of the lags of enabled pipelines, seconds.
    pub lag_p95_seconds: f64,
    /// The worst of them, seconds.
    pub lag_max_seconds: f64,
    /// How many agents there are, whichever are shown.
    #[serde(skip)]
    agents: usize,
    /// The fleet.
    #[serde(flatten)]
    pub fleet: &'a FleetView,
}

impl<'a> FleetStatus<'a> {
    /// Sums a fleet up, of which some agents may be left out that were not asked for: there are
    /// `agents` in all.
    pub fn of_chosen(source: &'static str, fleet: &'a FleetView, agents: usize) -> Self {
        Self {
            agents,
            ..Self::new(source, fleet)
        }
    }

    /// Sums a fleet up.
    pub fn new(source: &'static str, fleet: &'a FleetView) -> Self {
        let (lag_p95_seconds, lag_max_seconds) = fleet.lag();
        Self {
            source,
            healthy: fleet.is_healthy(),
            lag_p95_seconds,
            lag_max_seconds,
            agents: fleet.agents.len(),
            fleet,
        }
    }
}

/// Verdict, agents, warnings, and how all that is known. `now` is the reader's clock.
pub fn fleet(style: Style, status: &FleetStatus<'_>, label: &str, now: OffsetDateTime) -> String {
    let fleet = status.fleet;
    let mut text = heading(style, status);
    text.push_str("\n\n");
    if !fleet.agents.is_empty() {
        text.push_str(&fleet_rows(style, fleet));
        text.push('\n');
    }
    if let Some(left_out) = status.agents.checked_sub(fleet.agents.len())
        && left_out > 0
    {
        let left_out = format!("{} left out by --filter", counted(left_out, "agent"));
        text.push_str(&style.paint(Tone::Faint, &left_out));
        text.push_str("\n\n");
    }
    let warnings = warnings(style, &fleet.warnings);
    if !warnings.is_empty() {
        text.push_str(&warnings);
        text.push('\n');
    }
    let footer = format!(
        "source {label}  age {}{}",
        age(fleet.database_at, now),
        coverage(fleet)
    );
    text.push_str(&style.paint(Tone::Faint, &footer));
    text.push('\n');
    text
}

/// How much of the fleet has told what is shown, and of which view all this is.
fn coverage(fleet: &FleetView) -> String {
    let coverage = fleet.coverage.map(|known| {
        let warming = if known.warming { " (warming up)" } else { "" };
        format!("  coverage {}/{} agents{warming}", known.told, known.agents)
    });
    let revision = fleet
        .revision
        .map(|revision| format!("  revision {revision}"));
    coverage.unwrap_or_default() + &revision.unwrap_or_default()
}

fn heading(style: Style, status: &FleetStatus<'_>) -> String {
    let fleet = status.fleet;
    let verdict = if status.healthy {
        style.paint(Tone::Good, "HEALTHY")
    } else {
        style.paint(Tone::Bad, "DEGRADED")
    };
    let unowned = match fleet.unowned().count() {
        0 => String::new(),
        count => format!(" ({})", style.paint(Tone::Bad, &format!("{count} unowned"))),
    };
    let worst = fleet
        .pipelines
        .iter()
        .filter(|pipeline| pipeline.enabled && pipeline.lag_seconds > 0.0)
        .max_by(|a, b| a.lag_seconds.total_cmp(&b.lag_seconds))
        .map(|worst: &PipelineView| format!(" ({})", worst.name))
        .unwrap_or_default();
    format!(
        "{} {}  {verdict}  {}  {}{unowned}  lag p95 {}, max {}{worst}",
        style.paint(Tone::Strong, "FLEET"),
        fleet.group,
        counted(status.agents, "agent"),
        counted(fleet.pipelines.len(), "pipeline"),
        seconds(status.lag_p95_seconds),
        seconds(status.lag_max_seconds),
    )
}
