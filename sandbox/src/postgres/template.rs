//! The template of a server version: what `initdb` made, once, for all clusters of this user.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use super::{Account, PostgresError, SUPERUSER};
use crate::home;

/// Bump when the `initdb` command line changes.
const RECIPE: u32 = 1;

/// The directory of the template, made first if need be. Blocks for as long as `initdb` takes.
pub(super) fn prepare(binaries: &Path, account: Account) -> Result<PathBuf, PostgresError> {
    let area = home::area("templates").map_err(PostgresError::Home)?;
    let name = name(binaries, account)?;
    let finished = area.join(&name);
    let lock_path = area.join(format!("{name}.lock"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PostgresError::Write { path, source }
    };
    let lock = home::lock_file(&lock_path).map_err(failed(&lock_path))?;
    lock.lock().map_err(failed(&lock_path))?;
    if is_whole(&finished) {
        return Ok(finished);
    }
    // Built beside its place and renamed: nobody ever copies half a template. Both names are only
    // touched under the lock, so what is there already is what a crash left.
    let building = area.join(format!("{name}.building"));
    for leftover in [&building, &finished] {
        if leftover.exists() {
            fs::remove_dir_all(leftover).map_err(failed(leftover))?;
        }
    }
    account
        .private_directory(&building)
        .map_err(failed(&building))?;
    initdb(binaries, account, &building)?;
    fs::rename(&building, &finished).map_err(failed(&finished))?;
    Ok(finished)
}

/// Runs a program to its end; an error holds everything it said.
pub(super) fn run(command: &mut Command) -> Result<String, PostgresError> {
    let program = PathBuf::from(command.get_program());
    let output = command.output().map_err(|source| PostgresError::Run {
        program: program.clone(),
        source,
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let output = text + &String::from_utf8_lossy(&output.stderr);
    Err(PostgresError::Failed { program, output })
}

fn initdb(binaries: &Path, account: Account, into: &Path) -> Result<(), PostgresError> {
    let mut command = account.command(binaries.join("initdb"));
    command
        .arg("--pgdata")
        .arg(into)
        .args(["--username", SUPERUSER, "--auth", "trust"])
        .args(["--encoding", "UTF8", "--locale", "C"])
        .args(["--no-sync", "--no-instructions"]);
    run(&mut command).map(drop)
}

/// A name that differs for each build of the server, each account and each recipe.
fn name(binaries: &Path, account: Account) -> Result<String, PostgresError> {
    let version = run(account.command(binaries.join("postgres")).arg("--version"))?;
    let mut hasher = DefaultHasher::new();
    (binaries, &version, account.uid(), RECIPE).hash(&mut hasher);
    // The text is `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` or shorter.
    let number = version.split_whitespace().nth(2).unwrap_or("unknown");
    Ok(format!("postgres-{number}-{:016x}", hasher.finish()))
}

/// Cleaners of temporary directories remove old files one by one: what is left is no template.
fn is_whole(template: &Path) -> bool {
    [
        "PG_VERSION",
        "global/pg_control",
        "postgresql.conf",
        "pg_hba.conf",
        "base/1/PG_VERSION",
    ]
    .iter()
    .all(|file| template.join(file).is_file())
}
