//! Every metric of the agent: name, labels, meaning. `docs/metrics.md` lists the same.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use tide_catalog::janitor::History;
use tide_model::HandoverKind;

/// 1 while this agent runs the pipeline and messages flow, 0 while it runs it and they do not, or
/// after it gave it away.
pub(crate) const PIPELINE_HEALTHY: &str = "pg_tide_pipeline_healthy";
/// Messages that the pipeline is behind.
pub(crate) const CONSUMER_LAG: &str = "pg_tide_relay_consumer_lag";
/// Age of the oldest message that waits.
pub(crate) const CONSUMER_LAG_SECONDS: &str = "pg_tide_relay_consumer_lag_seconds";
/// Pipelines that this agent holds.
pub(crate) const OWNED_PIPELINES: &str = "pg_tide_relay_owned_pipelines";
/// 1 while a control plane takes the agent's reports.
pub(crate) const CONTROL_PLANE_CONNECTED: &str = "pg_tide_relay_control_plane_connected";
/// 1 while the lock session stands.
pub(crate) const LOCK_SESSION_UP: &str = "pg_tide_relay_lock_session_up";
/// Messages that a sink has made durable.
pub(crate) const MESSAGES_DELIVERED: &str = "pg_tide_relay_messages_delivered_total";
/// Messages that a sink refused for good.
pub(crate) const MESSAGES_DEAD_LETTERED: &str = "pg_tide_relay_messages_dead_lettered_total";
/// Messages that a pipeline's transforms keep from its sink.
pub(crate) const MESSAGES_FILTERED: &str = "pg_tide_relay_messages_filtered_total";
/// Messages that wait unsent behind a refused one of their key.
pub(crate) const MESSAGES_PARKED: &str = "pg_tide_relay_messages_parked_total";
/// Keys of this agent's pipelines that are parked.
pub(crate) const PARKED_KEYS: &str = "pg_tide_relay_parked_keys";
/// Dead letters that were tried again, by outcome.
pub(crate) const LETTERS_REPLAYED: &str = "pg_tide_relay_letters_replayed_total";
/// Deliveries that failed, by disposition.
pub(crate) const DELIVERY_FAILURES: &str = "pg_tide_relay_delivery_failures_total";
/// Pipelines gained and lost, by reason.
pub(crate) const OWNERSHIP_TRANSITIONS: &str = "pg_tide_relay_ownership_transitions_total";
/// Writes that the catalog refused because a newer epoch exists.
pub(crate) const FENCED_WRITES: &str = "pg_tide_relay_fenced_writes_total";
/// How often publishing paused because the locks could not be proven.
pub(crate) const TRUST_LAPSES: &str = "pg_tide_relay_trust_lapses_total";
/// How often the lock session was lost.
pub(crate) const SESSION_LOSSES: &str = "pg_tide_relay_session_losses_total";
/// Time to deliver one batch.
pub(crate) const DELIVERY_DURATION: &str = "pg_tide_relay_delivery_duration_seconds";
/// Time to look at the fleet.
pub(crate) const DISCOVERY_DURATION: &str = "pg_tide_relay_discovery_duration_seconds";
/// Pipelines that the server's lock table has no room for.
pub(crate) const UNLOCKABLE_PIPELINES: &str = "pg_tide_relay_unlockable_pipelines";
/// Sinks that are ready for pipelines that are not ours yet.
pub(crate) const PREPARED_SINKS: &str = "pg_tide_relay_prepared_sinks";
/// From the former owner's silence to the new one's readiness.
pub(crate) const HANDOVER_GAP: &str = "pg_tide_relay_handover_gap_seconds";

/// What the circuit breaker of a pipeline does: 0 closed, 1 half-open, 2 open.
pub(crate) const CIRCUIT_STATE: &str = "pg_tide_relay_circuit_state";
/// How often a delivery waited for its rate limit.
pub(crate) const RATE_LIMIT_WAITS: &str = "pg_tide_relay_rate_limit_waits_total";

/// 1 while this agent is the database's janitor.
pub(crate) const JANITOR_ACTIVE: &str = "pg_tide_relay_janitor_active";
/// When the janitor last went through everything without an error.
pub(crate) const JANITOR_LAST_RUN: &str = "pg_tide_relay_janitor_last_run_timestamp_seconds";
/// Messages past their retention that the janitor deleted. Label: `outbox`.
pub(crate) const JANITOR_MESSAGES_DELETED: &str = "pg_tide_relay_janitor_messages_deleted_total";
/// Messages of inboxes, processed and past their retention, that the janitor deleted. Label: `inbox`.
pub(crate) const JANITOR_INBOX_DELETED: &str = "pg_tide_relay_janitor_inbox_deleted_total";
/// Dead letters that their pipelines kept no longer.
pub(crate) const JANITOR_LETTERS_DELETED: &str = "pg_tide_relay_janitor_letters_deleted_total";
/// Old events, operations and holds that the janitor deleted. Label: `kind`.
pub(crate) const JANITOR_HISTORY_DELETED: &str = "pg_tide_relay_janitor_history_deleted_total";
/// Rounds of the janitor that failed.
pub(crate) const JANITOR_ERRORS: &str = "pg_tide_relay_janitor_errors_total";

/// Why a pipeline came or went; a closed set.
pub(crate) const TRANSITIONS: [&str; 6] = [
    "acquired",
    "restarted",
    "released",
    "fenced",
    "failed",
    "session_lost",
];

/// Describes every metric and registers those without labels at zero.
pub(crate) fn describe() {
    describe_gauge!(
        PIPELINE_HEALTHY,
        "1 while this agent runs the pipeline and messages flow"
    );
    describe_gauge!(
        CONSUMER_LAG,
        Unit::Count,
        "messages that the pipeline is behind"
    );
    describe_gauge!(
        CONSUMER_LAG_SECONDS,
        Unit::Seconds,
        "age of the oldest message that waits"
    );
    describe_gauge!(
        OWNED_PIPELINES,
        Unit::Count,
        "pipelines that this agent holds"
    );
    describe_gauge!(
        CONTROL_PLANE_CONNECTED,
        "1 while a control plane takes the agent's reports"
    );
    describe_gauge!(
        UNLOCKABLE_PIPELINES,
        Unit::Count,
        "pipelines that the server's lock table has no room for"
    );
    describe_gauge!(
        PREPARED_SINKS,
        Unit::Count,
        "sinks that are ready for pipelines of others"
    );
    describe_gauge!(LOCK_SESSION_UP, "1 while the lock session stands");
    describe_messages();
    describe_counter!(
        OWNERSHIP_TRANSITIONS,
        Unit::Count,
        "pipelines gained and lost, by reason"
    );
    describe_counter!(
        FENCED_WRITES,
        Unit::Count,
        "writes refused because a newer epoch exists"
    );
    describe_counter!(
        TRUST_LAPSES,
        Unit::Count,
        "pauses because the locks could not be proven"
    );
    describe_counter!(SESSION_LOSSES, Unit::Count, "losses of the lock session");
    describe_histogram!(
        DELIVERY_DURATION,
        Unit::Seconds,
        "time to deliver one batch"
    );
    describe_histogram!(
        DISCOVERY_DURATION,
        Unit::Seconds,
        "time to look at the fleet"
    );
    describe_histogram!(
        HANDOVER_GAP,
        Unit::Seconds,
        "hand-over: from the former owner's silence to the new one's readiness"
    );
    describe_policy();
    describe_housekeeping();
    for reason in TRANSITIONS {
        counter!(OWNERSHIP_TRANSITIONS, "reason" => reason).absolute(0);
    }
    for name in [FENCED_WRITES, TRUST_LAPSES, SESSION_LOSSES, JANITOR_ERRORS] {
        counter!(name).absolute(0);
    }
    for name in [
        OWNED_PIPELINES,
        PREPARED_SINKS,
        UNLOCKABLE_PIPELINES,
        CONTROL_PLANE_CONNECTED,
        LOCK_SESSION_UP,
        JANITOR_ACTIVE,
    ] {
        gauge!(name).set(0.0);
    }
}

fn describe_messages() {
    describe_counter!(
        MESSAGES_DELIVERED,
        Unit::Count,
        "messages that a sink has made durable"
    );
    describe_counter!(
        MESSAGES_DEAD_LETTERED,
        Unit::Count,
        "messages that a sink refused for good"
    );
    describe_counter!(
        MESSAGES_FILTERED,
        Unit::Count,
        "messages that a pipeline's transforms keep from its sink"
    );
    describe_counter!(
        MESSAGES_PARKED,
        Unit::Count,
        "messages that wait unsent behind a refused one of their key"
    );
    describe_gauge!(
        PARKED_KEYS,
        Unit::Count,
        "keys of this agent's pipelines that are parked"
    );
    describe_counter!(
        LETTERS_REPLAYED,
        Unit::Count,
        "dead letters that were tried again"
    );
    describe_counter!(
        DELIVERY_FAILURES,
        Unit::Count,
        "deliveries that failed, by reason"
    );
}

fn describe_policy() {
    describe_gauge!(
        CIRCUIT_STATE,
        "circuit breaker: 0 closed, 1 half-open, 2 open"
    );
    describe_counter!(
        RATE_LIMIT_WAITS,
        Unit::Count,
        "waits of deliveries for their rate limit"
    );
}

fn describe_housekeeping() {
    describe_gauge!(JANITOR_ACTIVE, "1 while this agent is the janitor");
    describe_gauge!(
        JANITOR_LAST_RUN,
        Unit::Seconds,
        "when the janitor last went through everything"
    );
    describe_counter!(
        JANITOR_MESSAGES_DELETED,
        Unit::Count,
        "messages past their retention that the janitor deleted"
    );
    describe_counter!(
        JANITOR_INBOX_DELETED,
        Unit::Count,
        "processed messages of inboxes past their retention that the janitor deleted"
    );
    describe_counter!(
        JANITOR_LETTERS_DELETED,
        Unit::Count,
        "dead letters that their pipelines kept no longer"
    );
    describe_counter!(
        JANITOR_HISTORY_DELETED,
        Unit::Count,
        "old events, operations and holds that the janitor deleted"
    );
    describe_counter!(
        JANITOR_ERRORS,
        Unit::Count,
        "rounds of the janitor that failed"
    );
    for history in History::ALL {
        counter!(JANITOR_HISTORY_DELETED, "kind" => history.as_str()).absolute(0);
    }
}

pub(crate) fn transition(reason: &'static str) {
    debug_assert!(
        TRANSITIONS.contains(&reason),
        "{reason} is in the closed set"
    );
    counter!(OWNERSHIP_TRANSITIONS, "reason" => reason).increment(1);
}

pub(crate) fn fenced_write() {
    counter!(FENCED_WRITES).increment(1);
}

pub(crate) fn handover_gap(kind: HandoverKind, gap: Duration) {
    histogram!(HANDOVER_GAP, "kind" => kind.as_str()).record(gap);
}
