//! What an error of Redis means.

use std::{error::Error, io, sync::Arc};

use redis::{ErrorKind, RedisError};

use super::{Named, SinkError};

/// Judges a connection that was not made.
pub(super) fn unconnected(error: &RedisError, url: &str) -> SinkError {
    let reason = format!("{url}: {}", words(error));
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
            SinkError::misconfigured(format!("{reason}; check username and password"))
        }
        (ErrorKind::InvalidClientConfig, _) => SinkError::misconfigured(reason),
        // What comes before TLS is settled is about TLS.
        (ErrorKind::Io, _) if url.starts_with("rediss") && is_invalid(error) => {
            SinkError::misconfigured(format!(
                "{reason}; SSL_CERT_FILE names the certificates that are trusted"
            ))
            .unreached()
        }
        (ErrorKind::Io, _) => SinkError::unreachable(reason),
        // Such as a database that does not exist.
        (ErrorKind::UnexpectedReturnType | ErrorKind::Client, _) | (_, Some("ERR" | "NOPERM")) => {
            SinkError::misconfigured(reason)
        }
        _ => SinkError::transient(reason),
    }
}

/// Judges a chunk that was not appended.
pub(super) fn refused(error: &RedisError, stream: &str, named: Named) -> SinkError {
    let reason = words(error);
    match error.code() {
        Some("WRONGTYPE") => SinkError::nowhere(
            named,
            format!(
                "key {stream} is no stream: {reason}; name another \"stream\", or remove the key"
            ),
        ),
        // A right to the key, not to a command.
        Some("NOPERM") if named == Named::ByMessage && reason.contains("key") => {
            SinkError::rejected(format!("{reason}: {stream}"))
        }
        Some("NOAUTH" | "WRONGPASS") => {
            SinkError::misconfigured(format!("{reason}; check username and password"))
        }
        Some("NOPERM") => SinkError::misconfigured(format!(
            "{reason}; allow this user +evalsha +eval +xadd +type +time +del +pexpire and the \
             commands of sorted sets, on keys {stream} and tide:*"
        )),
        Some("MOVED" | "ASK" | "CROSSSLOT") => SinkError::misconfigured(format!(
            "{reason}; the sink talks to one server: name the one that has the key, or a proxy"
        )),
        Some("READONLY") => SinkError::transient(format!(
            "{reason}; name the primary in \"url\" if this lasts"
        )),
        _ => SinkError::transient(reason),
    }
}

fn is_invalid(error: &RedisError) -> bool {
    // The client shares its causes, and an `Arc` hides what it holds from a walk along them.
    error
        .source()
        .and_then(|cause| cause.downcast_ref::<Arc<dyn Error + Send + Sync>>())
        .and_then(|cause| cause.downcast_ref::<io::Error>())
        .is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData)
}

/// What the server or the system said.
fn words(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}
