//! Where the programs of this workspace are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The environment variable that names the directory of the built programs.
pub const BIN_DIR: &str = "TIDE_BIN_DIR";

/// The program is nowhere it was looked for.
#[derive(Debug, thiserror::Error)]
#[error(
    "no program `{name}` in {}; build it with `cargo build --bin {name}` or set TIDE_BIN_DIR",
    listed(.searched)
)]
pub struct BinaryNotFound {
    /// The program's name.
    pub name: String,
    /// The directories that were looked in, in order.
    pub searched: Vec<PathBuf>,
}

/// Finds a program of this workspace, `tide-agent` say.
///
/// With `TIDE_BIN_DIR` set only that directory counts, so that a wrong setting is noticed.
/// Otherwise the directory of the running program and its parents: a test runs from
/// `target/<profile>/deps`, an installed program beside its siblings.
pub fn find(name: &str) -> Result<PathBuf, BinaryNotFound> {
    let candidates = match env::var_os(BIN_DIR) {
        Some(directory) => vec![PathBuf::from(directory)],
        None => beside(env::current_exe().ok().as_deref()),
    };
    find_in(name, candidates)
}

fn find_in(name: &str, candidates: Vec<PathBuf>) -> Result<PathBuf, BinaryNotFound> {
    let found = candidates
        .iter()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    found.ok_or_else(|| BinaryNotFound {
        name: name.to_owned(),
        searched: candidates,
    })
}

fn beside(program: Option<&Path>) -> Vec<PathBuf> {
    // Two parents up is `target/<profile>` for tests and examples alike; further up would find
    // programs of something else.
    program
        .into_iter()
        .flat_map(|path| path.ancestors().skip(1).take(2))
        .map(PathBuf::from)
        .collect()
}

fn listed(directories: &[PathBuf]) -> String {
    let names: Vec<String> = directories
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_finds_programs_one_directory_up() {
        let target = tempfile::tempdir().unwrap();
        std::fs::create_dir(target.path().join("deps")).unwrap();
        std::fs::write(target.path().join("tide-agent"), "").unwrap();
        let places = beside(Some(&target.path().join("deps/it-0123")));
        assert_eq!(
            find_in("tide-agent", places).unwrap(),
            target.path().join("tide-agent")
        );
    }

    #[test]
    fn a_missing_program_tells_where_it_was_looked_for() {
        let error =
            find_in("nonsense", vec![PathBuf::from("/a"), PathBuf::from("/b")]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`nonsense` in /a, /b;"), "{text}");
        assert!(text.contains("cargo build --bin nonsense"), "{text}");
    }
}
