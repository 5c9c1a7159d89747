//! What becomes of files that were set aside: the oldest go, the others are compressed.
//!
//! ```text
//!            compressed up to the end            renamed               removed
//!   X ──▶ X + X.gz.partial ──▶ (fsync) ──▶ X + X.gz ──▶ X.gz alone
//! ```
//!
//! A compressed file gets its name when it is whole and would survive a power cut, and the original
//! goes after that. So a crash leaves the original, beside something that is called partial or
//! beside its whole copy; whoever comes next does the rest. Who compresses a file has locked it, so
//! that nobody does it twice at once. Delivery waits for nothing of this.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use flate2::write::GzEncoder;
use tide_model::sink_spec::{Compression, Rotation};

use super::{
    active::sync_directory,
    names::{self, Form, Rotated},
};

/// What is read at once; in between somebody may want us to stop.
const STEP: usize = 256 * 1024;

/// What compressing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Somebody else is at it, or has done it.
    Others,
    /// It was given up because we are to stop.
    Stopped,
}

/// Does what is to be done now. Returns early once `stop` is set; the next one goes on.
pub(super) fn tidy(active: &Path, rotation: Rotation, stop: &AtomicBool) -> io::Result<()> {
    let mut files = names::list(active)?;
    if let Some(keep) = rotation.keep {
        files = remove_oldest(files, keep)?;
    }
    remove_leftovers(&files)?;
    let Some(compression) = rotation.compression else {
        return Ok(());
    };
    for file in files.iter().filter(|file| file.form == Form::Plain) {
        if compress(&file.path, compression, stop)? == Outcome::Stopped {
            break;
        }
    }
    Ok(())
}

/// Removes all but the newest `keep`, whatever they are by now, and returns what is left.
fn remove_oldest(files: Vec<Rotated>, keep: usize) -> io::Result<Vec<Rotated>> {
    let mut stamps: Vec<&str> = files.iter().map(|file| file.stamp.as_str()).collect();
    stamps.dedup();
    let Some(oldest) = stamps
        .len()
        .checked_sub(keep)
        .map(|surplus| stamps[surplus..].first())
    else {
        return Ok(files);
    };
    let first = oldest.map(|stamp| (*stamp).to_owned());
    let (stay, go): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|file| first.as_ref().is_some_and(|first| file.stamp >= *first));
    for file in go {
        remove(&file.path)?;
    }
    Ok(stay)
}

/// Removes what was compressed up to somewhere and whose original is gone: nobody is at it.
fn remove_leftovers(files: &[Rotated]) -> io::Result<()> {
    for partial in files.iter().filter(|file| file.form == Form::Partial) {
        let original = files
            .iter()
            .find(|file| file.stamp == partial.stamp && file.form == Form::Plain);
        if original.is_none() {
            remove(&partial.path)?;
        }
    }
    Ok(())
}

fn compress(original: &Path, compression: Compression, stop: &AtomicBool) -> io::Result<Outcome> {
    let mut source = match File::open(original) {
        Ok(source) => source,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Outcome::Others),
        Err(error) => return Err(error),
    };
    match source.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Outcome::Others),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Whoever had the lock before us may have done it, in whichever format was asked for then.
    if !fs::exists(original)? {
        return Ok(Outcome::Others);
    }
    let others =
        [Compression::Gzip, Compression::Zstd].map(|form| names::compressed(original, form));
    for whole in &others {
        let partial = names::partial(whole);
        remove(&partial)?;
    }
    if !fs::exists(&others[0])? && !fs::exists(&others[1])? {
        let whole = names::compressed(original, compression);
        let partial = names::partial(&whole);
        let written = write(&mut source, &partial, compression, stop);
        if !matches!(written, Ok(Outcome::Done)) {
            // It takes room that somebody may need.
            remove(&partial)?;
            return written;
        }
        fs::rename(&partial, &whole)?;
        sync_directory(&whole)?;
    }
    remove(original)?;
    Ok(Outcome::Done)
}

fn write(
    source: &mut File,
    partial: &PathBuf,
    compression: Compression,
    stop: &AtomicBool,
) -> io::Result<Outcome> {
    let target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(partial)?;
    target.set_permissions(source.metadata()?.permissions())?;
    let target = match compression {
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(target, flate2::Compression::default());
            if copy(source, &mut encoder, stop)? == Outcome::Stopped {
                return Ok(Outcome::Stopped);
            }
            encoder.finish()?
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(target, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            encoder.include_checksum(true)?;
            if copy(source, &mut encoder, stop)? == Outcome::Stopped {
                return Ok(Outcome::Stopped);
            }
            encoder.finish()?
        }
    };
    target.sync_all()?;
    Ok(Outcome::Done)
}

fn copy(source: &mut File, target: &mut impl Write, stop: &AtomicBool) -> io::Result<Outcome> {
    let mut chunk = vec![0; STEP];
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(Outcome::Stopped);
        }
        match source.read(&mut chunk)? {
            0 => return Ok(Outcome::Done),
            read => target.write_all(&chunk[..read])?,
        }
    }
}

/// Removes a file, which somebody may have done already.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
