//! Programs that run to their end.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tide_sandbox::binaries;
use tokio::{process::Command, time::timeout};

/// What a program said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its exit code; absent if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Fails unless it exited with `code` and told one error, with a hint after it.
    ///
    /// The error is one line that begins with `error: ` and holds `says`; the hint holds `hint`.
    pub fn explains(&self, code: i32, says: &str, hint: &str) -> Result<()> {
        ensure!(
            self.code == Some(code),
            "exit code {:?}, not {code}: {self:?}",
            self.code
        );
        let errors: Vec<&str> = self.lines("error: ").collect();
        ensure!(errors.len() == 1, "not exactly one error: {self:?}");
        ensure!(
            errors[0].contains(says),
            "{says:?} is not in: {}",
            errors[0]
        );
        let hints: Vec<&str> = self.lines("hint: ").collect();
        ensure!(hints.len() == 1, "not exactly one hint: {self:?}");
        ensure!(hints[0].contains(hint), "{hint:?} is not in: {}", hints[0]);
        Ok(())
    }

    fn lines<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.stderr
            .lines()
            .filter(move |line| line.starts_with(prefix))
    }
}

/// Runs a program of this workspace to its end, for at most `within`.
pub async fn run(
    program: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
    within: Duration,
) -> Result<Finished> {
    let mut command = Command::new(binaries::find(program)?);
    // What the developer has set for a fleet of his own must not reach this one.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TIDE_")) {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(within, command.output())
        .await
        .with_context(|| format!("{program} {arguments:?} did not end within {within:?}"))??;
    Ok(Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
