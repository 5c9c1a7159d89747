//! Pipelines.

use tide_model::{PipelineState, fleet::PipelineView};
use time::OffsetDateTime;

use super::facts;
use crate::output::{
    Cell, Style, Table, Tone,
    humanize::{age, moment, number, seconds},
};

/// Pipelines, one a row. `now` is the reader's clock.
pub fn pipelines(style: Style, pipelines: &[PipelineView], now: OffsetDateTime) -> String {
    let mut heading = vec![
        "PIPELINE", "OUTBOX", "SINK", "OWNER", "STATE", "ROWS", "LAG", "REASON",
    ];
    if style.is_wide() {
        heading.extend(WIDE);
    }
    let mut table = Table::new(style, &heading).with_words_in("REASON");
    for pipeline in pipelines {
        let mut row = vec![
            Cell::from(pipeline.name.as_str()),
            Cell::from(pipeline.outbox.as_str()),
            Cell::from(pipeline.sink.as_str()),
            Cell::from(owner(pipeline)),
            Cell::toned(pipeline.state.as_str(), tone(&pipeline.state)),
            Cell::from(number(pipeline.lag_rows.max(0) as u64)),
            Cell::from(seconds(pipeline.lag_seconds)),
            Cell::or_dash(pipeline.reason.as_deref()),
        ];
        if style.is_wide() {
            row.extend(wide(pipeline, now));
        }
        table.row(row);
    }
    table.print()
}

const WIDE: [&str; 8] = [
    "SINCE",
    "NEXT TRY",
    "EPOCH",
    "LAST ID",
    "PID",
    "OWNERSHIP",
    "PLACED ON",
    "HOLDS",
];

fn wide(pipeline: &PipelineView, now: OffsetDateTime) -> [Cell; WIDE.len()] {
    [
        Cell::or_dash(pipeline.since.map(|since| age(since, now))),
        Cell::or_dash(pipeline.retry_at.map(|next| moment(next, now))),
        Cell::or_dash(pipeline.epoch),
        Cell::from(pipeline.last_change_id.to_string()),
        Cell::or_dash(pipeline.backend_pid),
        Cell::from(pipeline.ownership.as_str()),
        Cell::or_dash(pipeline.placement.as_ref()),
        Cell::or_dash((!pipeline.holds.is_empty()).then(|| pipeline.holds.join("; "))),
    ]
}

/// One pipeline. `now` is the reader's clock.
pub fn pipeline(style: Style, pipeline: &PipelineView, now: OffsetDateTime) -> String {
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    facts(
        style,
        &[
            ("pipeline", pipeline.name.to_string()),
            ("outbox", pipeline.outbox.clone()),
            ("sink", pipeline.sink.clone()),
            (
                "enabled",
                if pipeline.enabled { "yes" } else { "no" }.to_owned(),
            ),
            ("state", style.paint(tone(&pipeline.state), &pipeline.state)),
            ("reason", dash(pipeline.reason.clone())),
            (
                "since",
                dash(
                    pipeline
                        .since
                        .map(|since| format!("{} ago", age(since, now))),
                ),
            ),
            (
                "next try",
                dash(pipeline.retry_at.map(|next| moment(next, now))),
            ),
            ("owner", owner(pipeline)),
            (
                "backend",
                dash(pipeline.backend_pid.map(|pid| pid.to_string())),
            ),
            (
                "placed on",
                dash(pipeline.placement.as_ref().map(ToString::to_string)),
            ),
            (
                "holds",
                dash((!pipeline.holds.is_empty()).then(|| pipeline.holds.join("; "))),
            ),
            ("epoch", dash(pipeline.epoch.map(|epoch| epoch.to_string()))),
            ("last id", pipeline.last_change_id.to_string()),
            ("rows behind", number(pipeline.lag_rows.max(0) as u64)),
            ("lag", seconds(pipeline.lag_seconds)),
        ],
    )
}

/// Who has it, and who gets it.
pub fn owner(pipeline: &PipelineView) -> String {
    let owner = pipeline.owner.as_ref().map_or("-", |owner| owner.as_str());
    match &pipeline.moving_to {
        Some(next) => format!("{owner}>{next}"),
        None => owner.to_owned(),
    }
}

/// What a state says about a pipeline.
pub fn tone(state: &str) -> Tone {
    match (state, state.parse::<PipelineState>()) {
        ("disabled", _) => Tone::Faint,
        (_, Ok(PipelineState::Running)) => Tone::Good,
        (_, Ok(PipelineState::Starting | PipelineState::Stopped)) => Tone::Uneasy,
        // Retrying, paused, misconfigured; and unowned, orphan, stalled, which no owner reports.
        (_, Ok(_) | Err(_)) => Tone::Bad,
    }
}
