//! Names of files that were set aside: the file's own, when that was, and how it is compressed.
//!
//! `events.jsonl.20261121T173415.123456Z.zst`: in the order of their names such files hold what was
//! written in its order, whatever the clock does meanwhile.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tide_model::sink_spec::Compression;
use time::{Duration, OffsetDateTime, PrimitiveDateTime, format_description::FormatItem};

/// What is put behind the name of a compressed file while it is being written.
const PARTIAL: &str = "partial";

/// What a file that was set aside is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// As it was written.
    Plain,
    /// Whole, and compressed.
    Compressed,
    /// Compressed up to somewhere.
    Partial,
}

/// A file that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rotated {
    pub(super) stamp: String,
    pub(super) form: Form,
    pub(super) path: PathBuf,
}

/// The name of a file that was set aside at a moment.
pub(super) fn rotated(active: &Path, stamp: &str) -> PathBuf {
    with(active, stamp)
}

/// The name of the same file, compressed.
pub(super) fn compressed(rotated: &Path, compression: Compression) -> PathBuf {
    with(rotated, compression.extension())
}

/// The name of a compressed file until it is whole.
pub(super) fn partial(compressed: &Path) -> PathBuf {
    with(compressed, PARTIAL)
}

fn with(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// The stamp of this moment, or of the first one after that of the `newest` file, so that no clock
/// that was set back mixes up the order.
pub(super) fn stamp_after(newest: Option<&str>, now: OffsetDateTime) -> String {
    let stamp = write(now);
    match newest {
        Some(newest) if newest >= stamp.as_str() => {
            let next = read(newest).map(|newest| newest + Duration::MICROSECOND);
            next.map_or(stamp, write)
        }
        _ => stamp,
    }
}

/// The files that were set aside, by their stamps.
pub(super) fn list(active: &Path) -> io::Result<Vec<Rotated>> {
    let (Some(directory), Some(name)) = (active.parent(), active.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        // A name of ours has nothing in it that is no text, save what the operator's path has.
        let name = name.to_string_lossy();
        if let Some((stamp, form)) = name.strip_prefix(&prefix).and_then(parse) {
            found.push(Rotated {
                stamp,
                form,
                path: entry.path(),
            });
        }
    }
    found.sort();
    Ok(found)
}

/// What follows the name of the file. Anything else is somebody else's.
fn parse(rest: &str) -> Option<(String, Form)> {
    let (time, rest) = rest.split_once('Z')?;
    let stamp = format!("{time}Z");
    // Written in one way only, so that the order of names is the order of moments.
    if write(read(&stamp)?) != stamp {
        return None;
    }
    let form = match rest {
        "" => Form::Plain,
        ".gz" | ".zst" => Form::Compressed,
        ".gz.partial" | ".zst.partial" => Form::Partial,
        _ => return None,
    };
    Some((stamp, form))
}

fn layout() -> Vec<FormatItem<'static>> {
    time::format_description::parse_borrowed::<2>(
        "[year][month][day]T[hour][minute][second].[subsecond digits:6]Z",
    )
    .expect("the layout is a constant")
}

fn write(moment: OffsetDateTime) -> String {
    moment
        .to_offset(time::UtcOffset::UTC)
        .format(&layout())
        .expect("every part of the layout is a part of every moment")
}

fn read(stamp: &str) -> Option<OffsetDateTime> {
    let moment = PrimitiveDateTime::parse(stamp, &layout()).ok()?;
    Some(moment.assume_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, micros: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap() + Duration::microseconds(micros)
    }

    #[test]
    fn names_tell_the_moment_and_sort_by_it() {
        let stamp = stamp_after(None, at(1_795_282_455, 7));
        assert_eq!(stamp, "20261121T173415.000007Z");
        assert!(stamp < stamp_after(None, at(1_795_282_455, 10)));
        assert!(stamp < stamp_after(None, at(1_795_282_456, 0)));
    }

    #[test]
    fn a_clock_that_was_set_back_mixes_nothing_up() {
        let newest = stamp_after(None, at(1_795_282_455, 999_999));
        for now in [
            at(0, 0),
            at(1_795_282_455, 999_999),
            at(1_795_282_455, 999_998),
        ] {
            let next = stamp_after(Some(&newest), now);
            assert_eq!(next, "20261121T173416.000000Z");
        }
    }

    #[test]
    fn only_names_of_ours_are_taken_for_ours() {
        let directory = tempfile::tempdir().unwrap();
        let active = directory.path().join("a.jsonl");
        let ours = [
            "20261121T173415.000007Z",
            "20261121T173415.000007Z.gz.partial",
            "20261121T173416.000007Z.zst",
        ];
        for name in ours {
            fs::write(format!("{}.{name}", active.display()), "").unwrap();
        }
        for name in [
            "a.jsonl",
            "b.jsonl.20261121T173415.000007Z",
            "a.jsonl.1-of-2",
            "a.jsonl.1-of-2.20261121T173415.000007Z",
            "a.jsonl.20261121T173415.000007Z.bak",
            "a.jsonl.20261121T173415.7Z",
            "a.jsonl.20261321T173415.000007Z",
            "a.jsonl.20261121T173415.000007",
        ] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let found = list(&active).unwrap();
        let forms: Vec<_> = found.iter().map(|rotated| rotated.form).collect();
        assert_eq!(forms, [Form::Plain, Form::Partial, Form::Compressed]);
    }
}
