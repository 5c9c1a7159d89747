//! Copying a directory tree and giving the copy to an account.

use std::{fs, io, os::unix::fs::symlink, path::Path};

use super::Account;

/// Copies a tree with its modes; the target must not exist.
pub(super) fn tree(from: &Path, to: &Path, account: Account) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            tree(&source, &target, account)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else {
            fs::copy(&source, &target)?;
            account.own(&target)?;
        }
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    account.own(to)
}
