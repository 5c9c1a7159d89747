//! The file that lines are appended to.
//!
//! It is locked (`flock`) for every write, so that several pipelines or agents may share it, and so
//! that an agent that was frozen in the middle of a write can never interleave with its successor.
//! Whoever has the lock looks whether the path still names the file that was locked: somebody may
//! have set it aside meanwhile, be it another agent or an operator's `mv`.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use time::OffsetDateTime;

use super::{super::SinkError, judge, names};

/// So often may the file be another one before it is somebody else's turn to find out why.
const ATTEMPTS: usize = 16;

pub(super) struct Active {
    path: PathBuf,
    file: File,
    /// When its first line was written, or somewhat earlier.
    begun: OffsetDateTime,
}

impl Active {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let existed = fs::exists(path)?;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        // Files that are set aside lie where the file does, and not where a link to it does.
        let path = path.canonicalize()?;
        if !existed {
            sync_directory(&path)?;
        }
        let begun = file
            .metadata()?
            .created()
            .map_or_else(|_| OffsetDateTime::now_utc(), OffsetDateTime::from);
        Ok(Self { path, file, begun })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn begun(&self) -> OffsetDateTime {
        self.begun
    }

    pub(super) fn length(&self) -> Result<u64, SinkError> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(|error| judge(&self.path, &error))?.len())
    }

    /// Runs `act` while nobody else writes. Never waits: a holder may be frozen.
    pub(super) fn exclusively<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        for _ in 0..ATTEMPTS {
            if !self.is_current()? {
                *self = Self::open(&self.path).map_err(|error| judge(&self.path, &error))?;
            }
            match self.file.try_lock() {
                Ok(()) if self.is_current()? => {
                    let result = act(self);
                    // Cannot fail for a lock that we hold, and closing the file frees it too.
                    drop(self.file.unlock());
                    return result;
                }
                Ok(()) => drop(self.file.unlock()),
                Err(TryLockError::WouldBlock) if self.is_current()? => {
                    return Err(SinkError::transient(format!(
                        "{}: another process is writing to it",
                        self.path.display()
                    )));
                }
                // It was set aside, and whoever compresses it has the lock.
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(SinkError::transient(format!(
                        "{}: could not lock it: {error}",
                        self.path.display()
                    )));
                }
            }
        }
        Err(SinkError::transient(format!(
            "{}: it is replaced again and again",
            self.path.display()
        )))
    }

    /// Whether the path still names this file.
    fn is_current(&self) -> Result<bool, SinkError> {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let judged = |error| judge(&self.path, &error);
        let ours = self.file.metadata().map(identity).map_err(judged)?;
        match fs::metadata(&self.path).map(identity) {
            Ok(named) => Ok(named == ours),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(judged(error)),
        }
    }

    /// Appends all or nothing, and returns once it would survive a power cut.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.file.metadata()?.len();
        if end == 0 {
            self.begun = OffsetDateTime::now_utc();
        }
        let written = self.file.write_all(bytes);
        written
            .and_then(|()| self.file.sync_data())
            .inspect_err(|_| {
                // What was written of it would be a torn line in front of the next attempt.
                drop(self.file.set_len(end));
            })
    }

    /// Cuts off a last line without its end and returns how many bytes that were: whoever wrote it
    /// has died of it.
    pub(super) fn repair(&mut self) -> io::Result<u64> {
        const STEP: u64 = 64 * 1024;
        let end = self.file.metadata()?.len();
        let mut last = [0];
        if end == 0 || (self.file.read_at(&mut last, end - 1)? == 1 && last == *b"\n") {
            return Ok(0);
        }
        let mut keep = end;
        let mut chunk = Vec::new();
        while keep > 0 {
            let start = keep.saturating_sub(STEP);
            self.file.seek(SeekFrom::Start(start))?;
            chunk.clear();
            Read::take(&mut self.file, keep - start).read_to_end(&mut chunk)?;
            if let Some(position) = chunk.iter().rposition(|byte| *byte == b'\n') {
                keep = start + position as u64 + 1;
                break;
            }
            keep = start;
        }
        self.file.set_len(keep)?;
        Ok(end - keep)
    }

    /// Sets the file aside under a name of its own. Under the lock, and the last thing that is done
    /// under it: the next one who wants to write finds no file, and makes another.
    ///
    /// A crash before or after the renaming leaves a whole file, under the one name or the other.
    pub(super) fn set_aside(&mut self) -> io::Result<()> {
        let aside = names::list(&self.path)?;
        let newest = aside.last().map(|rotated| rotated.stamp.as_str());
        let stamp = names::stamp_after(newest, OffsetDateTime::now_utc());
        fs::rename(&self.path, names::rotated(&self.path, &stamp))?;
        sync_directory(&self.path)
    }
}

/// Makes the names in the directory of a file survive a power cut.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
