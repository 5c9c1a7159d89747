//! The native envelope of every sink: one JSON object with `event_id, outbox, id, key, headers,
//! payload, created_at`, the same bytes on every redelivery under one epoch.
//!
//! Payload and headers are JSON already, checked by PostgreSQL, and are copied without parsing.
//! The headers gain `tide-group`, `tide-pipeline` and `tide-epoch`; names that begin with `tide-`
//! belong to Tide, and a publisher's own are replaced.

use std::{io::Write as _, sync::LazyLock};

use serde_json::{Map, Value};
use tide_catalog::messages::Message;
use time::{
    OffsetDateTime,
    format_description::{BorrowedFormatItem, parse_borrowed},
};

use super::Context;

/// Microseconds, as PostgreSQL stores them.
static FORMAT: LazyLock<Vec<BorrowedFormatItem<'static>>> = LazyLock::new(|| {
    parse_borrowed::<2>("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z")
        .expect("the format is valid")
});

/// Appends the envelope of one message.
pub(super) fn write(out: &mut Vec<u8>, context: &Context, message: &Message) {
    // Writing into memory cannot fail.
    drop(write!(
        out,
        r#"{{"event_id":"{}","outbox":{},"id":{},"key":"#,
        message.event_id,
        quoted(&context.outbox),
        message.id
    ));
    match &message.key {
        Some(key) => out.extend_from_slice(quoted(key).as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"headers\":");
    headers(out, context, &message.headers);
    out.extend_from_slice(b",\"payload\":");
    out.extend_from_slice(message.payload.as_bytes());
    drop(write!(
        out,
        r#","created_at":"{}"}}"#,
        moment(message.created_at)
    ));
}

/// A moment as RFC 3339, in UTC, with microseconds.
pub(super) fn moment(moment: OffsetDateTime) -> String {
    moment
        .to_offset(time::UtcOffset::UTC)
        .format(&FORMAT)
        .expect("the format fits every moment")
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// Appends a message's headers, and our own among them.
pub(super) fn headers(out: &mut Vec<u8>, context: &Context, headers: &str) {
    let own = own_headers(context);
    let inner = headers
        .trim()
        .trim_start_matches('{')
        .trim_end_matches('}')
        .trim();
    // A publisher that uses our prefix costs a parse; everybody else none.
    if headers.contains("\"tide-") {
        out.extend_from_slice(Value::Object(merged(headers, own)).to_string().as_bytes());
        return;
    }
    out.push(b'{');
    if !inner.is_empty() {
        // Only the outermost braces go: what is nested ends in braces of its own.
        let text = headers.trim();
        out.extend_from_slice(text[1..text.len() - 1].trim().as_bytes());
        out.push(b',');
    }
    for (index, (name, value)) in own.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        drop(write!(out, "{}:{}", quoted(name), quoted(value)));
    }
    out.push(b'}');
}

/// The headers that Tide adds. A sharded pipeline's say which shard, because each has epochs of its
/// own.
pub(super) fn own_headers(context: &Context) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("tide-group", context.group.to_string()),
        ("tide-pipeline", context.pipeline.pipeline_str().to_owned()),
        ("tide-epoch", context.epoch.to_string()),
    ];
    headers.extend(
        context
            .pipeline
            .shard()
            .map(|shard| ("tide-shard", shard.to_string())),
    );
    headers
}

/// Everything that a broker's own headers carry, as text: the event's id, the publisher's headers
/// and ours. What is no text goes as JSON; what is null does not go.
pub(super) fn text_headers(context: &Context, message: &Message) -> Vec<(String, String)> {
    let event = ("tide-event-id".to_owned(), message.event_id.to_string());
    let merged = merged(&message.headers, own_headers(context));
    let others = merged.into_iter().filter_map(|(name, value)| match value {
        Value::String(text) => Some((name, text)),
        Value::Null => None,
        other => Some((name, other.to_string())),
    });
    std::iter::once(event).chain(others).collect()
}

/// A publisher's headers with ours, as an object.
pub(super) fn merged(headers: &str, own: Vec<(&'static str, String)>) -> Map<String, Value> {
    // The catalog admits objects only.
    let mut headers: Map<String, Value> = serde_json::from_str(headers).unwrap_or_default();
    headers.retain(|name, _| !name.starts_with("tide-"));
    headers.extend(
        own.into_iter()
            .map(|(name, value)| (name.to_owned(), Value::String(value))),
    );
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context::example("orders")
    }

    fn envelope(key: Option<&str>, headers: &str) -> Value {
        let message = Message {
            id: 5,
            event_id: uuid::Uuid::nil(),
            key: key.map(ToOwned::to_owned),
            payload: r#"{"a": [1, {"b": "}"}]}"#.to_owned(),
            headers: headers.to_owned(),
            created_at: OffsetDateTime::UNIX_EPOCH,
        };
        let mut out = Vec::new();
        write(&mut out, &context(), &message);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn holds_exactly_the_promised_keys() {
        let envelope = envelope(Some("k\"1"), r#"{"source": {"deep": {}}}"#);
        let mut keys: Vec<_> = envelope
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            [
                "created_at",
                "event_id",
                "headers",
                "id",
                "key",
                "outbox",
                "payload"
            ]
        );
        assert_eq!(envelope["key"], "k\"1");
        assert_eq!(envelope["payload"]["a"][1]["b"], "}");
        assert_eq!(envelope["created_at"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(envelope["headers"]["source"]["deep"], serde_json::json!({}));
        assert_eq!(envelope["headers"]["tide-epoch"], "7");
    }

    #[test]
    fn empty_headers_and_no_key_are_fine() {
        let envelope = envelope(None, "{}");
        assert_eq!(envelope["key"], Value::Null);
        assert_eq!(envelope["headers"]["tide-pipeline"], "orders");
    }

    #[test]
    fn a_publisher_cannot_forge_an_epoch() {
        let envelope = envelope(None, r#"{"tide-epoch": "99", "mine": 1}"#);
        assert_eq!(envelope["headers"]["tide-epoch"], "7");
        assert_eq!(envelope["headers"]["mine"], 1);
    }
}
