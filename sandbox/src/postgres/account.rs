//! The user that servers run as: ourselves, or an unprivileged one when we are root.

use std::{ffi::OsStr, fs, io, os::unix::process::CommandExt as _, path::Path, process::Command};

use nix::{
    errno::Errno,
    unistd::{Uid, User},
};

/// Who runs a server that refuses root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Account {
    /// We are not root.
    Ourselves,
    /// We are root and become this user.
    Unprivileged {
        /// Its name.
        name: &'static str,
        /// Its id.
        uid: u32,
        /// Its primary group.
        gid: u32,
    },
}

impl Account {
    /// Chooses the account; `None` if we are root and the machine has no user to become.
    pub(crate) fn choose() -> Result<Option<Self>, Errno> {
        if !Uid::effective().is_root() {
            return Ok(Some(Self::Ourselves));
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name)? {
                let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
                return Ok(Some(Self::Unprivileged { name, uid, gid }));
            }
        }
        Ok(None)
    }

    /// A command that runs as this account, with a clean environment, in no particular place.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            .current_dir("/");
        if let Self::Unprivileged { uid, gid, .. } = self {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or directory to this account.
    pub(crate) fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Ourselves => Ok(()),
            Self::Unprivileged { uid, gid, .. } => {
                std::os::unix::fs::lchown(path, Some(uid), Some(gid))
            }
        }
    }

    /// Makes a directory that only this account (and root) may look into.
    pub(crate) fn private_directory(self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().mode(0o700).create(path)?;
        self.own(path)
    }

    /// The id of the user, for names of things that belong to it.
    pub(crate) fn uid(self) -> u32 {
        match self {
            Self::Ourselves => Uid::effective().as_raw(),
            Self::Unprivileged { uid, .. } => uid,
        }
    }
}
