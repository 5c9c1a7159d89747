//! What a message's headers carry in NATS.

use async_nats::{
    HeaderMap, HeaderName, HeaderValue, header::NATS_MESSAGE_ID, jetstream::message::PublishMessage,
};
use tide_catalog::messages::Message;
use tide_model::format::Carrier;

use super::{Context, envelope};

/// Names that begin like this are orders to the server.
const SERVERS_OWN: &str = "nats-";

/// The message without its body.
///
/// Its id is that of the event *in this pipeline*: streams look for duplicates over all of their
/// subjects, and two pipelines may deliver the same event into one stream.
pub(super) fn with_headers(context: &Context, message: &Message) -> PublishMessage {
    let mut headers = HeaderMap::new();
    for (name, value) in envelope::text_headers(context, Carrier::Nats, message) {
        add(&mut headers, &name, &value);
    }
    if let Some(key) = &message.key {
        add(&mut headers, "tide-key", key);
    }
    let id = format!(
        "{}/{}/{}",
        message.event_id,
        context.group,
        context.pipeline.pipeline_str()
    );
    headers.insert(NATS_MESSAGE_ID, id.as_str());
    PublishMessage::build().headers(headers)
}

/// What cannot be a header is in the envelope all the same.
fn add(headers: &mut HeaderMap, name: &str, value: &str) {
    if name.is_empty() || name.to_ascii_lowercase().starts_with(SERVERS_OWN) {
        return;
    }
    if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
        headers.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publisher_can_neither_command_the_server_nor_break_the_protocol() {
        let mut headers = HeaderMap::new();
        for name in [
            "Nats-Rollup",
            "nats-msg-id",
            "NATS-Expected-Stream",
            "",
            "a b",
            "a:b",
            "a\r\nb",
            "\u{e9}",
        ] {
            add(&mut headers, name, "x");
        }
        add(&mut headers, "fine", "a\r\nNats-Rollup: all");
        assert!(headers.is_empty(), "{headers:?}");
        add(&mut headers, "trace-id", "caf\u{e9}: 1");
        assert_eq!(headers.get("trace-id").unwrap().as_str(), "caf\u{e9}: 1");
    }
}
