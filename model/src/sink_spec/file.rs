//! Settings of the file sink: which file, when it is set aside, and what becomes of it then.

use std::{path::PathBuf, time::Duration};

use crate::{Shard, SpecError, fields::Fields};

/// A file of lines, and how it is rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// The file; created if missing, its directory is not. See [`FileSpec::for_shard`].
    pub path: PathBuf,
    /// When a file is set aside and another one begun; absent for never.
    pub rotation: Option<Rotation>,
}

/// When a file is set aside, and what becomes of it. At least one of `bytes` and `age` is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// No file grows beyond this many bytes, save one that holds a single line which is larger.
    pub bytes: Option<u64>,
    /// No line is written into a file whose first line is older than this.
    pub age: Option<Duration>,
    /// How files that were set aside are compressed; absent for not at all.
    pub compression: Option<Compression>,
    /// So many files that were set aside stay, the newest; absent for all.
    pub keep: Option<usize>,
}

/// A format that every platform's tools can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// What is put behind the name of a file.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Gzip => "gz",
            Self::Zstd => "zst",
        }
    }
}

/// The smallest file worth a name of its own.
const LEAST_BYTES: u64 = 1_024;
/// More than any file system holds in one file.
const MOST_BYTES: u64 = 1 << 60;
/// A year.
const LONGEST_SECONDS: u64 = 366 * 24 * 3_600;
/// More files than a directory should hold.
const MOST_FILES: u64 = 1_000_000;

impl FileSpec {
    pub(super) fn parse(fields: &mut Fields) -> Result<Self, SpecError> {
        let path = PathBuf::from(fields.required_text("path", "/var/lib/tide/events.jsonl")?);
        if !path.is_absolute() {
            return Err(SpecError::new("path", format!("is {}", path.display()))
                .hint("an absolute path: agents run in directories of their own"));
        }
        Ok(Self {
            path,
            rotation: Rotation::parse(fields)?,
        })
    }

    /// The file of one shard, because a file has one writer. `{shard}` in the path becomes
    /// `2-of-4`; without it, `.2-of-4` is put behind.
    #[must_use]
    pub fn for_shard(&self, shard: Option<Shard>) -> Self {
        let part = shard.map_or_else(
            || "1-of-1".to_owned(),
            |shard| format!("{}-of-{}", shard.index, shard.count),
        );
        let path = self.path.to_string_lossy();
        let own = match shard {
            _ if path.contains("{shard}") => path.replace("{shard}", &part),
            None => path.into_owned(),
            Some(_) => format!("{path}.{part}"),
        };
        Self {
            path: own.into(),
            ..self.clone()
        }
    }
}

impl Rotation {
    fn parse(fields: &mut Fields) -> Result<Option<Self>, SpecError> {
        let bytes = fields.number("rotate_bytes", LEAST_BYTES, MOST_BYTES)?;
        let seconds = fields.number("rotate_seconds", 1, LONGEST_SECONDS)?;
        let compression = fields
            .choice(
                "compression",
                &[
                    ("none", None),
                    ("gzip", Some(Compression::Gzip)),
                    ("zstd", Some(Compression::Zstd)),
                ],
            )?
            .flatten();
        let keep = fields.number("keep_files", 1, MOST_FILES)?;
        if bytes.is_none() && seconds.is_none() {
            let idle = [
                ("compression", compression.is_some()),
                ("keep_files", keep.is_some()),
            ];
            if let Some((key, _)) = idle.into_iter().find(|(_, is_set)| *is_set) {
                return Err(
                    SpecError::new(key, "is about files that were set aside, and none is").hint(
                        "say when: \"rotate_bytes\": 104857600, \"rotate_seconds\": 3600, or both",
                    ),
                );
            }
            return Ok(None);
        }
        Ok(Some(Self {
            bytes,
            age: seconds.map(Duration::from_secs),
            compression,
            keep: keep.map(|files| files as usize),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{PipelineSpec, SinkSpec};

    fn parse(more: &Value) -> Result<FileSpec, String> {
        let mut config = json!({"sink_type": "file", "path": "/x/events.jsonl"});
        let keys = more.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(keys);
        let spec = PipelineSpec::parse("p".parse().unwrap(), "o".to_owned(), &config)
            .map_err(|error| error.to_string())?;
        match spec.sink {
            SinkSpec::File(file) => Ok(file),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_are_rotated_by_size_by_age_or_by_both() {
        assert_eq!(parse(&json!({})).unwrap().rotation, None);
        assert_eq!(
            parse(&json!({"compression": "none"})).unwrap().rotation,
            None
        );
        let rotation = parse(&json!({"rotate_bytes": 4096}))
            .unwrap()
            .rotation
            .unwrap();
        assert_eq!((rotation.bytes, rotation.age), (Some(4_096), None));
        let all = json!({"rotate_bytes": 4096, "rotate_seconds": 60, "compression": "zstd", "keep_files": 7});
        assert_eq!(
            parse(&all).unwrap().rotation,
            Some(Rotation {
                bytes: Some(4_096),
                age: Some(Duration::from_mins(1)),
                compression: Some(Compression::Zstd),
                keep: Some(7),
            })
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (more, message) in [
            (
                json!({"rotate_bytes": 1}),
                "key \"rotate_bytes\" is 1, not a whole number from 1024 to 1152921504606846976",
            ),
            (
                json!({"rotate_seconds": 60, "compression": "lzma"}),
                "key \"compression\" is \"lzma\" (one of: none, gzip, zstd)",
            ),
            (
                json!({"compression": "gzip"}),
                "key \"compression\" is about files that were set aside, and none is (say when: \"rotate_bytes\": 104857600, \"rotate_seconds\": 3600, or both)",
            ),
            (
                json!({"keep_files": 3}),
                "key \"keep_files\" is about files that were set aside, and none is (say when: \"rotate_bytes\": 104857600, \"rotate_seconds\": 3600, or both)",
            ),
            (
                json!({"rotate_bytes": 4096, "keep_files": 0}),
                "key \"keep_files\" is 0, not a whole number from 1 to 1000000",
            ),
        ] {
            assert_eq!(parse(&more).unwrap_err(), message);
        }
    }
}
