//! Whether the load is evened out with nobody asking.

use serde_json::{Value, json};
use tide_model::rebalance::{LastMove, RebalanceStatus, Suggested, Terms};
use time::OffsetDateTime;

use super::{facts, operations::upcoming};
use crate::output::{Style, humanize};

/// What control planes do, what they would do now, and what was last done by anybody. `now` is the
/// reader's clock.
pub fn balance(style: Style, status: &RebalanceStatus, now: OffsetDateTime) -> String {
    let (before, after) = status.imbalance;
    let activity = &status.activity;
    let last = activity.last.as_ref().map(|last| last_move(last, now));
    let mut told = vec![
        ("mode", status.terms.as_ref().map_or_else(unknown, mode)),
        ("now", status.decision.clone().unwrap_or_else(unknown)),
        (
            "balance",
            format!(
                "by load the fullest agent has {before:.2} times the mean, and would have {after:.2}"
            ),
        ),
        ("last move", last.unwrap_or_else(|| "-".to_owned())),
    ];
    let running = activity.running.map(|it| format!("operation {it}"));
    told.extend(running.map(|it| ("running", it)));
    let suggested = activity.suggested.map(|it| suggested(it, now));
    told.extend(suggested.map(|it| ("suggested", it)));
    let pauses = activity.pauses.iter();
    told.extend(pauses.map(|pause| ("pause", pause.to_string())));
    facts(style, &told)
}

fn unknown() -> String {
    "only a control plane knows: --source control-plane".to_owned()
}

fn mode(terms: &Terms) -> String {
    let duration = |duration: time::Duration| humanize::duration(duration.unsigned_abs());
    format!(
        "{}: from {:.2} times the mean on, {} after the last move, while no pipeline is more than {} behind",
        terms.mode.as_str(),
        terms.threshold,
        duration(terms.cooldown),
        duration(terms.max_lag)
    )
}

fn last_move(last: &LastMove, now: OffsetDateTime) -> String {
    let (kind, operation, actor) = (last.kind, last.operation, &last.actor);
    format!("{}: {kind} {operation} by {actor}", upcoming(last.at, now))
}

fn suggested(suggested: Suggested, now: OffsetDateTime) -> String {
    let plan = suggested.plan;
    format!(
        "{}: look at it with: tidectl rebalance show {plan}",
        upcoming(suggested.at, now)
    )
}

/// The same for programs. What only a control plane knows is null without one.
pub fn balance_data(status: &RebalanceStatus) -> Value {
    let (before, after) = status.imbalance;
    let terms = status.terms.as_ref();
    let activity = &status.activity;
    json!({
        "mode": terms.map(|terms| terms.mode),
        "threshold": terms.map(|terms| terms.threshold),
        "cooldown_seconds": terms.map(|terms| terms.cooldown.as_seconds_f64()),
        "max_lag_seconds": terms.map(|terms| terms.max_lag.as_seconds_f64()),
        "decision": status.decision,
        "imbalance": {"before": before, "after": after},
        "pauses": activity.pauses,
        "running": activity.running,
        "last": activity.last,
        "suggested": activity.suggested,
    })
}
