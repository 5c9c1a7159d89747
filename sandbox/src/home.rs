//! The one directory of this user under the system's temp directory that everything else lives in.
//!
//! Owning a single parent, checked to be ours, means that no other user of the machine can plant
//! a template, a port reservation or a state file that we would trust.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

/// Why the sandbox has no directory to work in.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The directory could not be made or looked at.
    #[error("could not prepare {}", path.display())]
    Prepare {
        /// What was being prepared.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// Somebody else owns the directory, or may write to it.
    #[error(
        "{} is not a directory that only this user may write to; remove it or set TMPDIR",
        path.display()
    )]
    NotOurs {
        /// The directory that was refused.
        path: PathBuf,
    },
}

/// The sandbox's directory of this user, made if absent: `<temp>/tide-sandbox-<uid>`.
pub(crate) fn home() -> Result<PathBuf, HomeError> {
    let path = std::env::temp_dir().join(format!("tide-sandbox-{}", Uid::effective()));
    owned_directory(&path)?;
    Ok(path)
}

/// A directory of the given name inside [`home`], made if absent.
pub(crate) fn area(name: &str) -> Result<PathBuf, HomeError> {
    let path = home()?.join(name);
    owned_directory(&path)?;
    Ok(path)
}

/// Opens (and makes) a file whose only purpose is to be locked.
pub(crate) fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
}

/// The mode of a directory that a server run by another user must be able to pass through.
///
/// Root starts servers as an unprivileged user, which needs to traverse but never to list.
pub(crate) fn passage_mode() -> u32 {
    if Uid::effective().is_root() {
        0o711
    } else {
        0o700
    }
}

fn owned_directory(path: &Path) -> Result<(), HomeError> {
    let failed = |source| HomeError::Prepare {
        path: path.to_owned(),
        source,
    };
    match DirBuilder::new().mode(passage_mode()).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    // Not followed: a symbolic link here would be somebody's trap.
    let found = fs::symlink_metadata(path).map_err(failed)?;
    let writable_by_others = found.mode() & 0o022 != 0;
    if !found.is_dir() || found.uid() != Uid::effective().as_raw() || writable_by_others {
        return Err(HomeError::NotOurs {
            path: path.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("open");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            owned_directory(&path),
            Err(HomeError::NotOurs { .. })
        ));
    }

    #[test]
    fn a_symbolic_link_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("link");
        symlink(parent.path(), &path).unwrap();
        assert!(matches!(
            owned_directory(&path),
            Err(HomeError::NotOurs { .. })
        ));
    }

    #[test]
    fn preparing_twice_is_fine() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("home");
        owned_directory(&path).unwrap();
        owned_directory(&path).unwrap();
    }
}
