//! Moments as operators type them: `2026-11-21T10:00:00Z`, or how long ago, as in `90m`.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::duration;

/// Text that is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use a time such as 2026-11-21T10:00:00Z, or how long ago, such as 90m")]
pub struct InvalidMoment;

/// Parses a moment.
pub fn parse(text: &str) -> Result<OffsetDateTime, InvalidMoment> {
    if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(moment);
    }
    let ago = duration::parse(text).map_err(|_| InvalidMoment)?;
    OffsetDateTime::now_utc()
        .checked_sub(ago.try_into().map_err(|_| InvalidMoment)?)
        .ok_or(InvalidMoment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_times_and_ages_and_nothing_else() {
        let moment = parse("2026-11-21T11:00:00+01:00").unwrap();
        assert_eq!(moment.unix_timestamp(), 1_795_255_200);
        let before = OffsetDateTime::now_utc();
        let parsed = parse("60m").unwrap() + time::Duration::HOUR;
        assert!((before..=OffsetDateTime::now_utc()).contains(&parsed));
        for wrong in ["yesterday", "2026-11-21", "", "-5m"] {
            assert_eq!(parse(wrong), Err(InvalidMoment), "{wrong}");
        }
    }
}
