//! Where the PostgreSQL server programs are on this machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::PostgresError;

/// The environment variable that names the directory of the server programs.
pub const BIN_DIR: &str = "TIDE_PG_BIN";

/// Where Debian keeps its versions.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The directory of the server programs.
///
/// An explicit choice (the option, then the environment) is final: if it holds no server, that is
/// an error and not a reason to run another version.
pub(super) fn find(chosen: Option<&Path>) -> Result<PathBuf, PostgresError> {
    let explicit = chosen
        .map(Path::to_owned)
        .or_else(|| env::var_os(BIN_DIR).map(PathBuf::from));
    let candidates = match explicit {
        Some(directory) => vec![directory],
        None => known_places(),
    };
    match candidates
        .iter()
        .find(|directory| holds_a_server(directory))
    {
        Some(directory) => Ok(directory.clone()),
        None => Err(PostgresError::NoBinaries {
            searched: searched(&candidates),
        }),
    }
}

fn holds_a_server(directory: &Path) -> bool {
    ["postgres", "initdb"]
        .iter()
        .all(|program| directory.join(program).is_file())
}

fn known_places() -> Vec<PathBuf> {
    let configured = configured_bin_dir();
    let debian = versions_newest_first(Path::new(DEBIAN));
    configured
        .into_iter()
        .chain(debian)
        .chain([PathBuf::from("/usr/local/bin")])
        .collect()
}

/// What the `pg_config` on the PATH says.
fn configured_bin_dir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}

fn versions_newest_first(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, path)| path).collect()
}

fn searched(directories: &[PathBuf]) -> String {
    let mut names: Vec<String> = directories
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    if !directories.iter().any(|path| path.starts_with(DEBIAN)) && directories.len() > 1 {
        names.push(format!("{DEBIAN}/*/bin"));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_versions_come_first() {
        let parent = tempfile::tempdir().unwrap();
        for version in ["9", "16", "15", "common"] {
            fs::create_dir(parent.path().join(version)).unwrap();
        }
        let names: Vec<PathBuf> = versions_newest_first(parent.path());
        let expected = ["16/bin", "15/bin", "9/bin"].map(|name| parent.path().join(name));
        assert_eq!(names, expected);
    }

    #[test]
    fn a_wrong_choice_is_an_error_that_names_it() {
        let error = find(Some(Path::new("/no/such/place"))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("looked in /no/such/place;"), "{text}");
        assert!(text.contains("apt-get install postgresql"), "{text}");
    }
}
