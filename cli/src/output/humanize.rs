//! Numbers, durations and lists as people read them. Zero is `0`; what is unknown is `-`, and
//! that is for the caller to say.

use std::time::Duration;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// `180ms`, `1.8s`, `42s`, `4m12s`, `2h5m`, `12d`.
pub fn duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if duration.is_zero() {
        return "0".to_owned();
    }
    if milliseconds < 100 {
        return format!("{}ms", milliseconds.max(1));
    }
    // From here on one decimal at most, rounded once, so that 59.96 s is a minute and not 60.0s.
    let tenths = (milliseconds + 50) / 100;
    if tenths < 100 {
        let (whole, tenth) = (tenths / 10, tenths % 10);
        return if tenth == 0 {
            format!("{whole}s")
        } else {
            format!("{whole}.{tenth}s")
        };
    }
    let seconds = ((milliseconds + 500) / 1_000) as u64;
    if seconds < MINUTE {
        format!("{seconds}s")
    } else if seconds < HOUR {
        two(seconds / MINUTE, "m", seconds % MINUTE, "s")
    } else if seconds < DAY {
        two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m")
    } else {
        format!("{}d", seconds / DAY)
    }
}

/// A duration in seconds, as lags are measured. Negative is zero.
pub fn seconds(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// How long ago something was; clocks that disagree make it zero, never negative. Whole seconds:
/// nobody reads fractions of an age.
pub fn age(since: OffsetDateTime, now: OffsetDateTime) -> String {
    let seconds = (now - since).whole_seconds().max(0) as u64;
    if seconds == 0 {
        "0s".to_owned()
    } else {
        duration(Duration::from_secs(seconds))
    }
}

/// A moment that is waited for: `12:03:04Z (in 9s)`, with its date if that is not today's. One that has
/// come is only a matter of time.
pub fn moment(moment: OffsetDateTime, now: OffsetDateTime) -> String {
    let utc = moment.to_offset(time::UtcOffset::UTC);
    let (hour, minute, second) = utc.to_hms();
    let clock = format!("{hour:02}:{minute:02}:{second:02}Z");
    let date = if utc.date() == now.to_offset(time::UtcOffset::UTC).date() {
        String::new()
    } else {
        format!("{} ", utc.date())
    };
    let left = match (moment - now).whole_seconds() {
        ..=0 => "any moment".to_owned(),
        _ => format!("in {}", age(now, moment)),
    };
    format!("{date}{clock} ({left})")
}

/// A moment to the second: `2026-11-21T10:00:00Z`.
pub fn timestamp(moment: OffsetDateTime) -> String {
    let utc = moment.to_offset(time::UtcOffset::UTC);
    let seconds = utc.replace_nanosecond(0).unwrap_or(utc);
    // No year that PostgreSQL sends has more than the format's digits but those that nobody lives to see.
    seconds.format(&Rfc3339).unwrap_or_else(|_| "-".to_owned())
}

/// `1 pipeline`, `3 pipelines`.
pub fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{} {noun}s", number(count as u64)),
    }
}

/// `1,204`.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `8.0 KiB`, `1.2 GiB`.
pub fn bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{size:.1} {unit}")
    }
}

/// The first ten names, and how many more there are.
pub fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 10;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {} more", number(more as u64)),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (milliseconds, text) in [
            (0, "0"),
            (3, "3ms"),
            (99, "99ms"),
            (180, "0.2s"),
            (900, "0.9s"),
            (1_800, "1.8s"),
            (2_000, "2s"),
            (9_940, "9.9s"),
            (9_960, "10s"),
            (42_000, "42s"),
            (59_960, "1m"),
            (252_000, "4m12s"),
            (7_200_000, "2h"),
            (7_500_000, "2h5m"),
            (1_036_800_000, "12d"),
        ] {
            assert_eq!(
                duration(Duration::from_millis(milliseconds)),
                text,
                "{milliseconds}"
            );
        }
        assert_eq!(duration(Duration::from_nanos(1)), "1ms");
        assert_eq!(seconds(-1.0), "0");
        assert_eq!(seconds(f64::NAN), "0");
    }

    #[test]
    fn ages_never_lie_in_the_future() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(2);
        assert_eq!(age(OffsetDateTime::UNIX_EPOCH, now), "2h");
        assert_eq!(age(now, OffsetDateTime::UNIX_EPOCH), "0s");
    }

    #[test]
    fn what_is_waited_for_has_a_clock_and_a_distance() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(12);
        let after = |seconds| moment(now + time::Duration::seconds(seconds), now);
        assert_eq!(after(9), "12:00:09Z (in 9s)");
        assert_eq!(after(0), "12:00:00Z (any moment)");
        assert_eq!(after(-5), "11:59:55Z (any moment)");
        assert_eq!(after(86_400), "1970-01-02 12:00:00Z (in 1d)");
    }

    #[test]
    fn numbers_and_sizes() {
        assert_eq!(
            [number(0), number(999), number(1_204), number(1_000_000)],
            ["0", "999", "1,204", "1,000,000"]
        );
        assert_eq!(
            [bytes(0), bytes(8_192), bytes(1_288_490_189)],
            ["0 B", "8.0 KiB", "1.2 GiB"]
        );
        assert_eq!(
            [
                counted(0, "agent"),
                counted(1, "agent"),
                counted(2, "agent")
            ],
            ["0 agents", "1 agent", "2 agents"]
        );
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(listed(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
        assert_eq!(listed(&names[..2]), "0, 1");
    }
}
