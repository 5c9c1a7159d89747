//! Timestamps and durations.

use ::time::OffsetDateTime;
use prost_types::{Duration, Timestamp};

use super::InvalidField;

/// A moment on the wire.
pub fn timestamp(moment: OffsetDateTime) -> Timestamp {
    Timestamp {
        seconds: moment.unix_timestamp(),
        nanos: moment.nanosecond() as i32,
    }
}

/// A moment from the wire.
pub(super) fn moment(
    path: &'static str,
    timestamp: Option<Timestamp>,
) -> Result<OffsetDateTime, InvalidField> {
    optional_moment(path, timestamp)?.ok_or_else(|| InvalidField::missing(path))
}

/// A moment from the wire that may be absent.
pub(super) fn optional_moment(
    path: &'static str,
    timestamp: Option<Timestamp>,
) -> Result<Option<OffsetDateTime>, InvalidField> {
    let Some(timestamp) = timestamp else {
        return Ok(None);
    };
    let nanos = i128::from(timestamp.seconds) * 1_000_000_000 + i128::from(timestamp.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .map(Some)
        .map_err(|error| InvalidField::invalid(path, error))
}

/// A duration on the wire, from seconds; not-a-number and negative become zero.
pub fn duration_seconds(seconds: f64) -> Duration {
    let seconds = if seconds.is_finite() {
        seconds.max(0.0)
    } else {
        0.0
    };
    Duration {
        seconds: seconds.trunc() as i64,
        nanos: (seconds.fract() * 1e9) as i32,
    }
}

/// Seconds from the wire; absent is zero.
pub(super) fn seconds(duration: Option<Duration>) -> f64 {
    duration.map_or(0.0, |duration| {
        duration.seconds as f64 + f64::from(duration.nanos) / 1e9
    })
}

/// A duration on the wire.
pub fn from_duration(duration: std::time::Duration) -> Duration {
    Duration {
        seconds: duration.as_secs() as i64,
        nanos: duration.subsec_nanos() as i32,
    }
}

/// A duration from the wire; negative ones are refused.
pub fn to_duration(
    path: &'static str,
    duration: Duration,
) -> Result<std::time::Duration, InvalidField> {
    std::time::Duration::try_from(duration).map_err(|error| InvalidField::invalid(path, error))
}
