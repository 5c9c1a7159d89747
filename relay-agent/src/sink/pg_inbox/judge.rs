//! How PostgreSQL's answers are judged.

use std::time::Duration;

use tide_catalog::CatalogError;

use super::SinkError;

/// What failed, with what to do about it where that is somebody's to do.
pub(super) fn failed(error: &CatalogError, inbox: &str, server: &str) -> SinkError {
    let reason = format!("{server}: {error}");
    if error.is_bad_data() {
        return SinkError::rejected(error.to_string());
    }
    if error.is_read_only() {
        return SinkError::transient(format!(
            "{reason} (a standby, or a server that is set to read only)"
        ));
    }
    if error.is_locked_out() {
        return SinkError::transient(format!(
            "{reason} (another session holds a lock on the inbox for long)"
        ));
    }
    if error.is_permission_denied() {
        return SinkError::misconfigured(format!(
            "{reason} (grant it with: SELECT tide.inbox_rights('{inbox}'), and GRANT tide_relay TO the agent's user)"
        ));
    }
    if error.is_unreached() {
        return SinkError::unreachable(reason);
    }
    if error.is_transient() {
        return SinkError::transient(reason);
    }
    if error.is_missing_relation() {
        return missing(inbox, server);
    }
    match error.hint() {
        Some(hint) => SinkError::misconfigured(format!("{reason} ({hint})")),
        None => SinkError::misconfigured(reason),
    }
}

/// There is no such inbox.
pub(super) fn missing(inbox: &str, server: &str) -> SinkError {
    SinkError::misconfigured(format!(
        "inbox {inbox} does not exist at {server} (create it there with: tidectl inbox create {inbox})"
    ))
}

/// No answer.
pub(super) fn silent(within: Duration) -> SinkError {
    SinkError::transient(CatalogError::Timeout(within).to_string())
}
