//! Operations, their steps, and the moves of plans.

use std::collections::BTreeMap;

use tide_model::{
    AgentName,
    drain::{Progress, Step},
    operation::{Move, Operation, OperationState},
};
use time::OffsetDateTime;

use super::facts;
use crate::{
    output::{
        Cell, Style, Table, Tone,
        humanize::{age, moment},
    },
    source::OperationView,
};

/// Operations, one a row. `now` is the reader's clock.
pub fn operations(style: Style, operations: &[Operation], now: OffsetDateTime) -> String {
    let mut heading = vec![
        "OPERATION",
        "KIND",
        "TARGET",
        "STATE",
        "BY",
        "AGE",
        "OUTCOME",
    ];
    if style.is_wide() {
        heading.extend(WIDE);
    }
    let mut table = Table::new(style, &heading).with_words_in("OUTCOME");
    for operation in operations {
        let mut row = vec![
            Cell::from(operation.id.to_string()),
            Cell::from(operation.kind.as_str()),
            Cell::from(operation.target.as_str()),
            Cell::toned(operation.state.as_str(), tone(operation.state)),
            Cell::from(operation.actor.as_str()),
            Cell::from(age(operation.created_at, now)),
            Cell::or_dash(operation.outcome.as_deref()),
        ];
        if style.is_wide() {
            row.extend(wide(operation, now));
        }
        table.row(row);
    }
    table.print()
}

const WIDE: [&str; 5] = ["REASON", "MOVES", "GIVES UP", "TOOK", "SAFE TO STOP"];

fn wide(operation: &Operation, now: OffsetDateTime) -> [Cell; WIDE.len()] {
    let running = operation.state == OperationState::Running;
    let deadline = operation.deadline_at.filter(|_| running);
    [
        Cell::or_dash((!operation.reason.is_empty()).then_some(&operation.reason)),
        Cell::from(operation.moves.len().to_string()),
        Cell::or_dash(deadline.map(|deadline| upcoming(deadline, now))),
        Cell::or_dash(
            operation
                .finished_at
                .map(|ended| age(operation.created_at, ended)),
        ),
        Cell::from(if operation.is_safe_to_stop() {
            "yes"
        } else {
            "-"
        }),
    ]
}

/// One operation and where its pipelines stand. `now` is the reader's clock.
pub fn operation(style: Style, view: &OperationView, now: OffsetDateTime) -> String {
    let operation = &view.operation;
    let ago = |moment| format!("{} ago", age(moment, now));
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut text = facts(
        style,
        &[
            ("operation", operation.id.to_string()),
            ("kind", operation.kind.to_string()),
            ("target", operation.target.clone()),
            (
                "state",
                style.paint(tone(operation.state), operation.state.as_str()),
            ),
            ("outcome", dash(operation.outcome.clone())),
            ("by", operation.actor.clone()),
            ("reason", dash(some(&operation.reason))),
            ("started", ago(operation.created_at)),
            (
                "gives up",
                dash(
                    operation
                        .deadline_at
                        .map(|deadline| upcoming(deadline, now)),
                ),
            ),
            ("ended", dash(operation.finished_at.map(ago))),
        ],
    );
    if !view.steps.is_empty() {
        text.push('\n');
        text.push_str(&steps(style, &view.steps, now));
    }
    text
}

/// Planned moves, one a row.
pub fn moves(style: Style, moves: &[Move]) -> String {
    let mut table =
        Table::new(style, &["PIPELINE", "FROM", "TO", "REASON"]).with_words_in("REASON");
    for planned in moves {
        table.row([
            Cell::from(planned.pipeline.as_str()),
            Cell::or_dash(planned.from.as_ref()),
            Cell::from(planned.to.as_str()),
            Cell::or_dash((!planned.reason.is_empty()).then_some(&planned.reason)),
        ]);
    }
    table.print()
}

/// Who gives to whom, and how many: `relay-2 > relay-1 (2), relay-3 (1)`.
pub fn shares(moves: &[Move]) -> String {
    let mut shares: BTreeMap<&Option<AgentName>, BTreeMap<&AgentName, usize>> = BTreeMap::new();
    for planned in moves {
        *shares
            .entry(&planned.from)
            .or_default()
            .entry(&planned.to)
            .or_default() += 1;
    }
    let share = |(from, receivers): (&Option<AgentName>, BTreeMap<&AgentName, usize>)| {
        let receivers: Vec<String> = receivers
            .into_iter()
            .map(|(to, count)| format!("{to} ({count})"))
            .collect();
        let from = from.as_ref().map_or("-", AgentName::as_str);
        format!("{from} > {}", receivers.join(", "))
    };
    let shares: Vec<String> = shares.into_iter().map(share).collect();
    shares.join("; ")
}

/// One step on a line of its own, and the command that unblocks it on the next. `now` is the reader's
/// clock.
pub fn step_line(style: Style, step: &Step, now: OffsetDateTime) -> String {
    let name = |agent: &Option<AgentName>| {
        agent
            .as_ref()
            .map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    let progress = style.paint(
        progress_tone(step.progress),
        &format!("{:11}", word(step, now)),
    );
    let line = format!(
        "{progress}  {}  {} > {}  {}",
        step.pipeline,
        name(&step.from),
        name(&step.to),
        step.detail
    );
    match &step.hint {
        Some(hint) => format!("{line}\n             hint: {hint}"),
        None => line,
    }
}

/// `WAITING until 12:03:04Z (in 9s)`, as far as that is known.
pub fn waiting(progress: Progress, until: Option<OffsetDateTime>, now: OffsetDateTime) -> String {
    match until {
        Some(until) => format!("{} until {}", progress.as_str(), moment(until, now)),
        None => progress.as_str().to_owned(),
    }
}

fn word(step: &Step, now: OffsetDateTime) -> String {
    waiting(step.progress, step.until, now)
}

fn steps(style: Style, steps: &[Step], now: OffsetDateTime) -> String {
    let mut table = Table::new(style, &["PROGRESS", "PIPELINE", "FROM", "TO", "DETAIL"])
        .with_words_in("DETAIL");
    for step in steps {
        let detail = match &step.hint {
            Some(hint) => format!("{} (hint: {hint})", step.detail),
            None => step.detail.clone(),
        };
        table.row([
            Cell::toned(word(step, now), progress_tone(step.progress)),
            Cell::from(step.pipeline.as_str()),
            Cell::or_dash(step.from.as_ref()),
            Cell::or_dash(step.to.as_ref()),
            Cell::from(detail),
        ]);
    }
    table.print()
}

/// `in 5m`, `5m ago`.
pub(super) fn upcoming(moment: OffsetDateTime, now: OffsetDateTime) -> String {
    if moment > now {
        format!("in {}", age(now, moment))
    } else {
        format!("{} ago", age(moment, now))
    }
}

fn tone(state: OperationState) -> Tone {
    match state {
        OperationState::Running => Tone::Uneasy,
        OperationState::Succeeded => Tone::Good,
        OperationState::Failed => Tone::Bad,
        OperationState::Cancelled => Tone::Faint,
    }
}

fn progress_tone(progress: Progress) -> Tone {
    match progress {
        Progress::Progressing | Progress::Done => Tone::Good,
        Progress::Waiting => Tone::Uneasy,
        Progress::Blocked => Tone::Bad,
    }
}
