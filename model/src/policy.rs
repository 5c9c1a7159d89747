//! What becomes of failures, and how fast a pipeline goes: the same settings for every sink.

use crate::{SpecError, fields::Fields};

/// So many failed attempts in a row open the circuit unless told otherwise.
const BREAKER_FAILURES: u64 = 5;
/// More would be as good as none.
const MOST_BREAKER_FAILURES: u64 = 1_000;
/// More than any sink takes.
const HIGHEST_RATE: u64 = 1_000_000;

/// A hundred years.
const LONGEST_RETENTION: u64 = 3_153_600_000;
/// So many keys may be parked unless told otherwise.
const PARKED_KEYS: u64 = 1_000;
/// So many messages may wait behind refused ones unless told otherwise.
const PARKED_MESSAGES: u64 = 10_000;
/// More than anybody would look through.
const MOST_PARKED: u64 = 10_000_000;

/// A pipeline's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// No more messages than this; absent for no limit. Of a sharded pipeline each shard's.
    pub rate_limit: Option<RateLimit>,
    /// After so many failed attempts in a row one message at a time is tried; absent for never.
    pub breaker_failures: Option<u32>,
    /// A message that is refused for good holds back those of its key, up to these limits; absent if
    /// it is put aside alone.
    pub parking: Option<ParkingLimits>,
}

/// How much may wait behind refused messages before the whole pipeline does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkingLimits {
    /// Parked keys, at least 1. Of all shards together.
    pub keys: u64,
    /// Messages of these keys, at least 1. Of all shards together.
    pub messages: u64,
}

/// So many messages a second, and so many at once after a silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// At least 1.
    pub per_second: u32,
    /// At least 1.
    pub burst: u32,
}

impl Policy {
    pub(crate) fn parse(fields: &mut Fields) -> Result<Self, SpecError> {
        let rate = fields.number("rate_limit", 1, HIGHEST_RATE)?;
        let burst = fields.number("rate_burst", 1, HIGHEST_RATE)?;
        let rate_limit = match (rate, burst) {
            (None, Some(_)) => {
                return Err(SpecError::new(
                    "rate_burst",
                    "belongs to \"rate_limit\", which is missing",
                )
                .hint("how many messages a second, for example \"rate_limit\": 100"));
            }
            (None, None) => None,
            (Some(rate), burst) => Some(RateLimit {
                per_second: rate as u32,
                burst: burst.unwrap_or(rate) as u32,
            }),
        };
        let failures = fields
            .number("breaker_failures", 0, MOST_BREAKER_FAILURES)?
            .unwrap_or(BREAKER_FAILURES) as u32;
        // Read by the catalog, which deletes dead letters; checked here like every key.
        fields.number("dlq_retention_seconds", 1, LONGEST_RETENTION)?;
        Ok(Self {
            rate_limit,
            breaker_failures: (failures > 0).then_some(failures),
            parking: ParkingLimits::parse(fields)?,
        })
    }
}

impl ParkingLimits {
    fn parse(fields: &mut Fields) -> Result<Option<Self>, SpecError> {
        let parks = fields
            .choice("on_rejected", &[("dead_letter", false), ("park_key", true)])?
            .unwrap_or(false);
        let keys = fields.number("max_parked_keys", 1, MOST_PARKED)?;
        let messages = fields.number("max_parked_messages", 1, MOST_PARKED)?;
        if parks {
            return Ok(Some(Self {
                keys: keys.unwrap_or(PARKED_KEYS),
                messages: messages.unwrap_or(PARKED_MESSAGES),
            }));
        }
        let idle = [
            ("max_parked_keys", keys.is_some()),
            ("max_parked_messages", messages.is_some()),
        ];
        match idle.into_iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => Err(SpecError::new(key, "is about parked keys, and none is")
                .hint("\"on_rejected\": \"park_key\" parks the keys of messages that are refused")),
            None => Ok(None),
        }
    }
}
