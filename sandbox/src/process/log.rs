//! The part of a log file that one process wrote.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    from: u64,
}

impl Log {
    /// Opens the file for appending and notes where a new process starts to write.
    ///
    /// Also returns the handles for its standard output and error.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, [Stdio; 2])> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let from = file.metadata()?.len();
        let copy = file.try_clone()?;
        Ok((
            Self {
                path: path.to_owned(),
                from,
            },
            [file.into(), copy.into()],
        ))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The first line that contains the pattern.
    pub(crate) fn find(&self, pattern: &str) -> io::Result<Option<String>> {
        let text = self.read()?;
        Ok(text
            .lines()
            .find(|line| line.contains(pattern))
            .map(str::to_owned))
    }

    /// The last lines, or why they cannot be read: this is for errors, which must not fail.
    pub(crate) fn tail(&self, lines: usize) -> String {
        match self.read() {
            Ok(text) => last_lines(&text, lines),
            Err(error) => format!("(log {} unreadable: {error})", self.path.display()),
        }
    }

    fn read(&self) -> io::Result<String> {
        let mut file = fs::File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
