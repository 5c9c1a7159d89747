use serde_json::{Value, json};

use super::*;
use crate::{PipelineSpec, SinkSpec};

const CARRIERS: [Carrier; 6] = [
    Carrier::Http,
    Carrier::Kafka,
    Carrier::Nats,
    Carrier::Amqp,
    Carrier::Redis,
    Carrier::Lines,
];

/// Every format, by the words of a configuration.
const FORMATS: [&str; 5] = [
    "native",
    "raw",
    "cloudevents",
    "cloudevents-binary",
    "debezium",
];

fn provenance(pipeline: &str) -> Provenance {
    Provenance {
        group: "default".parse().unwrap(),
        pipeline: pipeline.parse().unwrap(),
        outbox: "order_events".to_owned(),
        epoch: Epoch(7),
        database: "shop".to_owned(),
    }
}

/// What a configuration makes of a format.
fn spec(mut config: Value) -> Result<PipelineSpec, String> {
    let sink = json!({"sink_type": "kafka", "brokers": "k", "topic": "t"});
    let object = config.as_object_mut().unwrap();
    if !object.contains_key("sink_type") {
        object.extend(sink.as_object().unwrap().clone());
    }
    PipelineSpec::parse("p".parse().unwrap(), "order_events".to_owned(), &config)
        .map_err(|error| error.to_string())
}

fn encoder(config: Value) -> Encoder {
    Encoder::new(&spec(config).unwrap().format, &provenance("orders"))
}

fn event<'a>(key: Option<&'a str>, headers: &'a str) -> Event<'a> {
    Event {
        id: 5,
        event_id: Uuid::nil(),
        key,
        payload: r#"{"a": [1, {"b": "}"}], "amount": 12345678901234567890.1234567890}"#,
        headers,
        created_at: OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(1_234_567),
    }
}

const HEADERS: &str = r#"{"traceparent": "00-ab-cd-01", "retry": true, "n": 5, "big": 5000000000, "Trace Id": "caf\u00e9 \"1\"", "deep": {"x": [1]}, "none": null}"#;

fn body(encoder: &Encoder, event: &Event<'_>) -> String {
    let mut out = Vec::new();
    encoder.body(&mut out, event);
    String::from_utf8(out).unwrap()
}

/// Everything that a receiver sees of a message, format by format, carrier by carrier.
#[test]
fn golden_bodies_and_what_stands_beside_them() {
    use std::fmt::Write as _;
    let mut text = String::new();
    let event = event(Some("k\"1 é"), HEADERS);
    for format in FORMATS {
        let encoder = encoder(json!({"format": format}));
        writeln!(text, "== {format}, {}", encoder.content_type()).unwrap();
        writeln!(text, "{}", body(&encoder, &event)).unwrap();
        for carrier in CARRIERS {
            let beside = encoder.beside(carrier, &event);
            if !beside.is_empty() {
                writeln!(text, "-- {carrier:?}").unwrap();
            }
            for (name, value) in beside {
                writeln!(text, "{name}: {value}").unwrap();
            }
        }
        writeln!(text).unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn golden_settings() {
    let event = event(None, "{}");
    let shard = provenance("orders#2/4");
    let settings = [
        json!({"format": "cloudevents", "cloudevents": {"source": "/shops/eu", "type": "com.example.order"}}),
        json!({"format": "debezium", "debezium": {"schema": true}}),
        json!({"format": "native"}),
    ];
    let bodies: Vec<String> = settings
        .into_iter()
        .map(|config| {
            let format = spec(config.clone()).unwrap().format;
            format!(
                "{config}\n{}\n",
                body(&Encoder::new(&format, &shard), &event)
            )
        })
        .collect();
    insta::assert_snapshot!(bodies.join("\n"));
}

#[test]
fn every_body_is_json_and_holds_the_payload_to_the_digit() {
    let event = event(Some("k"), HEADERS);
    for format in FORMATS {
        let body = body(&encoder(json!({"format": format})), &event);
        let value: Value = serde_json::from_str(&body).unwrap();
        assert!(value.is_object(), "{body}");
        assert!(body.contains("12345678901234567890.1234567890"), "{body}");
        assert!(!body.contains('\n'), "{body}");
    }
}

#[test]
fn the_schema_describes_the_envelope() {
    let encoder = encoder(json!({"format": "debezium", "debezium": {"schema": true}}));
    let body = body(&encoder, &event(Some("k"), HEADERS));
    let value: Value = serde_json::from_str(&body).unwrap();
    fits(&value["schema"], &value["payload"], "payload");
    // A row is what it says when it is there.
    fits(
        &value["schema"]["fields"][1],
        &value["payload"]["after"],
        "after",
    );
}

/// As Kafka Connect's converter reads it: exactly the fields of the schema, of their types.
fn fits(schema: &Value, value: &Value, at: &str) {
    if value.is_null() {
        assert_eq!(schema["optional"], json!(true), "{at}");
        return;
    }
    match schema["type"].as_str().unwrap() {
        "struct" => {
            let fields = schema["fields"].as_array().unwrap();
            assert_eq!(fields.len(), value.as_object().unwrap().len(), "{at}");
            for field in fields {
                let name = field["field"].as_str().unwrap();
                fits(field, &value[name], name);
            }
        }
        "string" => assert!(value.is_string(), "{at}: {value}"),
        "int64" => assert!(value.is_i64(), "{at}: {value}"),
        other => panic!("{at} is of type {other}"),
    }
}

#[test]
fn a_publisher_forges_neither_our_headers_nor_those_of_a_format() {
    let headers = r#"{"tide-epoch": "99", "mine": 1, "ce_id": "x", "CE-type": "x", "cloudEvents:id": "x", "cloudEvents_id": "x", "Content-Type": "x", "id": "x", "tidegroup": "x"}"#;
    let binary = encoder(json!({"format": "cloudevents-binary"}));
    let names = |carrier| -> Vec<String> {
        binary
            .publishers(carrier, headers)
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    };
    let kafka = names(Carrier::Kafka);
    assert!(!kafka.contains(&"ce_id".to_owned()) && kafka.contains(&"CE-type".to_owned()));
    assert!(!kafka.contains(&"Content-Type".to_owned()));
    let amqp = names(Carrier::Amqp);
    assert!(
        !amqp.iter().any(|name| name.starts_with("cloudEvents")),
        "{amqp:?}"
    );
    assert!(!names(Carrier::Nats).contains(&"CE-type".to_owned()));
    assert!(!kafka.contains(&"tide-epoch".to_owned()));
    // Attributes keep their meaning too.
    let event = event(None, headers);
    let attributes = binary.beside(Carrier::Kafka, &event);
    let ids: Vec<_> = attributes
        .iter()
        .filter(|(name, _)| name == "ce_id")
        .collect();
    assert_eq!(ids, [&("ce_id".to_owned(), Uuid::nil().to_string())]);
    let groups = attributes.iter().filter(|(name, _)| name == "ce_tidegroup");
    assert_eq!(groups.count(), 1);
    // And the envelope.
    let native = encoder(json!({}));
    let value: Value = serde_json::from_str(&body(&native, &event)).unwrap();
    assert_eq!(value["headers"]["tide-epoch"], "7");
    assert_eq!(value["headers"]["mine"], 1);
    assert!(
        !body(&native, &event).contains("99"),
        "not even a second time"
    );
    // Another format does not know them.
    assert!(
        native
            .publishers(Carrier::Kafka, headers)
            .contains_key("ce_id")
    );
}

#[test]
fn the_envelope_holds_exactly_the_promised_keys() {
    for (key, headers) in [
        (Some("k\"1"), r#" {"source": {"deep": {}}} "#),
        (None, "{}"),
    ] {
        let value: Value =
            serde_json::from_str(&body(&encoder(json!({})), &event(key, headers))).unwrap();
        let keys: Vec<_> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
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
        assert_eq!(value["key"].as_str(), key);
        assert_eq!(value["payload"]["a"][1]["b"], "}");
        assert_eq!(value["created_at"], "1970-01-01T00:00:01.234567Z");
        assert_eq!(value["headers"]["tide-pipeline"], "orders");
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let webhook = |more: Value| {
        let mut config = json!({"sink_type": "webhook", "url": "http://h", "batch": true});
        config
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        config
    };
    for (config, message) in [
        (
            json!({"format": "cloudevent"}),
            "key \"format\" is \"cloudevent\" (one of: native, raw, cloudevents, cloudevents-binary, debezium)",
        ),
        (
            json!({"sink_type": "file", "path": "/x", "format": "cloudevents-binary"}),
            "key \"format\" is \"cloudevents-binary\", whose attributes are headers, and sink_type \"file\" has none (\"cloudevents\" has them in the body)",
        ),
        (
            webhook(json!({"format": "cloudevents-binary"})),
            "key \"format\" is \"cloudevents-binary\", whose identity is in the request's headers, and \"batch\" puts many messages into one request (\"cloudevents\", or without \"batch\")",
        ),
        (
            webhook(json!({"format": "raw"})),
            "key \"format\" is \"raw\", whose identity is in the request's headers, and \"batch\" puts many messages into one request (\"native\", or without \"batch\")",
        ),
        (
            json!({"sink_type": "pg-inbox", "inbox": "i", "format": "raw"}),
            "key \"format\" does not go with sink_type \"pg-inbox\" (an inbox has a column for each part of a message; leave it out)",
        ),
        (
            json!({"sink_type": "null", "debezium": {}}),
            "key \"debezium\" does not go with sink_type \"null\" (nobody reads what it discards; leave it out)",
        ),
        (
            json!({"format": "raw", "cloudevents": {"type": "x"}}),
            "key \"cloudevents\" belongs to another format (it needs \"format\": \"cloudevents\" or \"cloudevents-binary\")",
        ),
        (
            json!({"debezium": {"schema": true}}),
            "key \"debezium\" belongs to another format (it needs \"format\": \"debezium\")",
        ),
        (
            json!({"format": "debezium", "debezium": {"shema": true}}),
            "key \"debezium.shema\" is not a known key (did you mean \"schema\"?)",
        ),
        (
            json!({"format": "cloudevents", "cloudevents": {"source": "a b"}}),
            "key \"cloudevents.source\" is \"a b\", no URI reference (for example /shops/eu or https://example.com/shops/eu)",
        ),
        (
            json!({"format": "cloudevents", "cloudevents": {"type": "a\nb"}}),
            "key \"cloudevents.type\" is \"a\\nb\" (text without control characters, for example com.example.order.created)",
        ),
        (
            json!({"format": "cloudevents", "cloudevents": "yes"}),
            "key \"cloudevents\" is a string, expected an object",
        ),
    ] {
        assert_eq!(spec(config).unwrap_err(), message);
    }
    // And what does go together.
    assert!(spec(webhook(json!({"format": "cloudevents"}))).is_ok());
    assert!(matches!(
        spec(json!({})).unwrap().sink,
        SinkSpec::Kafka { .. }
    ));
}
