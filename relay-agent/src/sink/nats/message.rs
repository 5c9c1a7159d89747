//! What a message's headers carry in NATS.

use async_nats::{
    HeaderMap, HeaderName, HeaderValue, header::NATS_MESSAGE_ID, jetstream::message::PublishMessage,
};
use tide_catalog::messages::Message;
use tide_model::format::Carrier;

use super::{Context, envelope};

/// Names that begin like this are orders to the server.
const SERVERS_OWN: &str = "nats-";

/// Makes the headers of a batch's messages. What all of them have is made once.
pub(super) struct Headers<'a> {
    context: &'a Context,
    /// What all have, and with room for the rest.
    common: HeaderMap,
    event_id: HeaderName,
    key: HeaderName,
}

impl<'a> Headers<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        let event_id = HeaderName::from_static("tide-event-id");
        let mut common = HeaderMap::new();
        for (name, value) in context.encoder.own_headers() {
            common.insert(HeaderName::from_static(name), value.as_str());
        }
        for name in [event_id.clone(), NATS_MESSAGE_ID] {
            common.insert(name, HeaderValue::new());
        }
        Self {
            context,
            common,
            event_id,
            key: HeaderName::from_static("tide-key"),
        }
    }

    /// The message without its body.
    ///
    /// Its id is that of the event *in this pipeline*: streams look for duplicates over all of their
    /// subjects, and two pipelines may deliver the same event into one stream.
    pub(super) fn of(&self, message: &Message) -> PublishMessage {
        let mut headers = self.common.clone();
        let event_id = message.event_id.to_string();
        let Context {
            group, pipeline, ..
        } = self.context;
        let id = format!("{event_id}/{group}/{}", pipeline.pipeline_str());
        headers.insert(NATS_MESSAGE_ID, HeaderValue::from(id));
        headers.insert(self.event_id.clone(), HeaderValue::from(event_id));
        if let Some(key) = &message.key
            && let Ok(key) = key.parse::<HeaderValue>()
        {
            headers.insert(self.key.clone(), key);
        }
        for (name, value) in envelope::other_text_headers(self.context, Carrier::Nats, message) {
            add(&mut headers, &name, &value);
        }
        PublishMessage::build().headers(headers)
    }
}

/// What cannot be a header is in the envelope all the same.
fn add(headers: &mut HeaderMap, name: &str, value: &str) {
    let start = name.get(..SERVERS_OWN.len());
    if name.is_empty() || start.is_some_and(|start| start.eq_ignore_ascii_case(SERVERS_OWN)) {
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
