//! Messages as the pipeline's format writes them (`tide_model::format`): the same bytes on every
//! redelivery under one epoch.

use serde_json::Value;
use tide_catalog::messages::Message;
use tide_model::format::{Carrier, Event};

use super::Context;

/// A message as an encoder sees it.
pub(super) fn event(message: &Message) -> Event<'_> {
    Event {
        id: message.id,
        event_id: message.event_id,
        key: message.key.as_deref(),
        payload: &message.payload,
        headers: &message.headers,
        created_at: message.created_at,
    }
}

/// Appends the body of one message.
pub(super) fn write(out: &mut Vec<u8>, context: &Context, message: &Message) {
    context.encoder.body(out, &event(message));
}

/// The body of one message.
pub(super) fn body(context: &Context, message: &Message) -> Vec<u8> {
    let mut body = Vec::with_capacity(message.payload.len() + message.headers.len() + 256);
    write(&mut body, context, message);
    body
}

/// What the format puts beside a body, as `carrier` writes it.
pub(super) fn beside(
    context: &Context,
    carrier: Carrier,
    message: &Message,
) -> Vec<(String, String)> {
    context.encoder.beside(carrier, &event(message))
}

/// Everything that a broker's own headers carry, as text: the event's id, the publisher's headers,
/// ours, and the format's. What is no text goes as JSON; what is null does not go.
pub(super) fn text_headers(
    context: &Context,
    carrier: Carrier,
    message: &Message,
) -> Vec<(String, String)> {
    let event = ("tide-event-id".to_owned(), message.event_id.to_string());
    let headers = context.encoder.headers(carrier, &message.headers);
    let others = headers.into_iter().filter_map(|(name, value)| match value {
        Value::String(text) => Some((name, text)),
        Value::Null => None,
        other => Some((name, other.to_string())),
    });
    std::iter::once(event)
        .chain(others)
        .chain(beside(context, carrier, message))
        .collect()
}
