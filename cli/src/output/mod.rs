//! Where output goes. Data goes to stdout, as a table or as JSON or YAML; everything that is said
//! about it goes to stderr. Nothing else in this crate prints.

pub mod humanize;
mod style;
mod table;
pub mod views;

use std::{
    fmt::{Display, Write as _},
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

pub use self::{
    style::{Style, Tone},
    table::{Cell, Table},
};
use crate::{
    args::{GlobalArgs, OutputFormat},
    error::CliError,
};

/// Stdout and stderr.
#[derive(Debug, Clone)]
pub struct Screen {
    format: OutputFormat,
    style: Style,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    paper: Option<Paper>,
}

/// Takes what would have gone to stdout. Clones are the same paper.
#[derive(Debug, Clone, Default)]
pub(crate) struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    /// What was written.
    pub(crate) fn read(&self) -> Vec<u8> {
        self.text().clone()
    }

    fn text(&self) -> MutexGuard<'_, Vec<u8>> {
        // Nothing panics while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Screen {
    /// The screen of this process.
    pub fn new(global: &GlobalArgs) -> Self {
        let stdout_is_terminal = io::stdout().is_terminal();
        let colourless = global.no_color
            || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            format: global.output,
            style: if stdout_is_terminal {
                Style::terminal(!colourless)
            } else {
                Style::plain()
            }
            .with_all_columns(global.output == OutputFormat::Wide),
            stdout_is_terminal,
            stderr_is_terminal: io::stderr().is_terminal(),
            paper: None,
        }
    }

    /// Paper, and a screen that writes data onto it as JSON and says nothing to anybody.
    pub(crate) fn onto_paper() -> (Self, Paper) {
        let paper = Paper::default();
        let screen = Self {
            format: OutputFormat::Json,
            style: Style::plain(),
            stdout_is_terminal: false,
            stderr_is_terminal: false,
            paper: Some(paper.clone()),
        };
        (screen, paper)
    }

    /// How text looks on stdout.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Whether data is for people.
    pub fn is_table(&self) -> bool {
        matches!(self.format, OutputFormat::Table | OutputFormat::Wide)
    }

    /// Whether a person looks at stdout and it may be redrawn.
    pub fn redraws(&self) -> bool {
        self.is_table() && self.stdout_is_terminal
    }

    /// Whether a person looks at stderr and its last line may be redrawn.
    pub fn shows_progress(&self) -> bool {
        self.stderr_is_terminal
    }

    /// Whether a person can be asked.
    pub fn can_ask(&self) -> bool {
        self.stderr_is_terminal && io::stdin().is_terminal()
    }

    /// Prints data, once.
    pub fn show(
        &self,
        data: &impl Serialize,
        text: impl FnOnce(Style) -> String,
    ) -> Result<(), CliError> {
        let printed = match self.format {
            OutputFormat::Table | OutputFormat::Wide => text(self.style),
            OutputFormat::Json => json(data, serde_json::to_string_pretty)?,
            OutputFormat::Yaml => yaml(data)?,
            OutputFormat::Ndjson => lines(data)?,
        };
        self.raw(ended(printed).as_bytes())
    }

    /// Prints one of many: JSON on one line, YAML as one document.
    pub fn show_next(
        &self,
        data: &impl Serialize,
        text: impl FnOnce(Style) -> String,
    ) -> Result<(), CliError> {
        let printed = match self.format {
            OutputFormat::Table | OutputFormat::Wide => text(self.style),
            OutputFormat::Json | OutputFormat::Ndjson => json(data, serde_json::to_string)?,
            OutputFormat::Yaml => format!("---\n{}", yaml(data)?),
        };
        self.raw(ended(printed).as_bytes())
    }

    /// Draws over what stands on the terminal.
    pub fn redraw(&self, text: &str) -> Result<(), CliError> {
        // Home, then clear each line's rest and everything below: nothing flickers.
        let lines = text.trim_end().replace('\n', "\x1b[K\n");
        self.raw(format!("\x1b[H{lines}\x1b[K\n\x1b[J").as_bytes())
    }

    /// Prints raw bytes, such as a script.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), CliError> {
        if let Some(paper) = &self.paper {
            paper.text().extend_from_slice(bytes);
            return Ok(());
        }
        let mut stdout = io::stdout();
        closed(stdout.write_all(bytes).and_then(|()| stdout.flush()))
    }

    /// Says something on stderr. If nobody can hear it, nothing is lost.
    pub fn say(&self, line: impl Display) {
        if self.paper.is_none() {
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    /// Rewrites the last line of stderr, if a person looks at it; empty clears it.
    pub fn say_over(&self, line: &str) {
        if self.stderr_is_terminal {
            let mut stderr = io::stderr();
            let _ = write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush());
        }
    }
}

/// Prints an error and what to do about it, on stderr. Ctrl-C and a closed pipe are the reader's
/// own doing and need no words.
pub(crate) fn report(error: &CliError) {
    if matches!(error, CliError::Interrupted | CliError::OutputClosed) {
        return;
    }
    let mut stderr = io::stderr();
    for line in error.to_string().lines() {
        let _ = writeln!(stderr, "error: {line}");
    }
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "\nhint: {hint}");
    }
}

fn json<T: Serialize>(
    data: &T,
    print: impl FnOnce(&T) -> serde_json::Result<String>,
) -> Result<String, CliError> {
    print(data).map_err(|error| CliError::io("print JSON", io::Error::other(error)))
}

/// A list as one line for each of its items, anything else as one line.
fn lines(data: &impl Serialize) -> Result<String, CliError> {
    let value = serde_json::to_value(data)
        .map_err(|error| CliError::io("print JSON", io::Error::other(error)))?;
    Ok(match value {
        serde_json::Value::Array(items) => items.iter().fold(String::new(), |mut text, item| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{item}");
            text
        }),
        other => other.to_string(),
    })
}

fn yaml(data: &impl Serialize) -> Result<String, CliError> {
    serde_norway::to_string(data)
        .map_err(|error| CliError::io("print YAML", io::Error::other(error)))
}

fn ended(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// `tidectl … | head` closes the pipe when it has seen enough, and that is no failure of ours.
fn closed(result: io::Result<()>) -> Result<(), CliError> {
    result.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::io("write to stdout", error),
    })
}
