//! Reading what a file sink wrote: one envelope a line.

mod rotated;

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::envelope::{Delivery, Envelope, EnvelopeError};

/// Why the file is not what a file sink should leave.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// A line that was ended holds no envelope.
    #[error("line {line} of {} is torn", path.display())]
    Torn {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: EnvelopeError,
    },
}

/// Reads a JSON-lines file whenever it is asked, and before it those that were set aside for it.
#[derive(Debug, Clone)]
pub struct FileReader {
    path: PathBuf,
}

impl FileReader {
    /// The file need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the files hold now, in the order of their names and lines.
    ///
    /// A last line without an end is being written and does not count yet; a file that does not
    /// exist holds nothing. Files keep no arrival times: `at` is absent.
    pub fn records(&self) -> Result<Vec<Delivery>, FileError> {
        let stream = self.path.file_name().unwrap_or_default();
        let stream = stream.to_string_lossy();
        let mut deliveries = Vec::new();
        for (path, bytes) in rotated::whole(&self.path)? {
            let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
                continue;
            };
            for (index, line) in bytes[..end].split(|byte| *byte == b'\n').enumerate() {
                let envelope = Envelope::parse(line).map_err(|source| FileError::Torn {
                    path: path.clone(),
                    line: index + 1,
                    source,
                })?;
                deliveries.push(Delivery {
                    stream: stream.clone().into_owned(),
                    envelope,
                    order: deliveries.len() as u64,
                    at: None,
                });
            }
        }
        Ok(deliveries)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LINE: &str = r#"{"event_id":"6c1f7c0a-4f5c-4b59-9d57-3a3c9f7f9f10","outbox":"o","id":1,"key":null,"headers":{},"payload":1,"created_at":"2026-11-21T10:00:00Z"}"#;

    fn reader_of(text: &str) -> (FileReader, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.jsonl");
        fs::write(&path, text).unwrap();
        (FileReader::new(path), directory)
    }

    #[test]
    fn lines_keep_their_order() {
        let (reader, _directory) = reader_of(&format!("{LINE}\n{LINE}\n"));
        let records = reader.records().unwrap();
        let orders: Vec<u64> = records.iter().map(|record| record.order).collect();
        assert_eq!(orders, [0, 1]);
        assert_eq!(records[0].stream, "out.jsonl");
    }

    #[test]
    fn a_line_under_way_does_not_count() {
        let (reader, _directory) = reader_of(&format!("{LINE}\n{}", &LINE[..20]));
        assert_eq!(reader.records().unwrap().len(), 1);
        let (reader, _directory) = reader_of(&LINE[..20]);
        assert!(reader.records().unwrap().is_empty());
    }

    #[test]
    fn a_torn_line_in_the_middle_is_an_error_that_names_it() {
        let (reader, _directory) = reader_of(&format!("{LINE}\n{}\n{LINE}\n", &LINE[..20]));
        assert!(matches!(
            reader.records(),
            Err(FileError::Torn { line: 2, .. })
        ));
        let (reader, _directory) = reader_of("\n");
        assert!(reader.records().is_err());
    }

    #[test]
    fn a_file_that_is_not_there_yet_is_empty() {
        assert!(
            FileReader::new("/no/such/file")
                .records()
                .unwrap()
                .is_empty()
        );
    }
}
