//! What an error of NATS means.

use std::{error::Error as StdError, io};

use async_nats::{
    ConnectError, ConnectErrorKind,
    jetstream::{
        self, ErrorCode,
        context::{
            GetStreamByNameErrorKind, PublishError, PublishErrorKind, RequestError,
            RequestErrorKind,
        },
    },
};

use super::{Named, SinkError, connection::Trouble};

/// Judges a connection that was not made.
pub(super) fn unconnected(error: &ConnectError, server: &str) -> SinkError {
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            SinkError::misconfigured(format!(
                "{server}: {}; check username and password, token or credentials",
                error.kind()
            ))
        }
        ConnectErrorKind::ServerParse => {
            SinkError::misconfigured(format!("{server}: no valid URL: {}", root(error)))
        }
        ConnectErrorKind::Tls => SinkError::misconfigured(format!(
            "{server}: {}; SSL_CERT_FILE names the certificates that are trusted",
            root(error)
        ))
        .unreached(),
        // Certificates that are not trusted are reported as data that makes no sense.
        ConnectErrorKind::Io if server.starts_with("tls") && is_invalid(error) => {
            SinkError::misconfigured(format!(
                "{server}: {}; SSL_CERT_FILE names the certificates that are trusted",
                root(error)
            ))
            .unreached()
        }
        _ => SinkError::unreachable(format!("{server}: no connection: {}", root(error))),
    }
}

/// Judges what the server said or did to the whole connection, for a message to `subject`; none if
/// it is about a subject that another message named.
pub(super) fn trouble(trouble: &Trouble, subject: &str, named: Named) -> Option<SinkError> {
    Some(match trouble {
        Trouble::Disconnected => SinkError::transient("the connection was lost"),
        // The protocol has no code for it.
        Trouble::Server(text) if text.to_lowercase().contains("permissions violation") => {
            let publishing = text.to_lowercase().contains("for publish");
            if named == Named::ByMessage && publishing {
                return text
                    .contains(&format!("\"{subject}\""))
                    .then(|| SinkError::rejected(text.clone()));
            }
            SinkError::misconfigured(format!(
                "{text}; allow this user to publish to {subject} and to subscribe to _INBOX.>"
            ))
        }
        Trouble::Server(text) => SinkError::transient(text.clone()),
    })
}

/// Judges a message that was not stored.
pub(super) fn refused(error: &PublishError) -> SinkError {
    let reason = root(error);
    if error.kind() == PublishErrorKind::MaxPayloadExceeded {
        return SinkError::rejected(format!("larger than the server's max_payload: {reason}"));
    }
    let code = cause::<jetstream::Error>(error).map(jetstream::Error::error_code);
    match code {
        Some(
            ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM,
        ) => SinkError::rejected(format!("larger than the stream's max_msg_size: {reason}")),
        Some(ErrorCode::STREAM_SEALED) => {
            SinkError::misconfigured(format!("{reason}; a sealed stream takes nothing more"))
        }
        _ => SinkError::transient(reason),
    }
}

/// Nobody took a message: either no stream wants its subject, or the one that does has no leader
/// right now.
pub(super) async fn unanswered(
    stream: &jetstream::Context,
    subject: &str,
    named: Named,
) -> SinkError {
    let Err(error) = stream.stream_by_subject(subject).await else {
        return SinkError::transient("the stream has no leader now");
    };
    if error.kind() == GetStreamByNameErrorKind::NotFound {
        return SinkError::nowhere(
            named,
            format!(
                "no stream takes subject {subject}; create one: nats stream add --subjects {subject}"
            ),
        );
    }
    let code = cause::<jetstream::Error>(&error).map(jetstream::Error::error_code);
    let nobody = cause::<RequestError>(&error)
        .is_some_and(|error| error.kind() == RequestErrorKind::NoResponders);
    match code {
        Some(ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT) => {
            not_enabled()
        }
        _ if nobody => not_enabled(),
        _ => SinkError::transient(format!(
            "the stream could not be asked for: {}",
            root(&error)
        )),
    }
}

fn not_enabled() -> SinkError {
    SinkError::misconfigured(
        "JetStream is not enabled for this account; start the server with -js, or enable it in its configuration",
    )
}

fn is_invalid(error: &ConnectError) -> bool {
    cause::<io::Error>(error).is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData)
}

/// The innermost cause of a type.
fn cause<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut found = None;
    let mut next = Some(error);
    while let Some(error) = next {
        found = error.downcast_ref().or(found);
        next = error.source();
    }
    found
}

/// The innermost cause in its own words.
fn root(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
