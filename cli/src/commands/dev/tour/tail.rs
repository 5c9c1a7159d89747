//! The end of a file that a sink appends to.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tide_sandbox::envelope::Envelope;

/// Reads what is new in a file, again and again.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    from: u64,
}

impl Tail {
    /// The file need not exist yet.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            from: 0,
        }
    }

    /// Whole lines that are new.
    pub(super) fn read(&mut self) -> anyhow::Result<Vec<Envelope>> {
        let shown = self.path.display();
        let Ok(mut file) = File::open(&self.path) else {
            return Ok(Vec::new()); // nobody has written to it yet
        };
        let mut new = Vec::new();
        file.seek(SeekFrom::Start(self.from))
            .and_then(|_| file.read_to_end(&mut new))
            .with_context(|| format!("could not read {shown}"))?;
        let Some(end) = new.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        self.from += end as u64 + 1;
        new[..end]
            .split(|byte| *byte == b'\n')
            .map(|line| Envelope::parse(line).with_context(|| format!("a line of {shown} is torn")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const LINE: &str = r#"{"event_id":"6c1f7c0a-4f5c-4b59-9d57-3a3c9f7f9f10","outbox":"orders","id":1,"key":null,"headers":{"tide-epoch":"7"},"payload":1,"created_at":"2026-11-21T10:00:00Z"}"#;

    #[test]
    fn a_tail_shows_each_whole_line_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("orders.jsonl");
        let mut tail = Tail::new(&path);
        assert!(tail.read().unwrap().is_empty());
        let mut file = File::create(&path).unwrap();
        write!(file, "{LINE}\n{}", &LINE[..30]).unwrap();
        assert_eq!(tail.read().unwrap().len(), 1);
        assert!(tail.read().unwrap().is_empty());
        write!(file, "{}\n{LINE}\n", &LINE[30..]).unwrap();
        assert_eq!(tail.read().unwrap().len(), 2);
        writeln!(file, "torn").unwrap();
        assert!(
            tail.read()
                .unwrap_err()
                .to_string()
                .contains("orders.jsonl is torn")
        );
    }
}
