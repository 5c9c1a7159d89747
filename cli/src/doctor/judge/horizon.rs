//! What keeps PostgreSQL from removing old rows, and Tide from removing old messages.

use tide_catalog::preflight::ServerFacts;

use super::some;
use crate::{
    doctor::finding::{Finding, Status},
    output::humanize::{counted, seconds},
};

/// A transaction that is open for longer, in seconds, is in the way.
const LONG: f64 = 300.0;

/// Open and prepared transactions, and replication slots.
pub(super) fn judge(facts: &ServerFacts) -> Vec<Finding> {
    vec![open(facts), prepared(facts), slots(facts)]
}

fn open(facts: &ServerFacts) -> Finding {
    const CHECK: &str = "horizon.open_transactions";
    let long: Vec<_> = facts
        .open
        .iter()
        .filter(|one| one.seconds >= LONG)
        .collect();
    if let Some(oldest) = long.first() {
        let detail = some(long.iter().map(|one| {
            let age = seconds(one.seconds);
            format!(
                "pid {} of {} ({}, {}) for {age}",
                one.pid, one.user, one.application, one.state
            )
        }));
        let pid = oldest.pid;
        return Finding::warn(
            CHECK,
            format!("open for long, so nothing that was deleted since goes away: {detail}"),
            format!(
                "end it: SELECT pg_terminate_backend({pid}); and prevent it: idle_in_transaction_session_timeout"
            ),
        );
    }
    let finding = Finding::ok(CHECK, format!("none for longer than {}", seconds(LONG)));
    if facts.state.sees_all {
        return finding;
    }
    let user = &facts.state.user;
    Finding {
        status: Status::Warn,
        detail: format!("{}, of those that {user} may see", finding.detail),
        hint: Some(format!(
            "to have them all examined: GRANT pg_read_all_stats TO {user};"
        )),
        ..finding
    }
}

fn prepared(facts: &ServerFacts) -> Finding {
    const CHECK: &str = "horizon.prepared_transactions";
    let long: Vec<_> = facts
        .prepared
        .iter()
        .filter(|one| one.seconds >= LONG)
        .collect();
    let Some(oldest) = long.first() else {
        let young = counted(facts.prepared.len(), "prepared transaction");
        return Finding::ok(
            CHECK,
            format!("{young}, none for longer than {}", seconds(LONG)),
        );
    };
    let gids = long.iter().map(|one| {
        format!(
            "{:?} in {} for {}",
            one.gid,
            one.database,
            seconds(one.seconds)
        )
    });
    Finding::warn(
        CHECK,
        format!(
            "forgotten? {}: what it wrote is delivered only after its commit, and nothing that was deleted since goes away",
            some(gids)
        ),
        format!(
            "ask its transaction manager, then in {}: COMMIT PREPARED or ROLLBACK PREPARED '{}'",
            oldest.database,
            oldest.gid.replace('\'', "''")
        ),
    )
}

fn slots(facts: &ServerFacts) -> Finding {
    const CHECK: &str = "horizon.replication_slots";
    match facts.slots.first() {
        None => Finding::ok(CHECK, "none that is unused holds old rows"),
        Some(first) => Finding::warn(
            CHECK,
            format!(
                "unused, and holding old rows: {}",
                some(facts.slots.iter().cloned())
            ),
            format!(
                "start its consumer, or: SELECT pg_drop_replication_slot('{}')",
                first.replace('\'', "''")
            ),
        ),
    }
}
