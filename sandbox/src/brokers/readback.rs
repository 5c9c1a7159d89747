//! From what a broker holds to deliveries.

use std::collections::BTreeMap;

use super::BrokerError;
use crate::envelope::{Delivery, Envelope};

/// One message as a broker holds it, whatever its format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The body; of a Redis entry the field `envelope` or `payload`.
    pub body: Vec<u8>,
    /// Its headers or fields that are text.
    pub headers: BTreeMap<String, String>,
    /// The event's id where the broker has a place of its own for that.
    pub event_id: String,
    /// The key where the broker has a place of its own for that.
    pub key: Option<String>,
}

/// Reads what a place holds, in its order.
///
/// A message must be Tide's envelope, carry the event's id and the key beside it, and what Tide
/// added to the envelope's headers.
pub(super) fn deliveries(place: &str, held: Vec<Held>) -> Result<Vec<Delivery>, BrokerError> {
    held.into_iter()
        .enumerate()
        .map(|(number, held)| {
            let envelope = envelope(&held).map_err(|what| BrokerError::Malformed {
                place: place.to_owned(),
                number,
                what,
            })?;
            Ok(Delivery {
                stream: place.to_owned(),
                envelope,
                order: number as u64,
                at: None,
            })
        })
        .collect()
}

fn envelope(held: &Held) -> Result<Envelope, String> {
    let envelope = Envelope::parse(&held.body).map_err(|error| error.to_string())?;
    if held.event_id != envelope.event_id.to_string() {
        return Err(format!(
            "it has id {:?}, and is event {}",
            held.event_id, envelope.event_id
        ));
    }
    if held.key != envelope.key {
        return Err(format!(
            "it has key {:?}, and the envelope {:?}",
            held.key, envelope.key
        ));
    }
    for name in ["tide-group", "tide-pipeline", "tide-epoch"] {
        let inside = envelope.headers.get(name).and_then(|value| value.as_str());
        if inside.is_none() || held.headers.get(name).map(String::as_str) != inside {
            return Err(format!("its header {name} is not the envelope's"));
        }
    }
    Ok(envelope)
}
