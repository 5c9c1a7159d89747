//! What every `main` does: set up, run, say what went wrong, and exit with the right code.

use std::{
    error::Error,
    future::Future,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use crate::{
    crypto::install_crypto_provider,
    lifecycle::Exit,
    telemetry::{self, LogFormat},
};

/// What is left of the process after its exit code is known has this long.
const RUNTIME_SHUTDOWN: Duration = Duration::from_millis(500);

/// Why a process could not do what it was asked to do, for the person who asked.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
}

impl Failure {
    /// It was asked properly and could not: exit code 1.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            exit: Exit::Failed,
            error: error.into(),
            hint: None,
        }
    }

    /// What it was asked makes no sense: exit code 2.
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            exit: Exit::Usage,
            ..Self::failed(error)
        }
    }

    /// Adds what to do about it, if there is something to say.
    #[must_use]
    pub fn with_hint(mut self, hint: Option<impl Into<String>>) -> Self {
        self.hint = hint.map(Into::into);
        self
    }

    /// The exit code that it leads to.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

/// `error: …`, and if there is a hint a blank line and `hint: …`.
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error: {}", chain(&*self.error))?;
        match &self.hint {
            None => Ok(()),
            Some(hint) => write!(f, "\n\nhint: {hint}"),
        }
    }
}

/// Runs a daemon. `prepare` reads flags and configuration and returns the log format and the
/// process itself; the process starts with logging and TLS set up and inside a runtime. Failures
/// go to stderr, traces are flushed in every case.
pub fn main_exit<F>(
    service: &'static str,
    prepare: impl FnOnce() -> Result<(LogFormat, F), Failure>,
) -> ExitCode
where
    F: Future<Output = Result<Exit, Failure>>,
{
    install_crypto_provider();
    let ended = prepare().and_then(|(log_format, process)| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(Failure::failed)?;
        let ended = runtime.block_on(async {
            let telemetry = telemetry::init(service, log_format, None).map_err(Failure::usage)?;
            let ended = process.await;
            telemetry.shutdown().await;
            ended
        });
        runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
        ended
    });
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // A closed stderr leaves nobody to tell.
            drop(writeln!(io::stderr(), "{failure}"));
            failure.exit.into()
        }
    }
}

/// An error and its causes in one line. Some errors repeat their causes; once the root of the
/// trouble is named there is nothing to add.
fn chain(error: &dyn Error) -> String {
    let causes: Vec<String> = std::iter::successors(error.source(), |&error| error.source())
        .map(ToString::to_string)
        .collect();
    let mut text = error.to_string();
    for cause in &causes {
        if causes.last().is_some_and(|root| text.contains(root)) {
            break;
        }
        text = format!("{text}: {cause}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not open the door")]
    struct Door(#[source] io::Error);

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let failure =
            Failure::failed(Door(io::Error::other("it is locked"))).with_hint(Some("find the key"));
        assert_eq!(
            failure.to_string(),
            "error: could not open the door: it is locked\n\nhint: find the key"
        );
        assert_eq!(failure.exit(), Exit::Failed);
    }

    #[test]
    fn without_a_hint_there_is_one_line() {
        let failure = Failure::usage("--listen is missing").with_hint(None::<String>);
        assert_eq!(failure.to_string(), "error: --listen is missing");
        assert_eq!(failure.exit(), Exit::Usage);
    }

    #[test]
    fn what_an_error_already_says_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("no answer: it is locked")]
        struct Repeats(#[source] Door);
        let failure = Failure::failed(Repeats(Door(io::Error::other("it is locked"))));
        assert_eq!(failure.to_string(), "error: no answer: it is locked");
    }

    #[test]
    fn the_exit_code_is_the_process_own() {
        let exited = main_exit("test", || Ok((LogFormat::Text, async { Ok(Exit::Forced) })));
        assert_eq!(format!("{exited:?}"), format!("{:?}", ExitCode::from(3)));
    }
}
