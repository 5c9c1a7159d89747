//! Messages as the pipeline's format writes them (`tide_model::format`): the same bytes on every
//! redelivery under one epoch.

use std::borrow::Cow;

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

/// Everything that a broker's own headers carry, as text: the event's id, our headers, the
/// publisher's, and the format's.
pub(super) fn text_headers<'a>(
    context: &'a Context,
    carrier: Carrier,
    message: &Message,
) -> impl Iterator<Item = (Cow<'a, str>, String)> {
    let event = ("tide-event-id", message.event_id.to_string());
    let ours = context.encoder.own_headers().iter();
    let ours = std::iter::once(event)
        .chain(ours.cloned())
        .map(|(name, value)| (Cow::Borrowed(name), value));
    let others = other_text_headers(context, carrier, message);
    ours.chain(others.map(|(name, value)| (Cow::Owned(name), value)))
}

/// The publisher's headers, and the format's, as text. What is no text goes as JSON; what is null does
/// not go.
pub(super) fn other_text_headers(
    context: &Context,
    carrier: Carrier,
    message: &Message,
) -> impl Iterator<Item = (String, String)> {
    let theirs = context.encoder.publishers(carrier, &message.headers);
    let theirs = theirs.into_iter().filter_map(|(name, value)| match value {
        Value::String(text) => Some((name, text)),
        Value::Null => None,
        other => Some((name, other.to_string())),
    });
    theirs.chain(beside(context, carrier, message))
}
