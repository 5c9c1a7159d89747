//! Gathers what every view says into one archive, for somebody who cannot look for himself.
//!
//! Each part is what a command of this program prints as JSON, so the archive holds nothing that its
//! owner could not have read before giving it away. Only views are asked: none of them shows a
//! message, a value of a configuration or a secret. A view that fails is part of the answer.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    args::{BundleCommand, CollectArgs},
    context::Context,
    error::CliError,
    exit::Exit,
    interrupt::Interrupt,
    output::{Cell, Screen, Style, Table},
};

/// What is gathered: the name in the archive, and the command.
const PARTS: [(&str, &[&str]); 14] = [
    ("version", &["version"]),
    ("doctor", &["doctor"]),
    ("status", &["status"]),
    ("fleet", &["fleet", "status"]),
    ("agents", &["agent", "list"]),
    ("pipelines", &["pipeline", "list"]),
    ("outboxes", &["outbox", "status"]),
    ("inboxes", &["inbox", "status"]),
    ("locks", &["locks", "list"]),
    ("holds", &["hold", "list"]),
    ("operations", &["operation", "list"]),
    ("rebalance", &["rebalance", "plan", "--dry-run"]),
    ("balance", &["rebalance", "status"]),
    ("events", &["events"]),
];

/// What was written.
#[derive(Debug, Serialize)]
struct Collected {
    file: PathBuf,
    parts: Vec<Part>,
}

/// One part, as the archive's `index.json` has it too.
#[derive(Debug, Serialize)]
struct Part {
    name: &'static str,
    /// As it would be typed.
    command: String,
    exit_code: u8,
    /// Why there is no answer, if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) async fn run(context: &Context, command: BundleCommand) -> Result<Exit, CliError> {
    let BundleCommand::Collect(args) = command;
    collect(context, args).await
}

async fn collect(context: &Context, args: CollectArgs) -> Result<Exit, CliError> {
    let now = OffsetDateTime::now_utc();
    let folder = name(now);
    let file = args
        .file
        .unwrap_or_else(|| PathBuf::from(format!("{folder}.tar.gz")));
    let writing = |error| CliError::io(format!("write {}", file.display()), error);
    // Before anybody is asked anything; only its owner may read what may be told to others later.
    let archive = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => CliError::Conflict {
                message: format!("{} exists already", file.display()),
                hint: "name another file, or remove that one".to_owned(),
            },
            _ => writing(error),
        })?;
    let mut archive = Archive::new(archive, folder, now);
    let mut parts = Vec::with_capacity(PARTS.len());
    for (name, words) in PARTS {
        context
            .screen
            .say_over(&format!("asking: {}", words.join(" ")));
        let (part, answer) = match ask(context, name, words).await {
            Ok(asked) => asked,
            Err(error) => {
                // Half an archive helps nobody.
                drop(fs::remove_file(&file));
                return Err(error);
            }
        };
        if !answer.is_empty() {
            archive
                .add(&format!("{name}.json"), &answer)
                .map_err(writing)?;
        }
        parts.push(part);
    }
    context.screen.say_over("");
    let collected = Collected { file, parts };
    let writing = |error| CliError::io(format!("write {}", collected.file.display()), error);
    let index = serde_json::to_vec_pretty(&collected.parts)
        .map_err(|error| CliError::io("print JSON", io::Error::other(error)))?;
    archive
        .add("index.json", &index)
        .and_then(|()| archive.finish())
        .map_err(writing)?;
    context
        .screen
        .show(&collected, |style| table(&collected, style))?;
    Ok(Exit::Done)
}

/// What a command prints, as JSON. Only that nobody reads our own output any more, or Ctrl-C, is an
/// error here.
async fn ask(
    context: &Context,
    name: &'static str,
    words: &[&str],
) -> Result<(Part, Vec<u8>), CliError> {
    let command = format!("tidectl {}", words.join(" "));
    let cli = crate::parse(
        std::iter::once("tidectl")
            .chain(words.iter().copied())
            .map(Into::into),
    )
    .map_err(|error| CliError::io(command.clone(), io::Error::other(error)))?;
    let (screen, page) = Screen::onto_paper();
    let asked = Context {
        settings: context.settings.clone(),
        screen,
        interrupt: Interrupt::default(),
    };
    // Boxed, because it is a command within a command.
    let answer = Box::pin(super::run(&asked, cli.command)).await;
    let (exit_code, error) = match answer {
        Ok(exit) => (exit.code(), None),
        Err(error @ (CliError::Interrupted | CliError::OutputClosed)) => return Err(error),
        Err(error) => (error.exit().code(), Some(error.to_string())),
    };
    let part = Part {
        name,
        command,
        exit_code,
        error,
    };
    Ok((part, page.read()))
}

/// `tide-bundle-20261121T203201Z`.
fn name(now: OffsetDateTime) -> String {
    let (date, time) = (now.date(), now.time());
    format!(
        "tide-bundle-{}{:02}{:02}T{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// A compressed archive with everything in one folder.
struct Archive<W: Write> {
    files: tar::Builder<GzEncoder<W>>,
    folder: String,
    at: OffsetDateTime,
}

impl<W: Write> Archive<W> {
    fn new(to: W, folder: String, at: OffsetDateTime) -> Self {
        Self {
            files: tar::Builder::new(GzEncoder::new(to, Compression::default())),
            folder,
            at,
        }
    }

    fn add(&mut self, name: &str, text: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.at.unix_timestamp().unsigned_abs());
        let path = Path::new(&self.folder).join(name);
        self.files.append_data(&mut header, path, text)
    }

    fn finish(self) -> io::Result<()> {
        self.files.into_inner()?.finish()?.flush()
    }
}

fn table(collected: &Collected, style: Style) -> String {
    let mut table = Table::new(style, &["PART", "COMMAND", "EXIT", "ERROR"]).with_words_in("ERROR");
    for part in &collected.parts {
        table.row([
            Cell::from(part.name),
            Cell::from(&*part.command),
            Cell::from(part.exit_code.to_string()),
            Cell::from(part.error.as_deref().unwrap_or_default()),
        ]);
    }
    format!(
        "{}\nwritten to {}: read it before you give it away\n",
        table.print(),
        collected.file.display()
    )
}
