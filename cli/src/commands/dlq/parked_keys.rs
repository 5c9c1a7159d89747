//! Keys that are parked.

use serde::Serialize;
use tide_catalog::parking::{ParkedKey, parked_key_list};
use time::OffsetDateTime;

use super::super::catalog;
use crate::{
    context::Context,
    error::CliError,
    exit::Exit,
    output::{Cell, Style, Table, humanize::age},
};

/// One parked key, as printed.
#[derive(Serialize)]
struct Row {
    pipeline: String,
    key: String,
    /// How many letters of it there are, the refused one among them.
    letters: i64,
    first_letter: i64,
    error: String,
    attempts: i32,
    #[serde(with = "time::serde::rfc3339")]
    parked_at: OffsetDateTime,
    /// How many of the letters are being delivered again.
    replaying: i64,
}

impl From<ParkedKey> for Row {
    fn from(key: ParkedKey) -> Self {
        Self {
            pipeline: key.name,
            key: key.key,
            letters: key.letters,
            first_letter: key.first_letter,
            error: key.error,
            attempts: key.attempts,
            parked_at: key.parked_at,
            replaying: key.replaying,
        }
    }
}

/// Prints the parked keys, the oldest first.
pub(super) async fn list(
    context: &Context,
    pipeline: Option<&str>,
    limit: i64,
) -> Result<Exit, CliError> {
    let mut session = catalog::session(context).await?;
    let group = &context.settings.group;
    let found = session
        .run(async |connection| Ok(parked_key_list(connection, group, pipeline, limit).await?))
        .await?;
    let keys: Vec<Row> = found.into_iter().map(Row::from).collect();
    let now = OffsetDateTime::now_utc();
    context
        .screen
        .show(&keys, |style| table(style, &keys, now))?;
    if keys.len() as i64 == limit {
        context
            .screen
            .say(format!("the first {limit}; more with --limit"));
    }
    Ok(Exit::Done)
}

fn table(style: Style, keys: &[Row], now: OffsetDateTime) -> String {
    let heading = [
        "PIPELINE", "KEY", "LETTERS", "FIRST", "PARKED", "TRIES", "ERROR",
    ];
    let mut table = Table::new(style, &heading).with_words_in("ERROR");
    for key in keys {
        let error = match key.replaying {
            0 => key.error.clone(),
            letters => format!("({letters} to be delivered again) {}", key.error),
        };
        table.row([
            Cell::from(key.pipeline.as_str()),
            Cell::from(key.key.as_str()),
            Cell::from(key.letters.to_string()),
            Cell::from(key.first_letter.to_string()),
            Cell::from(age(key.parked_at, now)),
            Cell::from(key.attempts.to_string()),
            Cell::from(error),
        ]);
    }
    table.print()
}
