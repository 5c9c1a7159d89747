//! `tidectl`, the operator's tool.
//!
//! ```text
//! args ─▶ context ─▶ commands ─┬─▶ source ─┬─▶ control plane (gRPC)
//!                              │           └─▶ database (catalog)
//!                              ├─▶ follow    watches an operation to its end
//!                              └─▶ output    data on stdout, talk on stderr
//! ```
//!
//! Commands never know whether a control plane or the database answers: see [`source::Source`].
//!
//! # Exit codes
//!
//! | code | meaning |
//! | ---: | --- |
//! | 0 | done; healthy; nothing to change |
//! | 1 | an error without a code of its own |
//! | 2 | the command line, or a file it names, cannot be used |
//! | 3 | a status is degraded, locks and records differ, or a plan has changes to make |
//! | 5 | stopped waiting; the operation goes on |
//! | 6 | blocked: an operator has to do something first; an agent is not safe to stop; a check fails |
//! | 7 | conflict: it exists already, somebody else cancelled it, or the plan is stale |
//! | 8 | the database or the control plane does not allow it |
//! | 9 | no control plane answers, and there is no database to fall back to |
//! | 130 | Ctrl-C; an operation that was watched goes on |

pub mod access;
pub mod args;
mod commands;
pub mod context;
pub mod contexts;
mod doctor;
pub mod error;
pub mod exit;
mod follow;
pub mod interrupt;
mod locks;
pub mod output;
mod prompt;
mod select;
pub mod source;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _};
use tokio::runtime::Runtime;

use crate::{
    args::{Cli, Typed},
    context::{Context, Settings},
    error::CliError,
    interrupt::Interrupt,
    output::Screen,
};

/// Runs one command line and returns its exit code.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match parse(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no errors; nobody is left to tell if that fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let exit = match execute(cli) {
        Ok(exit) => exit,
        Err(error) => {
            output::report(&error);
            error.exit()
        }
    };
    ExitCode::from(exit.code())
}

/// Reads a command line, and which of its settings it really holds.
fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches_from(words)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.global.typed = Typed::of(&matches);
    Ok(cli)
}

fn execute(cli: Cli) -> Result<exit::Exit, CliError> {
    let runtime = Runtime::new().map_err(|error| CliError::io("start", error))?;
    let context = Context {
        settings: if cli.command.asks_nobody() {
            Settings::of(&cli.global, None)
        } else {
            Settings::resolve(&cli.global)?
        },
        screen: Screen::new(&cli.global),
        interrupt: Interrupt::default(),
    };
    let result = runtime.block_on(async {
        let command = Box::pin(commands::run(&context, cli.command));
        context.interrupt.guard(command, ctrl_c).await
    });
    // A prompt that was interrupted still reads from the terminal; the process ends all the same.
    runtime.shutdown_background();
    result
}

async fn ctrl_c() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler the system's own remains, which ends the process.
        std::future::pending::<()>().await;
    }
}
