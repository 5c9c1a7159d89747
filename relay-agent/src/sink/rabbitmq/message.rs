//! What a message's properties and headers carry in AMQP.

use std::borrow::Cow;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use tide_catalog::messages::Message;
use tide_model::format::Carrier;

use super::{Context, envelope};

/// Survives a restart of the broker, in a queue that does.
const PERSISTENT: u8 = 2;
/// Headers go in one frame, which brokers take 128 KiB of unless told otherwise.
const MOST_HEADER_BYTES: usize = 64 << 10;

pub(super) fn properties(context: &Context, message: &Message) -> BasicProperties {
    let mut table = FieldTable::default();
    let mut bytes = 0;
    let key = message.key.clone();
    let key = key.map(|key| (Cow::Borrowed("tide-key"), key));
    let mut headers: Vec<_> = envelope::text_headers(context, Carrier::Amqp, message)
        .chain(key)
        .collect();
    // Ours first: what does not fit any more is in the envelope all the same.
    headers.sort_by_key(|(name, _)| !is_ours(name));
    for (name, value) in headers {
        bytes += name.len() + value.len();
        if bytes > MOST_HEADER_BYTES || is_brokers_own(&name) {
            continue;
        }
        if let Ok(name) = ShortString::try_new(name.into_owned()) {
            table.insert(name, AMQPValue::LongString(value.into()));
        }
    }
    BasicProperties::default()
        .with_content_type(context.encoder.content_type().into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(message.event_id.to_string().into())
        .with_timestamp(message.created_at.unix_timestamp().max(0) as u64)
        .with_app_id("tide-agent".into())
        .with_headers(table)
}

/// What Tide or the format says.
fn is_ours(name: &str) -> bool {
    name.starts_with("tide-") || name.starts_with("cloudEvents_")
}

/// Orders to the broker, which a publisher must not give: further receivers, delays.
fn is_brokers_own(name: &str) -> bool {
    matches!(name, "CC" | "BCC") || name.starts_with("x-")
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;

    fn table(headers: &str) -> FieldTable {
        let context = Context::example("orders");
        let message = Message {
            id: 1,
            event_id: Uuid::nil(),
            key: Some("k".to_owned()),
            payload: "1".to_owned(),
            headers: headers.to_owned(),
            created_at: OffsetDateTime::UNIX_EPOCH,
        };
        properties(&context, &message).headers().clone().unwrap()
    }

    fn names(table: &FieldTable) -> Vec<&str> {
        table.inner().keys().map(ShortString::as_str).collect()
    }

    #[test]
    fn a_publisher_gives_no_orders_to_the_broker() {
        let table = table(r#"{"CC": "everybody", "BCC": ["x"], "x-delay": 5, "trace": {"id": 1}}"#);
        assert_eq!(
            names(&table),
            [
                "tide-epoch",
                "tide-event-id",
                "tide-group",
                "tide-key",
                "tide-pipeline",
                "trace"
            ]
        );
        assert_eq!(
            table.inner()["trace"],
            AMQPValue::LongString(r#"{"id":1}"#.into())
        );
    }

    #[test]
    fn headers_that_no_frame_holds_stay_in_the_envelope() {
        let large = format!(r#"{{"a": "{}", "b": 1}}"#, "x".repeat(MOST_HEADER_BYTES));
        assert!(!names(&table(&large)).contains(&"a"));
        let long = format!(r#"{{"{}": "v"}}"#, "n".repeat(256));
        assert_eq!(names(&table(&long)).len(), 5);
    }
}
