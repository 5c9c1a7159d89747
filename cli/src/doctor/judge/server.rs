//! Settings and room: what lets agents come, lock and stay.

use tide_catalog::preflight::ServerFacts;
use tide_model::fleet::DatabaseView;
use time::Duration;

use super::unknown;
use crate::doctor::{
    facts::{Asked, Clock, LEASE},
    finding::Finding,
};

/// Sessions of one agent that is the janitor and stores into inboxes.
const SESSIONS: i64 = 11;
/// A clock that is off by less is nobody's trouble.
const SKEW: Duration = Duration::seconds(2);

/// Whether the server ends sessions that fall silent, which is what frees the locks of the dead.
pub(super) fn lease(found: &Asked<i64>) -> Vec<Finding> {
    const CHECK: &str = "settings.idle_session_timeout";
    let asked = LEASE.as_millis() as i64;
    vec![match found {
        Ok(found) if *found == asked => Finding::ok(
            CHECK,
            "a session may set it, so that locks of a silent agent come free",
        ),
        Ok(found) => Finding::fail(
            CHECK,
            format!(
                "a session that asks for {asked} ms has {found} ms: locks of a silent agent would stay"
            ),
            "connect directly to the server: something in between drops the settings of sessions",
        ),
        Err(problem) => unknown(CHECK, problem),
    }]
}

/// Everything that settings decide.
pub(super) fn settings(facts: &ServerFacts, view: Option<&DatabaseView>) -> Vec<Finding> {
    vec![
        connections(facts),
        locks(facts, view),
        durability(facts),
        autovacuum(facts),
    ]
}

fn number(facts: &ServerFacts, name: &str) -> i64 {
    let setting = facts.settings.get(name);
    setting
        .and_then(|setting| setting.parse().ok())
        .unwrap_or(0)
}

fn is(facts: &ServerFacts, name: &str, value: &str) -> bool {
    facts.settings.get(name).is_some_and(|found| found == value)
}

fn connections(facts: &ServerFacts) -> Finding {
    const CHECK: &str = "settings.max_connections";
    let most = number(facts, "max_connections");
    let kept =
        number(facts, "superuser_reserved_connections") + number(facts, "reserved_connections");
    let used = facts.state.connections;
    let free = (most - kept - used).max(0);
    let detail = format!("{used} of {most} in use, {kept} reserved, {free} free");
    let hint = format!(
        "an agent takes up to {SESSIONS}, a control plane and applications more: raise \
         max_connections, or find out who holds them: SELECT usename, application_name, count(*) \
         FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 DESC"
    );
    if free == 0 {
        Finding::fail(CHECK, detail, hint)
    } else if free < SESSIONS {
        Finding::warn(CHECK, detail, hint)
    } else {
        Finding::ok(CHECK, detail)
    }
}

/// The lock table is shared with all that runs on the server, and has room for every setting's
/// share; what is not in use yet, but will be, is one lock a unit.
fn locks(facts: &ServerFacts, view: Option<&DatabaseView>) -> Finding {
    const CHECK: &str = "settings.max_locks_per_transaction";
    let each = number(facts, "max_locks_per_transaction");
    let room =
        each * (number(facts, "max_connections") + number(facts, "max_prepared_transactions"));
    let used = facts.state.locks;
    let rows = view.map_or(&[][..], |view| &view.pipelines);
    let coming = rows.iter().filter(|row| row.enabled && row.owner.is_none());
    let coming = coming.count() as i64;
    let detail = format!(
        "room for about {room} locks ({each} for each session): {used} in use, {coming} to come \
         for pipelines without an owner"
    );
    let hint = "raise max_locks_per_transaction and restart the server; each pipeline, and each \
                shard, is one lock";
    if used + coming > room {
        Finding::fail(CHECK, detail, hint)
    } else if (used + coming) * 10 > room * 8 {
        Finding::warn(CHECK, detail, hint)
    } else {
        Finding::ok(CHECK, detail)
    }
}

fn durability(facts: &ServerFacts) -> Finding {
    const CHECK: &str = "settings.durability";
    if is(facts, "fsync", "off") {
        return Finding::fail(
            CHECK,
            "fsync is off: a crash of the machine may destroy the database",
            "turn fsync on",
        );
    }
    if is(facts, "full_page_writes", "off") {
        return Finding::warn(
            CHECK,
            "full_page_writes is off: a crash of the machine may tear pages",
            "turn full_page_writes on, unless the file system writes whole pages",
        );
    }
    if is(facts, "synchronous_commit", "off") {
        return Finding::warn(
            CHECK,
            "synchronous_commit is off: a crash may lose messages whose publishers were told that \
             they are stored, and repeat deliveries",
            "turn it on for publishers: ALTER ROLE publisher SET synchronous_commit = on",
        );
    }
    let commit = facts.settings.get("synchronous_commit");
    let commit = commit.map_or("?", String::as_str);
    let remark = match commit {
        "local" => "; a failover may lose what no standby has yet",
        _ => "",
    };
    Finding::ok(CHECK, format!("synchronous_commit is {commit}{remark}"))
}

fn autovacuum(facts: &ServerFacts) -> Finding {
    const CHECK: &str = "settings.autovacuum";
    let off = ["autovacuum", "track_counts"]
        .into_iter()
        .find(|name| is(facts, name, "off"));
    match off {
        None => Finding::ok(CHECK, "autovacuum runs"),
        Some(name) => Finding::warn(
            CHECK,
            format!("{name} is off: outboxes grow without end, whatever is deleted from them"),
            format!("turn {name} on"),
        ),
    }
}

/// Whether both ends agree on the time, as far as the way between them lets one tell.
pub(super) fn clock(clock: Clock) -> Finding {
    const CHECK: &str = "clock";
    let off = clock.ahead.abs();
    let certain = off - clock.uncertainty;
    let side = if clock.ahead.is_negative() {
        "behind"
    } else {
        "ahead of"
    };
    let detail = format!(
        "the server is {:.3} s {side} this machine, give or take {:.3} s",
        off.as_seconds_f64(),
        clock.uncertainty.as_seconds_f64(),
    );
    if certain > SKEW {
        Finding::warn(
            CHECK,
            detail,
            "synchronise both with NTP; leases do not depend on it, but ages, expiries of tokens \
             and certificates do",
        )
    } else {
        Finding::ok(CHECK, detail)
    }
}
