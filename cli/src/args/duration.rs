//! Durations as operators type them: `500ms`, `30s`, `5m`, `1h`, or a bare number of seconds.

use std::{str::FromStr, time::Duration};

/// Text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// Not a number, or not a unit.
    #[error("use a number of seconds, or 500ms, 30s, 5m, 1h")]
    Malformed,
    /// Zero where that makes no sense.
    #[error("must be more than zero")]
    Zero,
    /// More than anybody waits.
    #[error("must be at most a year")]
    TooLong,
}

/// The longest duration that is taken, also by the control plane.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Parses a duration; zero is fine.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds_each = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(InvalidDuration::Malformed),
    };
    if number.is_empty() {
        return Err(InvalidDuration::Malformed);
    }
    // Only digits are left, so parsing fails on too many of them and nothing else.
    let duration = u64::from_str(number)
        .ok()
        .and_then(|number| number.checked_mul(milliseconds_each))
        .map(Duration::from_millis);
    duration
        .filter(|duration| *duration <= LONGEST)
        .ok_or(InvalidDuration::TooLong)
}

/// Parses a duration that must not be zero.
pub fn parse_positive(text: &str) -> Result<Duration, InvalidDuration> {
    match parse(text)? {
        Duration::ZERO => Err(InvalidDuration::Zero),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("30", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("0", 0),
            ("8760h", 31_536_000_000),
        ] {
            assert_eq!(
                parse(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "", "s", "-1", "1.5s", "5 m", "5M", "1d", "five", "5m ", "٣s",
        ] {
            assert_eq!(parse(text), Err(InvalidDuration::Malformed), "{text:?}");
        }
        assert_eq!(parse_positive("0s"), Err(InvalidDuration::Zero));
    }

    #[test]
    fn what_would_overflow_is_refused() {
        for text in ["8761h", "99999999999999999999", "18446744073709551615h"] {
            assert_eq!(parse(text), Err(InvalidDuration::TooLong), "{text}");
        }
    }
}
