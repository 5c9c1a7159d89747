//! JSON lines appended to a file, which is set aside when it is large or old enough.
//!
//! A batch is one write followed by `fdatasync`, so "delivered" survives a power cut; lines that do
//! not fit into the file any more go to the next one. See [`active`] for who may write when, and
//! [`archive`] for what becomes of files that were set aside.

mod active;
mod archive;
mod names;
#[cfg(test)]
mod tests;
mod tidying;

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind},
    path::Path,
    sync::Once,
};

use tide_model::sink_spec::{FileSpec, Rotation};
use time::OffsetDateTime;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::block_in_place,
};
use tracing::{debug, warn};

use self::{active::Active, tidying::Tidying};
use super::{Batch, Context, Sink, SinkError, envelope};

/// What is kept of the buffer between batches.
const BUFFER: usize = 8 << 20;

pub(crate) struct FileSink {
    active: Active,
    rotation: Option<Rotation>,
    tidying: Tidying,
    /// Lines to be written, and where each of them ends.
    buffer: Vec<u8>,
    ends: Vec<usize>,
}

impl Sink for FileSink {
    const KIND: &'static str = "file";
    type Settings = FileSpec;

    /// Looks whether the file could be opened, without making it: its owner may be about to.
    async fn prepare(settings: &FileSpec) -> Result<Option<Self>, SinkError> {
        let path = &settings.path;
        let judged = |error| judge(path, &error);
        block_in_place(|| match OpenOptions::new().append(true).open(path) {
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let directory = path
                    .parent()
                    .filter(|path| path.components().next().is_some());
                let directory = directory.unwrap_or_else(|| Path::new("."));
                std::fs::read_dir(directory).map_err(judged)?;
                Ok(None)
            }
            Err(error) => Err(judged(error)),
        })
    }

    async fn open(settings: &FileSpec, context: &Context) -> Result<Self, SinkError> {
        survive_file_size_limits();
        let path = &settings.path;
        let active = block_in_place(|| {
            let mut active = Active::open(path).map_err(|error| judge(path, &error))?;
            active.exclusively(|file| {
                context.may_publish()?;
                repair(file)
            })?;
            Ok(active)
        })?;
        let mut sink = Self {
            active,
            rotation: settings.rotation,
            tidying: Tidying::default(),
            buffer: Vec::new(),
            ends: Vec::new(),
        };
        sink.tidy();
        Ok(sink)
    }

    async fn deliver(&mut self, context: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER);
        self.ends.clear();
        for message in batch.messages {
            envelope::write(&mut self.buffer, context, message);
            self.buffer.push(b'\n');
            self.ends.push(self.buffer.len());
        }
        // Written in place: a write that was handed to another thread could not be taken back.
        block_in_place(|| self.write(context, batch))
    }

    async fn close(self) {
        self.tidying.close().await;
    }
}

/// What was done under the lock.
enum Step {
    /// The file was set aside.
    SetAside,
    /// So many lines are durable now.
    Written(usize),
}

impl FileSink {
    /// Writes what is in the buffer, into as many files as that takes.
    fn write(&mut self, context: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
        let mut written = 0;
        while written < self.ends.len() {
            let Self {
                active,
                rotation,
                buffer,
                ends,
                ..
            } = self;
            let step = active.exclusively(|file| {
                context.may_publish()?;
                repair(file)?;
                let length = file.length()?;
                let begin = written.checked_sub(1).map_or(0, |last| ends[last]);
                let fitting = match rotation {
                    None => ends.len(),
                    Some(rotation) => {
                        let old = rotation
                            .age
                            .is_some_and(|age| OffsetDateTime::now_utc() - file.begun() >= age);
                        written + fitting(*rotation, length, old, begin, &ends[written..])
                    }
                };
                if fitting == written {
                    file.set_aside()
                        .map_err(|error| judge(file.path(), &error))?;
                    return Ok(Step::SetAside);
                }
                let lines = &buffer[begin..ends[fitting - 1]];
                file.append(lines)
                    .map_err(|error| judge(file.path(), &error))?;
                Ok(Step::Written(fitting))
            });
            match step.map_err(|error| error.after(written))? {
                Step::SetAside => {
                    debug!(path = %self.active.path().display(), "file set aside");
                    self.tidy();
                }
                Step::Written(lines) => {
                    written = lines;
                    batch.progress.reached(written);
                }
            }
        }
        Ok(())
    }

    fn tidy(&mut self) {
        if let Some(rotation) = self.rotation {
            self.tidying.ask(self.active.path().to_owned(), rotation);
        }
    }
}

/// How many of the lines go into a file of this length, which may be `old`; none if it is to be set
/// aside first. The first line begins at `begin`, and each of them ends at one of `ends`.
fn fitting(rotation: Rotation, length: u64, old: bool, begin: usize, ends: &[usize]) -> usize {
    if length > 0 && old {
        return 0;
    }
    let Some(most) = rotation.bytes else {
        return ends.len();
    };
    let fit = ends.partition_point(|end| length + (end - begin) as u64 <= most);
    // A line that is larger than a file may be has a file to itself.
    if length == 0 { fit.max(1) } else { fit }
}

/// Under the lock: nobody is in the middle of a line, so one without an end stays so.
fn repair(file: &mut Active) -> Result<(), SinkError> {
    let torn = file.repair().map_err(|error| judge(file.path(), &error))?;
    if torn > 0 {
        warn!(path = %file.path().display(), bytes = torn, "removed a torn last line");
    }
    Ok(())
}

fn judge(path: &Path, error: &io::Error) -> SinkError {
    let reason = format!("{}: {error}", path.display());
    match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::PermissionDenied
        | ErrorKind::IsADirectory
        | ErrorKind::NotADirectory => SinkError::misconfigured(reason),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            SinkError::transient(reason)
                .and("nothing is lost, and it goes on by itself once there is room")
        }
        _ => SinkError::transient(reason),
    }
}

/// A process that writes beyond its limit (`ulimit -f`, `LimitFSIZE=`) is ended by a signal, and all
/// pipelines with it, unless it listens to that signal: then the write fails, like one to a full disk.
fn survive_file_size_limits() {
    /// `SIGXFSZ`, of every platform that Tide is built for.
    const FILE_SIZE_EXCEEDED: i32 = 25;
    static ONCE: Once = Once::new();
    // Once listened to, it never ends a process again, even if nobody listens any more.
    ONCE.call_once(|| drop(signal(SignalKind::from_raw(FILE_SIZE_EXCEEDED))));
}
