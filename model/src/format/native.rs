//! The native envelope: one JSON object with `event_id, outbox, id, key, headers, payload,
//! created_at`. The headers gain `tide-group`, `tide-pipeline`, `tide-epoch` and, of a shard,
//! `tide-shard`.

use std::{borrow::Cow, io::Write as _};

use serde_json::{Map, Value};

use super::{Encoder, Event, OWN_PREFIX, json, moment};

pub(super) fn write(out: &mut Vec<u8>, encoder: &Encoder, event: &Event<'_>) {
    out.reserve(event.payload.len() + event.headers.len() + 256);
    // Writing into memory cannot fail.
    drop(write!(
        out,
        r#"{{"event_id":"{}","outbox":{},"id":{},"key":"#,
        event.event_id, encoder.outbox, event.id
    ));
    json::quote_or_null(out, event.key);
    out.extend_from_slice(b",\"headers\":");
    headers(out, encoder, event.headers);
    out.extend_from_slice(b",\"payload\":");
    out.extend_from_slice(event.payload.as_bytes());
    drop(write!(
        out,
        r#","created_at":"{}"}}"#,
        moment(event.created_at)
    ));
}

pub(super) fn headers(out: &mut Vec<u8>, encoder: &Encoder, headers: &str) {
    out.push(b'{');
    // A publisher that uses our prefix costs a parse; everybody else none.
    let theirs = if headers.contains("\"tide-") {
        Cow::Owned(without_own(headers))
    } else {
        Cow::Borrowed(headers)
    };
    let theirs = json::members(&theirs);
    if !theirs.is_empty() {
        out.extend_from_slice(theirs.as_bytes());
        out.push(b',');
    }
    out.extend_from_slice(encoder.own_members.as_bytes());
    out.push(b'}');
}

fn without_own(headers: &str) -> String {
    let mut headers: Map<String, Value> = serde_json::from_str(headers).unwrap_or_default();
    headers.retain(|name, _| !name.starts_with(OWN_PREFIX));
    Value::Object(headers).to_string()
}
