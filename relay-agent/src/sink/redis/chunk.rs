//! So many messages as one call of the script appends.

use tide_catalog::messages::Message;
use tide_model::format::Carrier;

use super::{Context, SinkError, envelope};

/// Redis does nothing else while it appends: a chunk takes it some milliseconds.
const MOST_MESSAGES: usize = 256;
const MOST_BYTES: usize = 1 << 20;

/// The start of a batch, as arguments of the script.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) messages: usize,
    pub(super) arguments: Vec<Vec<u8>>,
}

impl Chunk {
    /// Cuts as many messages as go at once, at least one; an error if the first is too large.
    pub(super) fn cut(
        context: &Context,
        messages: &[Message],
        largest: usize,
    ) -> Result<Self, SinkError> {
        let mut chunk = Self {
            messages: 0,
            arguments: Vec::new(),
        };
        let mut bytes = 0;
        for message in messages.iter().take(MOST_MESSAGES) {
            let fields = fields(context, message);
            let widest = fields.iter().map(Vec::len).max().unwrap_or(0);
            if widest > largest {
                if chunk.messages > 0 {
                    break;
                }
                return Err(SinkError::rejected(format!(
                    "{widest} bytes are more than the server's proto-max-bulk-len, {largest}"
                )));
            }
            bytes += fields.iter().map(Vec::len).sum::<usize>();
            if chunk.messages > 0 && bytes > MOST_BYTES {
                break;
            }
            chunk.messages += 1;
            chunk
                .arguments
                .push(message.event_id.to_string().into_bytes());
            chunk.arguments.push(fields.len().to_string().into_bytes());
            chunk.arguments.extend(fields);
        }
        Ok(chunk)
    }
}

/// An entry's fields and values, in turn.
fn fields(context: &Context, message: &Message) -> Vec<Vec<u8>> {
    let mut fields = Vec::new();
    let mut add = |name: &str, value: Vec<u8>| fields.extend([name.as_bytes().to_vec(), value]);
    add("event_id", message.event_id.to_string().into_bytes());
    if let Some(key) = &message.key {
        add("key", key.clone().into_bytes());
    }
    for (name, value) in context.encoder.own_headers() {
        add(name, value.clone().into_bytes());
    }
    for (name, value) in envelope::beside(context, Carrier::Redis, message) {
        add(&name, value.into_bytes());
    }
    let body = if context.encoder.is_bare() {
        "payload"
    } else {
        "envelope"
    };
    add(body, envelope::body(context, message));
    fields
}

/// Where the script remembers what this pipeline has appended to a stream. The braces make a proxy
/// that spreads keys over servers put both on the same one.
pub(super) fn memory_key(stream: &str, context: &Context) -> String {
    let tag = stream
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty())
        .unwrap_or(stream);
    format!(
        "tide:{{{tag}}}:{stream}:{}:{}",
        context.group,
        context.pipeline.pipeline_str()
    )
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;

    fn context() -> Context {
        Context::example("orders#2/4")
    }

    fn message(size: usize) -> Message {
        Message {
            id: 1,
            event_id: Uuid::nil(),
            key: Some("k".to_owned()),
            payload: format!("\"{}\"", "x".repeat(size)),
            headers: "{}".to_owned(),
            created_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn chunks_are_bounded_by_messages_and_by_bytes() {
        let cut = |messages: &[Message], largest| Chunk::cut(&context(), messages, largest);
        let small: Vec<_> = (0..1_000).map(|_| message(1)).collect();
        assert_eq!(cut(&small, 1 << 20).unwrap().messages, MOST_MESSAGES);
        let large: Vec<_> = (0..10).map(|_| message(300_000)).collect();
        assert_eq!(cut(&large, 1 << 20).unwrap().messages, 3);
        // A message larger than a chunk goes alone.
        let huge = [message(2 << 20), message(1)];
        assert_eq!(cut(&huge, 4 << 20).unwrap().messages, 1);
    }

    #[test]
    fn a_message_that_the_server_cannot_take_is_rejected_when_its_turn_has_come() {
        let messages = [message(10), message(2_000), message(10)];
        let chunk = Chunk::cut(&context(), &messages, 1_000).unwrap();
        assert_eq!(chunk.messages, 1);
        let error = Chunk::cut(&context(), &messages[1..], 1_000).unwrap_err();
        assert!(matches!(error, SinkError::Rejected { delivered: 0, .. }));
    }

    #[test]
    fn the_arguments_say_how_many_there_are() {
        let chunk = Chunk::cut(&context(), &[message(1), message(1)], 1_000).unwrap();
        let count: usize = String::from_utf8_lossy(&chunk.arguments[1])
            .parse()
            .unwrap();
        assert_eq!(chunk.arguments.len(), 2 * (2 + count));
        let names: Vec<_> = chunk.arguments[2..2 + count]
            .iter()
            .step_by(2)
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        assert_eq!(
            names,
            [
                "event_id",
                "key",
                "tide-group",
                "tide-pipeline",
                "tide-epoch",
                "tide-shard",
                "envelope"
            ]
        );
    }

    #[test]
    fn what_is_remembered_lies_where_its_stream_lies() {
        let key = |stream| memory_key(stream, &context());
        assert_eq!(key("orders"), "tide:{orders}:orders:default:orders");
        assert_eq!(
            key("{shop}:orders"),
            "tide:{shop}:{shop}:orders:default:orders"
        );
        assert_eq!(key("a{}b"), "tide:{a{}b}:a{}b:default:orders");
    }
}
