//! What a message looks like to whoever receives it: the body, and what stands beside it. Pure.
//!
//! | `format` | body | identity, key, headers |
//! |---|---|---|
//! | `native` | one JSON object with all of them | in the body; brokers have them beside it too |
//! | `raw` | the payload, byte for byte | beside it |
//! | `cloudevents` | a CloudEvents 1.0 JSON object (structured mode) | attributes in the body |
//! | `cloudevents-binary` | the payload | attributes beside it, named as CloudEvents binds them |
//! | `debezium` | what Debezium writes for the insert into the outbox | in `after` |
//!
//! Payload and headers are JSON already, checked by PostgreSQL, and are copied without parsing.
//! All bytes are a function of the message and its owner's epoch, so a redelivery repeats them.

mod carrier;
mod cloudevents;
mod debezium;
mod json;
mod native;
mod spec;

use serde_json::{Map, Value};
use time::{
    OffsetDateTime,
    format_description::{BorrowedFormatItem, parse_borrowed},
};
use uuid::Uuid;

use crate::{Epoch, GroupName, UnitName};

pub use self::{
    carrier::Carrier,
    spec::{CloudEvents, Debezium, Format, Mode},
};

/// Names that begin like this belong to Tide: a publisher's own are replaced.
const OWN_PREFIX: &str = "tide-";

/// Who delivers, and from where: the same for every message of a tenure.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// The relay group.
    pub group: GroupName,
    /// The pipeline, or its shard.
    pub pipeline: UnitName,
    /// The outbox.
    pub outbox: String,
    /// The owner's epoch, so that a consumer can refuse an older owner's messages.
    pub epoch: Epoch,
    /// The database of the outbox.
    pub database: String,
}

/// A message, as far as an encoder needs it.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Position in the outbox.
    pub id: i64,
    /// Stable identity over all redeliveries.
    pub event_id: Uuid,
    /// The ordering key.
    pub key: Option<&'a str>,
    /// JSON text.
    pub payload: &'a str,
    /// JSON text of an object.
    pub headers: &'a str,
    /// When it was written.
    pub created_at: OffsetDateTime,
}

/// Writes messages in one format for one tenure of a pipeline. What does not depend on the message
/// is made once.
#[derive(Debug, Clone)]
pub struct Encoder {
    /// The headers that Tide adds.
    own: Vec<(&'static str, String)>,
    /// The same as members of a JSON object, without its braces.
    own_members: String,
    /// The outbox as a JSON string.
    outbox: String,
    format: Prepared,
}

#[derive(Debug, Clone)]
enum Prepared {
    Native,
    Raw,
    CloudEvents(cloudevents::Writer),
    Debezium(debezium::Writer),
}

impl Encoder {
    /// An encoder for all messages of one owner.
    pub fn new(format: &Format, provenance: &Provenance) -> Self {
        let own = own_headers(provenance);
        let members: Vec<String> = own
            .iter()
            .map(|(name, value)| format!("{}:{}", json::quoted(name), json::quoted(value)))
            .collect();
        Self {
            own_members: members.join(","),
            own,
            outbox: json::quoted(&provenance.outbox),
            format: match format {
                Format::Native => Prepared::Native,
                Format::Raw => Prepared::Raw,
                Format::CloudEvents(spec) => {
                    Prepared::CloudEvents(cloudevents::Writer::new(spec, provenance))
                }
                Format::Debezium(spec) => {
                    Prepared::Debezium(debezium::Writer::new(*spec, provenance))
                }
            },
        }
    }

    /// Appends the body of one message.
    pub fn body(&self, out: &mut Vec<u8>, event: &Event<'_>) {
        match &self.format {
            Prepared::Native => native::write(out, self, event),
            Prepared::Raw => out.extend_from_slice(event.payload.as_bytes()),
            Prepared::CloudEvents(writer) => writer.body(out, event),
            Prepared::Debezium(writer) => writer.body(out, event),
        }
    }

    /// Whether the body is the payload alone, so that everything else must stand beside it.
    pub fn is_bare(&self) -> bool {
        match &self.format {
            Prepared::Native | Prepared::Debezium(_) => false,
            Prepared::Raw => true,
            Prepared::CloudEvents(writer) => writer.is_binary(),
        }
    }

    /// The media type of one body.
    pub fn content_type(&self) -> &'static str {
        match &self.format {
            Prepared::CloudEvents(writer) if !writer.is_binary() => cloudevents::STRUCTURED,
            _ => "application/json",
        }
    }

    /// The media type of a JSON array of bodies.
    pub fn batch_content_type(&self) -> &'static str {
        match &self.format {
            Prepared::CloudEvents(_) => cloudevents::BATCHED,
            _ => "application/json",
        }
    }

    /// The headers that Tide adds to every message.
    pub fn own_headers(&self) -> &[(&'static str, String)] {
        &self.own
    }

    /// Appends a message's headers, and our own among them, as a JSON object.
    pub fn headers_object(&self, out: &mut Vec<u8>, headers: &str) {
        native::headers(out, self, headers);
    }

    /// A publisher's headers by name, less those that it cannot give: ours, and what `carrier` and
    /// this format give a meaning to. Most messages have none, which costs nothing.
    pub fn publishers(&self, carrier: Carrier, headers: &str) -> Map<String, Value> {
        if json::members(headers).is_empty() {
            return Map::new();
        }
        // The catalog admits objects only.
        let mut headers: Map<String, Value> = serde_json::from_str(headers).unwrap_or_default();
        headers.retain(|name, _| !name.starts_with(OWN_PREFIX) && !self.reserves(carrier, name));
        headers
    }

    /// What this format puts beside the body, as this carrier writes it, besides the headers that
    /// every format has: CloudEvents' attributes and media type; what HTTP and Redis, which carry
    /// no publisher's headers otherwise, need of a bare payload.
    pub fn beside(&self, carrier: Carrier, event: &Event<'_>) -> Vec<(String, String)> {
        let mut beside = Vec::new();
        if let Prepared::CloudEvents(writer) = &self.format {
            if let Some(name) = carrier.content_type() {
                beside.push((name.to_owned(), self.content_type().to_owned()));
            }
            if writer.is_binary() {
                let attributes = writer.attributes(event);
                beside.extend(attributes.into_iter().filter_map(|(name, value)| {
                    Some((carrier.attribute(&name)?, carrier.value(&value)))
                }));
            }
        }
        if self.is_bare() {
            beside.extend(carrier.bare(event));
        }
        beside
    }

    fn reserves(&self, carrier: Carrier, name: &str) -> bool {
        matches!(self.format, Prepared::CloudEvents(_)) && carrier.reserves(name)
    }
}

/// The headers that Tide adds. A sharded pipeline's say which shard, because each has epochs of its
/// own.
fn own_headers(provenance: &Provenance) -> Vec<(&'static str, String)> {
    let Provenance {
        group,
        pipeline,
        epoch,
        ..
    } = provenance;
    let mut headers = vec![
        ("tide-group", group.to_string()),
        ("tide-pipeline", pipeline.pipeline_str().to_owned()),
        ("tide-epoch", epoch.to_string()),
    ];
    headers.extend(
        pipeline
            .shard()
            .map(|shard| ("tide-shard", shard.to_string())),
    );
    headers
}

/// A moment as RFC 3339, in UTC, with microseconds, as PostgreSQL stores them.
pub fn moment(moment: OffsetDateTime) -> String {
    use std::sync::LazyLock;
    static FORMAT: LazyLock<Vec<BorrowedFormatItem<'static>>> = LazyLock::new(|| {
        parse_borrowed::<2>("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z")
            .expect("the format is valid")
    });
    moment
        .to_offset(time::UtcOffset::UTC)
        .format(&FORMAT)
        .expect("the format fits every moment")
}

#[cfg(test)]
mod tests;
