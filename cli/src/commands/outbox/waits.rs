//! Who waits for whom at one outbox: `tidectl outbox status NAME`.
//!
//! Messages go once they are delivered everywhere and past their retention, and their rows once no
//! transaction could still see them. So there is a reader that is furthest behind, a moment before
//! which nothing is deleted, and a transaction before which nothing is removed.

use serde::Serialize;
use tide_catalog::{
    outbox_waits::{OutboxReader, OutboxUpkeep},
    preflight::ServerFacts,
};
use time::OffsetDateTime;

use super::Outbox;
use crate::output::{
    Cell, Style, Table,
    humanize::{age, bytes, counted, number, seconds},
};

/// One outbox and everything that waits there.
#[derive(Serialize)]
pub(super) struct Waits {
    #[serde(flatten)]
    outbox: Outbox,
    /// The furthest behind first.
    readers: Vec<Reader>,
    upkeep: Upkeep,
    /// The oldest transactions that keep deleted rows in the table, the oldest first.
    horizon: Vec<Holder>,
}

#[derive(Serialize)]
struct Reader {
    name: String,
    group: String,
    enabled: bool,
    position: i64,
    behind: i64,
    next_id: Option<i64>,
    #[serde(with = "time::serde::rfc3339::option")]
    waits_since: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    moved_at: Option<OffsetDateTime>,
    state: Option<String>,
    reason: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    state_since: Option<OffsetDateTime>,
    /// Whether nobody is further behind while somebody is further on.
    holds_back: bool,
}

#[derive(Serialize)]
struct Upkeep {
    oldest_id: Option<i64>,
    #[serde(with = "time::serde::rfc3339::option")]
    oldest_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    swept_id: i64,
    live_rows: i64,
    dead_rows: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    vacuumed_at: Option<OffsetDateTime>,
}

/// What holds the horizon: a session, a prepared transaction or a replication slot.
#[derive(Serialize)]
struct Holder {
    what: String,
    seconds: Option<f64>,
}

impl Waits {
    pub(super) fn new(
        outbox: Outbox,
        readers: Vec<OutboxReader>,
        upkeep: Option<OutboxUpkeep>,
        server: &ServerFacts,
    ) -> Self {
        let lowest = readers.iter().map(|reader| reader.last_change_id).min();
        let readers = readers.into_iter().map(|reader| Reader {
            holds_back: reader.next_id.is_some() && Some(reader.last_change_id) == lowest,
            name: reader.unit,
            group: reader.relay_group_id,
            enabled: reader.enabled,
            position: reader.last_change_id,
            behind: reader.behind,
            next_id: reader.next_id,
            waits_since: reader.next_at,
            moved_at: reader.moved_at,
            state: reader.state,
            reason: reader.state_reason,
            state_since: reader.state_since,
        });
        let upkeep = upkeep.map_or_else(Upkeep::of_nothing, Upkeep::from);
        Self {
            outbox,
            readers: readers.collect(),
            upkeep,
            horizon: holders(server),
        }
    }
}

impl Upkeep {
    /// Of an outbox that was dropped in this moment.
    fn of_nothing() -> Self {
        Self {
            oldest_id: None,
            oldest_at: None,
            expires_at: None,
            swept_id: 0,
            live_rows: 0,
            dead_rows: 0,
            vacuumed_at: None,
        }
    }
}

impl From<OutboxUpkeep> for Upkeep {
    fn from(upkeep: OutboxUpkeep) -> Self {
        Self {
            oldest_id: upkeep.oldest_id,
            oldest_at: upkeep.oldest_at,
            expires_at: upkeep.expires_at,
            swept_id: upkeep.swept_id,
            live_rows: upkeep.live_rows,
            dead_rows: upkeep.dead_rows,
            vacuumed_at: upkeep.vacuumed_at,
        }
    }
}

fn holders(server: &ServerFacts) -> Vec<Holder> {
    let open = server.open.iter().map(|one| Holder {
        what: format!(
            "pid {} of {} ({}, {})",
            one.pid, one.user, one.application, one.state
        ),
        seconds: Some(one.seconds),
    });
    let prepared = server.prepared.iter().map(|one| Holder {
        what: format!("prepared transaction {} in {}", one.gid, one.database),
        seconds: Some(one.seconds),
    });
    let slots = server.slots.iter().map(|slot| Holder {
        what: format!("replication slot {slot}, which nobody uses"),
        seconds: None,
    });
    let mut holders: Vec<Holder> = open.chain(prepared).chain(slots).collect();
    // Nobody knows how old a slot's horizon is; it is older than it should be.
    holders.sort_by(|one, other| {
        let age = |holder: &Holder| holder.seconds.unwrap_or(f64::INFINITY);
        age(other).total_cmp(&age(one))
    });
    holders
}

/// Everything, for people.
pub(super) fn screen(style: Style, waits: &Waits, now: OffsetDateTime) -> String {
    let Waits {
        outbox,
        readers,
        upkeep,
        horizon,
    } = waits;
    let oldest = match (upkeep.oldest_id, upkeep.oldest_at, upkeep.expires_at) {
        (Some(id), Some(at), Some(expires)) => {
            let when = if expires <= now {
                "is past its retention".to_owned()
            } else {
                format!("may go in {}", seconds((expires - now).as_seconds_f64()))
            };
            format!("{id}, published {} ago, {when}", age(at, now))
        }
        _ => "none".to_owned(),
    };
    let vacuumed = upkeep.vacuumed_at.map_or_else(
        || "never vacuumed".to_owned(),
        |at| format!("vacuumed {} ago", age(at, now)),
    );
    let held_by = horizon.first().map_or_else(
        || "nothing".to_owned(),
        |holder| match holder.seconds {
            Some(open) => format!("{} for {}", holder.what, seconds(open)),
            None => holder.what.clone(),
        },
    );
    let blocker = readers.iter().find(|reader| reader.holds_back);
    let next = match (blocker, upkeep.expires_at) {
        (Some(reader), _) if upkeep.oldest_id.is_some_and(|id| id > reader.position) => {
            format!("nothing: {} stands at {}", reader.name, reader.position)
        }
        (Some(reader), _) => format!(
            "up to {}, where {} stands, as its retention ends",
            reader.position, reader.name
        ),
        (None, Some(_)) => "everything, as its retention ends".to_owned(),
        (None, None) => "nothing".to_owned(),
    };
    let head = format!(
        "outbox     {}\nmessages   ~{}, {}, ids up to {}\nretention  {}\noldest     {oldest}\n\
         deleted    up to {}\nnext       {next}\ndead rows  {} beside {}, {vacuumed}\nhorizon    held by {held_by}\n\n",
        outbox.name,
        number(outbox.messages.max(0) as u64),
        bytes(outbox.size_bytes.max(0) as u64),
        outbox.last_id,
        outbox.retention,
        upkeep.swept_id,
        number(upkeep.dead_rows.max(0) as u64),
        counted(upkeep.live_rows.max(0) as usize, "row"),
    );
    if readers.is_empty() {
        return head + "no pipeline reads it";
    }
    head + &table(style, readers, now)
}

fn table(style: Style, readers: &[Reader], now: OffsetDateTime) -> String {
    let heading = [
        "READER", "GROUP", "AT", "BEHIND", "WAITS", "STATE", "SINCE", "REASON",
    ];
    let mut table = Table::new(style, &heading).with_words_in("REASON");
    let ago = |at: Option<OffsetDateTime>| at.map(|at| age(at, now));
    for reader in readers {
        let state = match (&reader.state, reader.enabled) {
            (_, false) => Some("disabled".to_owned()),
            (state, true) => state.clone(),
        };
        table.row([
            Cell::from(reader.name.as_str()),
            Cell::or_dash((!reader.group.is_empty()).then_some(reader.group.as_str())),
            Cell::from(reader.position.to_string()),
            Cell::from(reader.behind.to_string()),
            Cell::or_dash(ago(reader.waits_since)),
            Cell::or_dash(state),
            Cell::or_dash(ago(reader.state_since)),
            Cell::or_dash(reader.reason.as_deref()),
        ]);
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    fn outbox() -> Outbox {
        Outbox {
            name: "order_events".to_owned(),
            pipelines: 2,
            messages: 1_204,
            last_id: 99_318,
            size_bytes: 8_192,
            retention: "24:00:00".to_owned(),
            slowest_pipeline: Some("orders".to_owned()),
            slowest_position: Some(99_001),
        }
    }

    #[test]
    fn it_is_plain_who_waits_for_whom() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(10);
        let ago = |minutes| Some(now - Duration::minutes(minutes));
        let reader = |name: &str, position, next: Option<i64>| Reader {
            name: name.to_owned(),
            group: "default".to_owned(),
            enabled: true,
            position,
            behind: 99_318 - position,
            next_id: next,
            waits_since: next.and(ago(125)),
            moved_at: ago(125),
            state: Some(
                if next.is_some() {
                    "retrying"
                } else {
                    "running"
                }
                .to_owned(),
            ),
            reason: next.map(|_| "connection refused".to_owned()),
            state_since: ago(120),
            holds_back: next.is_some(),
        };
        let waits = Waits {
            outbox: outbox(),
            readers: vec![
                reader("orders", 99_001, Some(99_002)),
                reader("audit", 99_318, None),
            ],
            upkeep: Upkeep {
                oldest_id: Some(98_115),
                oldest_at: ago(23 * 60),
                expires_at: Some(now + Duration::hours(1)),
                swept_id: 98_114,
                live_rows: 1_204,
                dead_rows: 312,
                vacuumed_at: ago(5),
            },
            horizon: vec![Holder {
                what: "pid 4242 of app (psql, idle in transaction)".to_owned(),
                seconds: Some(3_600.0),
            }],
        };
        insta::assert_snapshot!(screen(Style::plain(), &waits, now));
    }
}
