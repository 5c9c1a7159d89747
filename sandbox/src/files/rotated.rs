//! Finding and reading the files that a sink has set aside.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::FileError;

/// How often the files may change while they are read.
const ATTEMPTS: usize = 100;

/// Every file and what it holds, the oldest first and the one that is written to last.
pub(super) fn whole(active: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, FileError> {
    let failed = |source| FileError::Read {
        path: active.to_owned(),
        source,
    };
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let names = aside(active).map_err(failed)?;
        let read: io::Result<Vec<_>> = names
            .iter()
            .cloned()
            .chain([active.to_owned()])
            .map(|path| Ok((content(&path)?, path)))
            .map(|read| read.map(|(bytes, path)| (path, bytes)))
            .collect();
        // A file that was set aside meanwhile is there twice, or not at all.
        match read {
            Ok(read) if names == aside(active).map_err(failed)? => return Ok(read),
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    Err(failed(last.unwrap_or_else(|| {
        io::Error::other("files are set aside faster than they can be read")
    })))
}

/// `events.jsonl.20261121T173415.123456Z`, or the same with `.gz` or `.zst`, which comes first if
/// both are there.
fn aside(active: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (active.parent(), active.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some((stamp, form)) = name
            .strip_prefix(&prefix)
            .and_then(|rest| rest.split_once('Z'))
        else {
            continue;
        };
        let stamp = stamp.to_owned();
        match form {
            ".gz" | ".zst" => drop(found.insert(stamp, path)),
            "" => drop(found.entry(stamp).or_insert(path)),
            _ => {}
        }
    }
    Ok(found.into_values().collect())
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(bytes),
        file => file?,
    };
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => flate2::read::GzDecoder::new(file).read_to_end(&mut bytes)?,
        Some("zst") => zstd::Decoder::new(file)?.read_to_end(&mut bytes)?,
        _ => file.read_to_end(&mut bytes)?,
    };
    Ok(bytes)
}
