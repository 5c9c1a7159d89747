//! Dead letters: look, have them delivered again, discard. Owners deliver; this only asks them to.

mod parked_keys;

use serde::Serialize;
use serde_json::{Value, json};
use tide_catalog::{
    dead_letters::{
        LetterFilter, StoredLetter, dead_letter_count, dead_letter_discard, dead_letter_list,
        dead_letter_replay,
    },
    intent::Actor,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::catalog;
use crate::{
    args::{DiscardArgs, DlqCommand, FilterArgs, ReplayArgs},
    context::Context,
    error::CliError,
    exit::Exit,
    output::{
        Cell, Style, Table,
        humanize::{age, counted, listed, timestamp},
    },
    prompt::{Consent, confirm},
};

/// More letters than this are replayed after a question only.
const MANY: i64 = 10;

pub(super) async fn run(context: &Context, command: DlqCommand) -> Result<Exit, CliError> {
    match command {
        DlqCommand::List { filter, limit } => list(context, &filter.into(), limit).await,
        DlqCommand::Keys { pipeline, limit } => {
            parked_keys::list(context, pipeline.as_deref(), limit).await
        }
        DlqCommand::Show { id } => show(context, id).await,
        DlqCommand::Replay(args) => replay(context, args).await,
        DlqCommand::Discard(args) => discard(context, args).await,
    }
}

impl From<FilterArgs> for LetterFilter {
    fn from(args: FilterArgs) -> Self {
        Self {
            pipeline: args.pipeline,
            key: args.key,
            error: args.error,
            since: args.since,
            until: args.until,
            ids: args.ids,
        }
    }
}

/// One dead letter, as printed.
#[derive(Serialize)]
struct Letter {
    id: i64,
    pipeline: String,
    outbox: String,
    message_id: i64,
    event_id: Uuid,
    key: Option<String>,
    error: String,
    attempts: i32,
    #[serde(with = "time::serde::rfc3339")]
    refused_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    published_at: Option<OffsetDateTime>,
    /// The replay that is to deliver it again.
    replay: Option<i64>,
    /// Whether later messages of its key wait behind it.
    parked: bool,
    headers: Value,
    payload: Value,
}

impl From<StoredLetter> for Letter {
    fn from(letter: StoredLetter) -> Self {
        Self {
            id: letter.id,
            pipeline: letter.pipeline,
            outbox: letter.outbox,
            message_id: letter.message_id,
            event_id: letter.event_id,
            key: letter.key,
            error: letter.error,
            attempts: letter.attempts,
            refused_at: letter.created_at,
            published_at: letter.published_at,
            replay: letter.replay,
            parked: letter.parked,
            headers: letter.headers,
            payload: letter.payload,
        }
    }
}

async fn read(
    context: &Context,
    filter: &LetterFilter,
    limit: i64,
) -> Result<Vec<Letter>, CliError> {
    let mut session = catalog::session(context).await?;
    let found = session
        .run(async |connection| {
            Ok(dead_letter_list(connection, &context.settings.group, filter, limit).await?)
        })
        .await?;
    Ok(found.into_iter().map(Letter::from).collect())
}

async fn list(context: &Context, filter: &LetterFilter, limit: i64) -> Result<Exit, CliError> {
    let letters = read(context, filter, limit).await?;
    let now = OffsetDateTime::now_utc();
    context
        .screen
        .show(&letters, |style| table(style, &letters, now))?;
    if letters.len() as i64 == limit {
        context
            .screen
            .say(format!("the first {limit}; more with --limit"));
    }
    Ok(Exit::Done)
}

async fn show(context: &Context, id: i64) -> Result<Exit, CliError> {
    let filter = LetterFilter {
        ids: vec![id],
        ..LetterFilter::default()
    };
    let letter = read(context, &filter, 1).await?.pop().ok_or_else(|| {
        let advice = "list them with: tidectl dlq list";
        CliError::unknown("dead letter", &id.to_string(), &[], advice)
    })?;
    let now = OffsetDateTime::now_utc();
    context.screen.show(&letter, |_| whole(&letter, now))?;
    Ok(Exit::Done)
}

async fn replay(context: &Context, args: ReplayArgs) -> Result<Exit, CliError> {
    let filter = chosen(args.filter, args.all, "replay")?;
    let (letters, pipelines) = count(context, &filter).await?;
    if args.dry_run || letters == 0 {
        return foretell(context, letters, &pipelines, "delivered again");
    }
    let consent = match Consent::from(args.yes) {
        Consent::Wanted if letters > MANY => Consent::Wanted,
        _ => Consent::Given,
    };
    let what = format!("deliver {} again", counted(letters as usize, "dead letter"));
    confirm(context, consent, &what).await?;
    let actor = actor(context, args.reason);
    let mut session = catalog::session(context).await?;
    let group = &context.settings.group;
    let started = session
        .run(async |connection| {
            Ok(dead_letter_replay(connection, group, &filter, args.rate, &actor).await?)
        })
        .await?;
    let data: Vec<Value> = started
        .iter()
        .map(|one| json!({"pipeline": one.name, "replay": one.replay, "letters": one.letters}))
        .collect();
    context.screen.show(&data, |_| {
        let lines = started.iter().map(|one| {
            let letters = counted(one.letters as usize, "dead letter");
            format!("{}: {letters} to be delivered again", one.name)
        });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    if started.is_empty() {
        context.screen.say("they are being delivered again already");
    }
    Ok(Exit::Done)
}

async fn discard(context: &Context, args: DiscardArgs) -> Result<Exit, CliError> {
    let filter = chosen(args.filter, args.all, "discard")?;
    let (letters, pipelines) = count(context, &filter).await?;
    if args.dry_run || letters == 0 {
        return foretell(context, letters, &pipelines, "deleted");
    }
    let what = format!(
        "delete {} for good",
        counted(letters as usize, "dead letter")
    );
    confirm(context, args.yes.into(), &what).await?;
    let actor = actor(context, args.reason);
    let mut session = catalog::session(context).await?;
    let group = &context.settings.group;
    let discarded = session
        .run(async |connection| Ok(dead_letter_discard(connection, group, &filter, &actor).await?))
        .await?;
    context.screen.show(&json!({"discarded": discarded}), |_| {
        format!("deleted {}", counted(discarded as usize, "dead letter"))
    })?;
    Ok(Exit::Done)
}

/// A filter that leaves nothing out is more often a slip than a wish.
fn chosen(args: FilterArgs, all: bool, verb: &str) -> Result<LetterFilter, CliError> {
    let filter = LetterFilter::from(args);
    if (filter == LetterFilter::default()) != all {
        let hint = "give --pipeline, --key, --error, --since, --until or --id, or else --all";
        return Err(CliError::usage(
            format!("which dead letters to {verb} is not clear"),
            hint,
        ));
    }
    Ok(filter)
}

async fn count(
    context: &Context,
    filter: &LetterFilter,
) -> Result<(i64, Vec<(String, i64)>), CliError> {
    let mut session = catalog::session(context).await?;
    let group = &context.settings.group;
    let pipelines = session
        .run(async |connection| Ok(dead_letter_count(connection, group, filter).await?))
        .await?;
    let letters = pipelines.iter().map(|(_, letters)| letters).sum();
    Ok((letters, pipelines))
}

fn foretell(
    context: &Context,
    letters: i64,
    pipelines: &[(String, i64)],
    fate: &str,
) -> Result<Exit, CliError> {
    let by_pipeline: serde_json::Map<String, Value> = pipelines
        .iter()
        .map(|(pipeline, letters)| (pipeline.clone(), json!(letters)))
        .collect();
    let data = json!({"letters": letters, "pipelines": by_pipeline});
    context.screen.show(&data, |_| {
        if letters == 0 {
            return "no dead letter fits".to_owned();
        }
        let names: Vec<&str> = pipelines.iter().map(|(name, _)| name.as_str()).collect();
        let letters = counted(letters as usize, "dead letter");
        format!("{letters} of {} would be {fate}", listed(&names))
    })?;
    Ok(Exit::Done)
}

fn actor(context: &Context, reason: String) -> Actor {
    Actor {
        name: context.settings.actor.clone(),
        reason,
    }
}

fn table(style: Style, letters: &[Letter], now: OffsetDateTime) -> String {
    let mut heading = vec!["ID", "PIPELINE", "MESSAGE", "KEY", "AGE", "TRIES", "ERROR"];
    if style.is_wide() {
        heading.extend(["OUTBOX", "EVENT ID", "PUBLISHED"]);
    }
    let mut table = Table::new(style, &heading).with_words_in("ERROR");
    for letter in letters {
        let error = match (letter.replay, letter.parked) {
            (Some(_), _) => format!("(to be delivered again) {}", letter.error),
            (None, true) => format!("(key is parked) {}", letter.error),
            (None, false) => letter.error.clone(),
        };
        let mut row = vec![
            Cell::from(letter.id.to_string()),
            Cell::from(letter.pipeline.as_str()),
            Cell::from(letter.message_id.to_string()),
            Cell::or_dash(letter.key.as_deref()),
            Cell::from(age(letter.refused_at, now)),
            Cell::from(letter.attempts.to_string()),
            Cell::from(error),
        ];
        if style.is_wide() {
            row.extend([
                Cell::from(letter.outbox.as_str()),
                Cell::from(letter.event_id.to_string()),
                Cell::or_dash(letter.published_at.map(timestamp)),
            ]);
        }
        table.row(row);
    }
    table.print()
}

fn whole(letter: &Letter, now: OffsetDateTime) -> String {
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    let published = letter.published_at.map_or_else(
        || "unknown".to_owned(),
        |at| format!("{} ago", age(at, now)),
    );
    format!(
        "letter     {}\npipeline   {}\nmessage    {} of {}\nevent id   {}\nkey        {}\npublished  {published}\n\
         refused    {} ago, tried {}\nerror      {}\nheaders    {}\npayload    {}",
        letter.id,
        letter.pipeline,
        letter.message_id,
        letter.outbox,
        letter.event_id,
        letter.key.as_deref().unwrap_or("-"),
        age(letter.refused_at, now),
        counted(letter.attempts.max(0) as usize, "time"),
        letter.error,
        pretty(&letter.headers),
        pretty(&letter.payload),
    )
}
