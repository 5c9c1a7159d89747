//! Durations as people write them on a command line.

use std::time::Duration;

/// Reads `30`, `1.5`, `500ms`, `3s`, `5m` or `1h`; a number without a unit is seconds. Fits clap's
/// `value_parser`.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let invalid = || {
        format!("{text:?} is not a duration: use seconds, or a number followed by ms, s, m or h")
    };
    let text = text.trim();
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds_per_unit = match unit.trim_start() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(invalid()),
    };
    let number: f64 = number.parse().map_err(|_| invalid())?;
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in [
            ("30", 30_000),
            ("0", 0),
            ("1.5", 1_500),
            ("500ms", 500),
            ("3s", 3_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            (" 2 s ", 2_000),
        ] {
            assert_eq!(
                parse_seconds(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_it_cannot_mean() {
        for text in [
            "", "s", "-1", "3d", "1.2.3", "1e3", "five", "inf", "nan", "3s4",
        ] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
        assert!(parse_seconds("99999999999999999999h").is_err());
    }
}
