//! Debezium's envelope: what its PostgreSQL connector writes for the insert of the message into the
//! outbox's table. `after` is the row, in which JSON is text, as Debezium's own type for it says.
//!
//! No clock is read, so that a redelivery is the same: `ts_ms` is when the message was written.

use std::io::Write as _;

use serde_json::{Value, json};

use super::{Debezium, Event, Provenance, json, moment};

#[derive(Debug, Clone)]
pub(super) struct Writer {
    /// `{"schema":…,"payload":`, if consumers want it with every message.
    schema: Option<String>,
    /// `source` up to the value of `ts_ms`, and from there on.
    source: (String, String),
}

impl Writer {
    pub(super) fn new(spec: Debezium, provenance: &Provenance) -> Self {
        let table = format!("outbox_{}", provenance.outbox);
        let schema = spec.schema.then(|| {
            let schema = schema(provenance, &table);
            format!("{{\"schema\":{schema},\"payload\":")
        });
        let before = format!(
            r#"{{"version":{},"connector":"tide","name":{},"ts_ms":"#,
            json::quoted(env!("CARGO_PKG_VERSION")),
            json::quoted(provenance.group.as_str()),
        );
        let shard = provenance.pipeline.shard().map(|shard| shard.to_string());
        let after = format!(
            r#","snapshot":"false","db":{},"schema":"tide","table":{},"pipeline":{},"shard":{},"epoch":{}}}"#,
            json::quoted(&provenance.database),
            json::quoted(&table),
            json::quoted(provenance.pipeline.pipeline_str()),
            shard.map_or_else(|| "null".to_owned(), |shard| json::quoted(&shard)),
            provenance.epoch,
        );
        Self {
            schema,
            source: (before, after),
        }
    }

    pub(super) fn body(&self, out: &mut Vec<u8>, event: &Event<'_>) {
        out.reserve(event.payload.len() + event.headers.len() + 512);
        let millis = event.created_at.unix_timestamp_nanos() / 1_000_000;
        if let Some(schema) = &self.schema {
            out.extend_from_slice(schema.as_bytes());
        }
        // Writing into memory cannot fail.
        drop(write!(
            out,
            r#"{{"before":null,"after":{{"id":{},"event_id":"{}","key":"#,
            event.id, event.event_id
        ));
        json::quote_or_null(out, event.key);
        out.extend_from_slice(b",\"payload\":");
        json::quote(out, event.payload);
        out.extend_from_slice(b",\"headers\":");
        json::quote(out, event.headers);
        let (before, after) = &self.source;
        drop(write!(
            out,
            r#","created_at":"{}"}},"source":{before}{millis}{after},"op":"c","ts_ms":{millis}}}"#,
            moment(event.created_at)
        ));
        if self.schema.is_some() {
            out.push(b'}');
        }
    }
}

/// The schema of Kafka Connect's JSON converter.
fn schema(provenance: &Provenance, table: &str) -> Value {
    let name = format!("{}.tide.{table}", provenance.group);
    let field = |name: &str, kind: &str, optional: bool| json!({"field": name, "type": kind, "optional": optional});
    let typed = |name: &str, semantic: &str| json!({"field": name, "type": "string", "optional": false, "name": semantic, "version": 1});
    let row = json!([
        field("id", "int64", false),
        typed("event_id", "io.debezium.data.Uuid"),
        field("key", "string", true),
        typed("payload", "io.debezium.data.Json"),
        typed("headers", "io.debezium.data.Json"),
        typed("created_at", "io.debezium.time.ZonedTimestamp"),
    ]);
    let value = format!("{name}.Value");
    json!({
        "type": "struct",
        "optional": false,
        "name": format!("{name}.Envelope"),
        "fields": [
            {"field": "before", "type": "struct", "optional": true, "name": value, "fields": row},
            {"field": "after", "type": "struct", "optional": true, "name": value, "fields": row},
            {"field": "source", "type": "struct", "optional": false, "name": "tide.Source", "fields": [
                field("version", "string", false),
                field("connector", "string", false),
                field("name", "string", false),
                field("ts_ms", "int64", false),
                field("snapshot", "string", true),
                field("db", "string", false),
                field("schema", "string", false),
                field("table", "string", false),
                field("pipeline", "string", false),
                field("shard", "string", true),
                field("epoch", "int64", false),
            ]},
            field("op", "string", false),
            field("ts_ms", "int64", true),
        ],
    })
}
