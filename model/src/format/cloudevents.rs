//! CloudEvents 1.0: the JSON format (structured mode) and the attributes of binary mode.
//!
//! `id` is the event's, `partitionkey` the message's key (extension "partitioning"). Publisher's
//! headers whose names and values an attribute may have become extension attributes, `traceparent`
//! for example; where all of them are to be found stands in the documentation of the sinks.

use std::io::Write as _;

use serde_json::{Map, Value};

use super::{CloudEvents, Event, Mode, Provenance, json, moment};

/// The media type of one event.
pub(super) const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";
/// The media type of an array of events.
pub(super) const BATCHED: &str = "application/cloudevents-batch+json; charset=UTF-8";

/// Longer names are allowed, and discouraged.
const LONGEST_NAME: usize = 20;

/// Attributes that a publisher's header cannot set.
const RESERVED: [&str; 10] = [
    "data",
    "datacontenttype",
    "dataschema",
    "id",
    "partitionkey",
    "source",
    "specversion",
    "subject",
    "time",
    "type",
];

#[derive(Debug, Clone)]
pub(super) struct Writer {
    mode: Mode,
    source: String,
    kind: String,
    /// Tide's own extension attributes.
    own: Vec<(&'static str, String)>,
}

impl Writer {
    pub(super) fn new(spec: &CloudEvents, provenance: &Provenance) -> Self {
        let mut own = vec![
            ("tidegroup", provenance.group.to_string()),
            (
                "tidepipeline",
                provenance.pipeline.pipeline_str().to_owned(),
            ),
            // A number of CloudEvents has 32 bits.
            ("tideepoch", provenance.epoch.to_string()),
        ];
        own.extend(
            provenance
                .pipeline
                .shard()
                .map(|shard| ("tideshard", shard.to_string())),
        );
        let outbox = &provenance.outbox;
        Self {
            mode: spec.mode,
            source: spec
                .source
                .clone()
                .unwrap_or_else(|| format!("/tide/outboxes/{outbox}")),
            kind: spec
                .kind
                .clone()
                .unwrap_or_else(|| format!("tide.{outbox}")),
            own,
        }
    }

    pub(super) fn is_binary(&self) -> bool {
        self.mode == Mode::Binary
    }

    pub(super) fn body(&self, out: &mut Vec<u8>, event: &Event<'_>) {
        if self.is_binary() {
            out.extend_from_slice(event.payload.as_bytes());
            return;
        }
        out.reserve(event.payload.len() + event.headers.len() + 512);
        out.push(b'{');
        for (name, value) in self.context(event) {
            // Writing into memory cannot fail.
            drop(write!(out, "\"{name}\":"));
            json::quote(out, &value);
            out.push(b',');
        }
        let (extensions, rest) = extensions(event.headers);
        for (name, value) in extensions {
            drop(write!(out, "\"{name}\":{value},"));
        }
        // What cannot be an attribute by itself is not lost.
        if rest {
            out.extend_from_slice(b"\"tideheaders\":");
            json::quote(out, event.headers);
            out.push(b',');
        }
        out.extend_from_slice(b"\"data\":");
        out.extend_from_slice(event.payload.as_bytes());
        out.push(b'}');
    }

    /// All attributes as text, for binary mode; the media type is the carrier's.
    pub(super) fn attributes(&self, event: &Event<'_>) -> Vec<(String, String)> {
        let context = self.context(event).into_iter();
        let context = context
            .filter(|(name, _)| *name != "datacontenttype")
            .map(|(name, value)| (name.to_owned(), value));
        let (extensions, _) = extensions(event.headers);
        let extensions = extensions.into_iter().map(|(name, value)| match value {
            Value::String(text) => (name, text),
            other => (name, other.to_string()),
        });
        context.chain(extensions).collect()
    }

    fn context(&self, event: &Event<'_>) -> Vec<(&'static str, String)> {
        let mut attributes = vec![
            ("specversion", "1.0".to_owned()),
            ("id", event.event_id.to_string()),
            ("source", self.source.clone()),
            ("type", self.kind.clone()),
            ("time", moment(event.created_at)),
            ("datacontenttype", "application/json".to_owned()),
        ];
        attributes.extend(event.key.map(|key| ("partitionkey", key.to_owned())));
        attributes.extend(self.own.iter().cloned());
        attributes
    }
}

/// A publisher's headers as extension attributes, by name, and whether any cannot be one.
fn extensions(headers: &str) -> (Vec<(String, Value)>, bool) {
    if json::members(headers).is_empty() {
        return (Vec::new(), false);
    }
    // The catalog admits objects only.
    let headers: Map<String, Value> = serde_json::from_str(headers).unwrap_or_default();
    let all = headers.len();
    let extensions: Vec<(String, Value)> = headers
        .into_iter()
        .filter(|(name, value)| is_name(name) && is_value(value))
        .collect();
    let rest = extensions.len() < all;
    (extensions, rest)
}

fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && !RESERVED.contains(&name)
        && !name.starts_with("tide")
}

/// A text without control characters, a truth value, or a number of 32 bits.
fn is_value(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.is_empty() && !text.chars().any(char::is_control),
        Value::Bool(_) => true,
        Value::Number(number) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}
