//! Holds.

use tide_model::fleet::Hold;
use time::OffsetDateTime;

use crate::output::{
    Cell, Style, Table,
    humanize::{age, timestamp},
};

/// Holds, one a row. `now` is the reader's clock.
pub fn holds(style: Style, holds: &[Hold], now: OffsetDateTime) -> String {
    if holds.is_empty() {
        return "nothing is held".to_owned();
    }
    let mut heading = vec!["TARGET", "KIND", "OWNER", "AGE", "ENDS IN", "ID", "REASON"];
    if style.is_wide() {
        heading.extend(["SET", "ENDS", "GIVES UP", "OPERATION", "RUNS"]);
    }
    let mut table = Table::new(style, &heading).with_words_in("REASON");
    for hold in holds {
        let kind = match &hold.to {
            Some(to) => format!("{} to {to}", hold.kind),
            None => hold.kind.to_string(),
        };
        let owner = if hold.name == hold.actor {
            hold.actor.clone()
        } else {
            format!("{} ({})", hold.actor, hold.name)
        };
        let mut row = vec![
            Cell::from(hold.target.as_str()),
            Cell::from(kind),
            Cell::from(owner),
            Cell::from(age(hold.created_at, now)),
            Cell::or_dash(hold.expires_at.map(|end| age(now, end))),
            Cell::from(hold.id.to_string()),
            Cell::or_dash((!hold.reason.is_empty()).then_some(&hold.reason)),
        ];
        if style.is_wide() {
            row.extend([
                Cell::from(timestamp(hold.created_at)),
                Cell::or_dash(hold.expires_at.map(timestamp)),
                Cell::or_dash(hold.deadline_at.map(timestamp)),
                Cell::or_dash(hold.operation),
                Cell::from(if hold.is_running { "yes" } else { "-" }),
            ]);
        }
        table.row(row);
    }
    table.print()
}
