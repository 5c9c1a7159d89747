//! What an error of RabbitMQ means.

use std::io;

use lapin::{
    Error, ErrorKind,
    message::BasicReturnMessage,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};
use tide_model::sink_spec::RabbitmqSpec;

use super::{Named, SinkError};

/// Judges a connection that was not made.
pub(super) fn unconnected(error: &Error, spec: &RabbitmqSpec) -> SinkError {
    let reason = format!("{}: {}", spec.url, words(error));
    match error.kind() {
        ErrorKind::ProtocolError(said) => match said.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                SinkError::misconfigured(format!("{reason}; check username and password"))
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => SinkError::misconfigured(format!(
                "{reason}; the path of \"url\" names a virtual host that this user may use"
            )),
            _ => SinkError::transient(reason),
        },
        // TLS that does not fit; there is no other data before it is settled.
        ErrorKind::IOError(cause)
            if cause.kind() == io::ErrorKind::InvalidData && spec.url.starts_with("amqps") =>
        {
            SinkError::misconfigured(format!(
                "{reason}; SSL_CERT_FILE names the certificates that are trusted"
            ))
            .unreached()
        }
        ErrorKind::IOError(_) => SinkError::unreachable(reason),
        ErrorKind::InvalidProtocolVersion(_) => SinkError::misconfigured(reason),
        _ => SinkError::transient(reason),
    }
}

/// Judges a message that was not confirmed.
pub(super) fn refused(error: &Error, spec: &RabbitmqSpec) -> SinkError {
    let reason = words(error);
    let ErrorKind::ProtocolError(said) = error.kind() else {
        return SinkError::transient(reason);
    };
    match said.kind() {
        // Of a message that is published only its size can be wrong, or a property of its own.
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::CONTENTTOOLARGE) => {
            SinkError::rejected(reason)
        }
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => SinkError::misconfigured(format!(
            "{reason}; declare exchange {:?}, or name another one",
            spec.exchange
        )),
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => SinkError::misconfigured(format!(
            "{reason}; allow this user to write to {}",
            place(spec)
        )),
        _ => SinkError::transient(reason),
    }
}

/// Judges a message that came back, because no queue wants it.
pub(super) fn unroutable(
    returned: &BasicReturnMessage,
    spec: &RabbitmqSpec,
    named: Named,
) -> SinkError {
    let routing_key = returned.delivery.routing_key.as_str();
    let hint = if spec.exchange.is_empty() {
        format!("declare queue {routing_key:?}")
    } else {
        format!(
            "bind a queue to exchange {:?} for routing key {routing_key:?}",
            spec.exchange
        )
    };
    SinkError::nowhere(
        named,
        format!("{} {}: {hint}", returned.reply_code, returned.reply_text),
    )
}

/// An error that took its time, with what the broker has said about itself.
pub(super) fn explained(error: SinkError, is_blocked: bool) -> SinkError {
    match error {
        SinkError::Transient {
            delivered,
            reason,
            retry_after,
            unreached,
        } if is_blocked => SinkError::Transient {
            delivered,
            reason: format!(
                "{reason}; the broker blocks publishers: it is short of memory or disk"
            ),
            retry_after,
            unreached,
        },
        other => other,
    }
}

fn place(spec: &RabbitmqSpec) -> String {
    if spec.exchange.is_empty() {
        "the default exchange".to_owned()
    } else {
        format!("exchange {:?}", spec.exchange)
    }
}

/// What the broker or the system said, in one line.
fn words(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(said) => format!("{} {}", said.get_id(), said.get_message()),
        ErrorKind::IOError(cause) => cause.to_string(),
        _ => error.to_string(),
    }
}
