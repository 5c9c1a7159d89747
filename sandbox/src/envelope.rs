//! What a sink was given: Tide's native envelope, and when and in which order it came.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

/// The header that carries the owner's epoch.
pub const EPOCH_HEADER: &str = "tide-epoch";
/// The header that names the pipeline.
pub const PIPELINE_HEADER: &str = "tide-pipeline";
/// The header that names the relay group.
pub const GROUP_HEADER: &str = "tide-group";

/// The envelope: one JSON object with exactly these members.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The event's identity, the same on every redelivery.
    pub event_id: Uuid,
    /// The outbox it was published to.
    pub outbox: String,
    /// Its position in the outbox.
    pub id: i64,
    /// Its ordering key.
    #[serde(deserialize_with = "present")]
    pub key: Option<String>,
    /// The publisher's headers and Tide's own.
    pub headers: Map<String, Value>,
    /// What was published.
    pub payload: Value,
    /// When it was published.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// One arrival at a sink.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The sink's name of the stream: a topic, a path, a file.
    pub stream: String,
    /// What arrived.
    pub envelope: Envelope,
    /// Its place among the arrivals on this stream, from 0, without gaps.
    pub order: u64,
    /// When it arrived; `None` if the sink does not keep that.
    pub at: Option<OffsetDateTime>,
}

/// What arrived is no envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// It is no JSON of the right shape.
    #[error("not an envelope: {text}")]
    Shape {
        /// What it is, shortened.
        text: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A header of Tide's own is not what it should be.
    #[error("header {name} of event {event_id} should be {expected}")]
    Header {
        /// The header.
        name: &'static str,
        /// The event.
        event_id: Uuid,
        /// What it should be.
        expected: &'static str,
    },
}

impl Envelope {
    /// Reads exactly one envelope.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let envelope: Self =
            serde_json::from_slice(bytes).map_err(|source| misshapen(bytes, source))?;
        envelope.checked()
    }

    /// Reads one envelope or an array of them.
    pub fn parse_all(bytes: &[u8]) -> Result<Vec<Self>, EnvelopeError> {
        let failed = |source| misshapen(bytes, source);
        let values = match serde_json::from_slice(bytes).map_err(failed)? {
            Value::Array(values) => values,
            value => vec![value],
        };
        let parse = |value| {
            serde_json::from_value::<Self>(value)
                .map_err(failed)?
                .checked()
        };
        values.into_iter().map(parse).collect()
    }

    /// The owner's epoch, if the sink's format carries it.
    pub fn epoch(&self) -> Option<i64> {
        self.header(EPOCH_HEADER)?.parse().ok()
    }

    /// The pipeline that delivered it.
    pub fn pipeline(&self) -> Option<&str> {
        self.header(PIPELINE_HEADER)
    }

    /// The relay group that delivered it.
    pub fn group(&self) -> Option<&str> {
        self.header(GROUP_HEADER)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.as_str()
    }

    fn checked(self) -> Result<Self, EnvelopeError> {
        let wrong = |name, expected| {
            Err(EnvelopeError::Header {
                name,
                event_id: self.event_id,
                expected,
            })
        };
        for name in [EPOCH_HEADER, PIPELINE_HEADER, GROUP_HEADER] {
            if self.headers.contains_key(name) && self.header(name).is_none() {
                return wrong(name, "a string");
            }
        }
        if self.headers.contains_key(EPOCH_HEADER) && self.epoch().is_none() {
            return wrong(EPOCH_HEADER, "a decimal number");
        }
        Ok(self)
    }
}

fn misshapen(bytes: &[u8], source: serde_json::Error) -> EnvelopeError {
    let text = String::from_utf8_lossy(bytes).chars().take(200).collect();
    EnvelopeError::Shape { text, source }
}

/// Without this, serde takes an absent optional member for null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample() -> Value {
        json!({
            "event_id": "6c1f7c0a-4f5c-4b59-9d57-3a3c9f7f9f10",
            "outbox": "orders",
            "id": 7,
            "key": "customer-1",
            "headers": {"tide-epoch": "12", "tide-pipeline": "p", "tide-group": "default"},
            "payload": {"total": 3},
            "created_at": "2026-11-21T10:00:00.123456Z",
        })
    }

    fn parse(value: &Value) -> Result<Envelope, EnvelopeError> {
        Envelope::parse(value.to_string().as_bytes())
    }

    #[test]
    fn an_envelope_tells_who_delivered_it() {
        let envelope = parse(&sample()).unwrap();
        assert_eq!((envelope.id, envelope.epoch()), (7, Some(12)));
        assert_eq!(
            (envelope.pipeline(), envelope.group()),
            (Some("p"), Some("default"))
        );
    }

    #[test]
    fn members_may_be_neither_absent_nor_extra() {
        for name in [
            "event_id",
            "outbox",
            "id",
            "key",
            "headers",
            "payload",
            "created_at",
        ] {
            let mut value = sample();
            value.as_object_mut().unwrap().remove(name);
            let error = parse(&value).unwrap_err();
            assert!(matches!(error, EnvelopeError::Shape { .. }), "{name}");
        }
        let mut value = sample();
        value["extra"] = json!(1);
        assert!(parse(&value).is_err());
    }

    #[test]
    fn a_null_key_is_no_key() {
        let mut value = sample();
        value["key"] = Value::Null;
        assert_eq!(parse(&value).unwrap().key, None);
    }

    #[test]
    fn an_epoch_must_be_a_decimal_string() {
        for wrong in [json!(12), json!("twelve")] {
            let mut value = sample();
            value["headers"]["tide-epoch"] = wrong;
            assert!(matches!(parse(&value), Err(EnvelopeError::Header { .. })));
        }
    }

    #[test]
    fn a_body_holds_one_envelope_or_many() {
        let one = sample().to_string();
        let many = format!("[{one},{one}]");
        assert_eq!(Envelope::parse_all(one.as_bytes()).unwrap().len(), 1);
        assert_eq!(Envelope::parse_all(many.as_bytes()).unwrap().len(), 2);
        assert!(Envelope::parse_all(b"[1]").is_err());
        assert!(Envelope::parse(many.as_bytes()).is_err());
    }
}
