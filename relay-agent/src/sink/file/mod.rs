//! JSON lines appended to a file.
//!
//! A batch is one write followed by `fdatasync`, so "delivered" survives a power cut. The file is
//! locked (`flock`) for the write and for the repair of a torn last line, so that several
//! pipelines or agents may share it, and so that an agent that was frozen in the middle of a write
//! can never interleave with its successor.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::PathBuf,
};

use tokio::task::block_in_place;
use tracing::warn;

use super::{Batch, Context, Sink, SinkError, envelope};

/// What the sink is opened from.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) path: PathBuf,
}

pub(crate) struct FileSink {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
}

impl Sink for FileSink {
    const KIND: &'static str = "file";
    type Settings = Settings;

    /// Looks whether the file could be opened, without making it: its owner may be about to.
    async fn prepare(settings: &Settings) -> Result<Option<Self>, SinkError> {
        let judged = |error| judge(settings, &error);
        block_in_place(
            || match OpenOptions::new().append(true).open(&settings.path) {
                Ok(_) => Ok(None),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let directory = settings
                        .path
                        .parent()
                        .filter(|path| path.components().next().is_some());
                    let directory = directory.unwrap_or_else(|| std::path::Path::new("."));
                    std::fs::read_dir(directory).map_err(judged)?;
                    Ok(None)
                }
                Err(error) => Err(judged(error)),
            },
        )
    }

    async fn open(settings: &Settings, context: &Context) -> Result<Self, SinkError> {
        block_in_place(|| {
            let judged = |error| judge(settings, &error);
            let mut file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .open(&settings.path)
                .map_err(judged)?;
            let torn = exclusively(&settings.path, &mut file, |file| {
                context.may_publish()?;
                repair(file).map_err(judged)
            })?;
            if torn > 0 {
                warn!(path = %settings.path.display(), bytes = torn, "removed a torn last line");
            }
            Ok(Self {
                path: settings.path.clone(),
                file,
                buffer: Vec::new(),
            })
        })
    }

    async fn deliver(&mut self, context: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
        let Self { path, file, buffer } = self;
        buffer.clear();
        for message in batch.messages {
            envelope::write(buffer, context, message);
            buffer.push(b'\n');
        }
        // Written in place: a write that was handed to another thread could not be taken back.
        block_in_place(|| {
            let settings = Settings { path: path.clone() };
            exclusively(path, file, |file| {
                context.may_publish()?;
                append(file, buffer).map_err(|error| judge(&settings, &error))
            })?;
            file.sync_data().map_err(|error| judge(&settings, &error))
        })
    }
}

/// Runs `act` while nobody else writes. Never waits: a holder may be frozen.
fn exclusively<T>(
    path: &std::path::Path,
    file: &mut File,
    act: impl FnOnce(&mut File) -> Result<T, SinkError>,
) -> Result<T, SinkError> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(SinkError::transient(format!(
                "{}: another process is writing to it",
                path.display()
            )));
        }
        Err(TryLockError::Error(error)) => {
            return Err(SinkError::transient(format!(
                "{}: could not lock it: {error}",
                path.display()
            )));
        }
    }
    let result = act(file);
    // Cannot fail for a lock that we hold, and closing the file frees it too.
    drop(file.unlock());
    result
}

/// Appends all or nothing.
fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let end = file.metadata()?.len();
    file.write_all(bytes).inspect_err(|_| {
        // What was written of it would be a torn line in front of the next attempt.
        drop(file.set_len(end));
    })
}

/// Cuts off a last line without its end and returns how many bytes that were.
fn repair(file: &mut File) -> io::Result<u64> {
    const STEP: u64 = 64 * 1024;
    let end = file.metadata()?.len();
    let mut keep = end;
    let mut chunk = Vec::new();
    while keep > 0 {
        let start = keep.saturating_sub(STEP);
        file.seek(SeekFrom::Start(start))?;
        chunk.clear();
        Read::take(&mut *file, keep - start).read_to_end(&mut chunk)?;
        if let Some(position) = chunk.iter().rposition(|byte| *byte == b'\n') {
            keep = start + position as u64 + 1;
            break;
        }
        keep = start;
    }
    if keep < end {
        file.set_len(keep)?;
    }
    Ok(end - keep)
}

fn judge(settings: &Settings, error: &io::Error) -> SinkError {
    let reason = format!("{}: {error}", settings.path.display());
    match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::PermissionDenied
        | ErrorKind::IsADirectory
        | ErrorKind::NotADirectory => SinkError::misconfigured(reason),
        _ => SinkError::transient(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(content: &[u8]) -> (u64, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, content).unwrap();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&path)
            .unwrap();
        let torn = repair(&mut file).unwrap();
        (torn, std::fs::read(&path).unwrap())
    }

    #[test]
    fn whole_files_stay_as_they_are() {
        for content in [&b""[..], b"{}\n", b"{}\n{}\n"] {
            assert_eq!(repaired(content), (0, content.to_vec()));
        }
    }

    #[test]
    fn a_torn_line_goes_and_nothing_else() {
        assert_eq!(repaired(b"{}\n{\"a\":"), (5, b"{}\n".to_vec()));
        assert_eq!(repaired(b"{\"a\":"), (5, Vec::new()));
        let long = vec![b'x'; 200_000];
        let mut content = b"{}\n".to_vec();
        content.extend_from_slice(&long);
        assert_eq!(repaired(&content), (200_000, b"{}\n".to_vec()));
    }

    #[test]
    fn a_file_that_somebody_writes_to_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let other = File::create(&path).unwrap();
        other.lock().unwrap();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&path)
            .unwrap();
        let refused = exclusively(&path, &mut file, |_| Ok(()));
        assert!(matches!(refused, Err(SinkError::Transient { .. })));
    }
}
