//! Outboxes: create, list, publish, drop.

mod waits;

use std::{
    io::{self, Read as _},
    path::Path,
};

use serde::Serialize;
use serde_json::{Value, json};
use tide_catalog::{
    outbox_waits::{outbox_readers, outbox_upkeep},
    outboxes::{self, NewMessage, OutboxStatus},
    preflight::server_facts,
};
use time::OffsetDateTime;

use self::waits::Waits;
use super::catalog;
use crate::{
    args::{OutboxCommand, PublishArgs},
    context::Context,
    error::CliError,
    exit::Exit,
    output::{
        Cell, Style, Table,
        humanize::{bytes, counted, number},
    },
    prompt::confirm,
};

pub(super) async fn run(context: &Context, command: OutboxCommand) -> Result<Exit, CliError> {
    match command {
        OutboxCommand::Create { name, retention } => {
            create(context, &name, retention.as_deref()).await
        }
        OutboxCommand::List | OutboxCommand::Status { name: None } => list(context).await,
        OutboxCommand::Status { name: Some(name) } => status(context, &name).await,
        OutboxCommand::Publish(args) => publish(context, args).await,
        OutboxCommand::Drop { name, yes } => drop_one(context, &name, yes).await,
    }
}

async fn create(context: &Context, name: &str, retention: Option<&str>) -> Result<Exit, CliError> {
    let mut session = catalog::session(context).await?;
    let created = session
        .run(async |connection| Ok(outboxes::outbox_create(connection, name, retention).await?))
        .await;
    created.map_err(|error| {
        error.or_hint("write --retention as a PostgreSQL interval, such as '24 hours'")
    })?;
    context.screen.show(&json!({"outbox": name}), |_| {
        format!("created outbox {name}")
    })?;
    Ok(Exit::Done)
}

async fn list(context: &Context) -> Result<Exit, CliError> {
    let outboxes = read(context).await?;
    show(context, &outboxes)
}

async fn status(context: &Context, name: &str) -> Result<Exit, CliError> {
    let outbox = find(read(context).await?, name)?;
    let mut session = catalog::session(context).await?;
    let (readers, upkeep, server) = session
        .run(async |connection| {
            let readers = outbox_readers(connection, name).await?;
            let upkeep = outbox_upkeep(connection, name).await?;
            Ok((readers, upkeep, server_facts(connection).await?))
        })
        .await?;
    let waits = Waits::new(outbox, readers, upkeep, &server);
    let now = OffsetDateTime::now_utc();
    context
        .screen
        .show(&waits, |style| waits::screen(style, &waits, now))?;
    Ok(Exit::Done)
}

async fn drop_one(context: &Context, name: &str, yes: bool) -> Result<Exit, CliError> {
    let outbox = find(read(context).await?, name)?;
    let messages = match outbox.messages {
        0 => "its messages".to_owned(),
        messages => format!("about {}", counted(messages as usize, "message")),
    };
    confirm(
        context,
        yes.into(),
        &format!("drop outbox {name} and {messages}"),
    )
    .await?;
    let mut session = catalog::session(context).await?;
    session
        .run(async |connection| Ok(outboxes::outbox_drop(connection, name).await?))
        .await?;
    context.screen.show(&json!({"outbox": name}), |_| {
        format!("dropped outbox {name}")
    })?;
    Ok(Exit::Done)
}

async fn publish(context: &Context, args: PublishArgs) -> Result<Exit, CliError> {
    let headers = args.headers.as_deref().unwrap_or("{}");
    let message = NewMessage {
        payload: parse("--payload", &payload_text(&args.payload)?)?,
        headers: parse("--headers", headers)?,
        outbox: args.name,
        key: args.key,
        event_id: args.event_id,
    };
    let mut session = catalog::session(context).await?;
    let event_id = session
        .run(async |connection| Ok(outboxes::outbox_publish(connection, &message).await?))
        .await?;
    context
        .screen
        .show(&json!({"event_id": event_id}), |_| event_id.to_string())?;
    Ok(Exit::Done)
}

/// The payload itself, or what `@FILE` or `-` holds.
fn payload_text(argument: &str) -> Result<String, CliError> {
    if argument == "-" {
        let mut text = String::new();
        return io::stdin()
            .read_to_string(&mut text)
            .map(|_| text)
            .map_err(|error| CliError::io("read the payload from standard input", error));
    }
    match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(Path::new(path))
            .map_err(|error| CliError::io(format!("read {path}"), error)),
        None => Ok(argument.to_owned()),
    }
}

fn parse(flag: &str, text: &str) -> Result<Value, CliError> {
    serde_json::from_str(text).map_err(|error| {
        CliError::usage(
            format!("{flag} is not JSON: {error}"),
            format!("quote it for the shell, for example {flag} '{{\"id\": 7}}'"),
        )
    })
}

/// One outbox, as printed.
#[derive(Serialize)]
struct Outbox {
    name: String,
    pipelines: i64,
    /// By the server's statistics.
    messages: i64,
    last_id: i64,
    size_bytes: i64,
    retention: String,
    slowest_pipeline: Option<String>,
    slowest_position: Option<i64>,
}

impl From<OutboxStatus> for Outbox {
    fn from(status: OutboxStatus) -> Self {
        Self {
            name: status.outbox,
            pipelines: status.pipelines,
            messages: status.messages_estimate,
            last_id: status.last_id,
            size_bytes: status.size_bytes,
            retention: status.retention,
            slowest_pipeline: status.slowest_pipeline,
            slowest_position: status.slowest_position,
        }
    }
}

async fn read(context: &Context) -> Result<Vec<Outbox>, CliError> {
    let mut session = catalog::session(context).await?;
    let found = session
        .run(async |connection| Ok(outboxes::outbox_status(connection, None).await?))
        .await?;
    Ok(found.into_iter().map(Outbox::from).collect())
}

fn find(mut outboxes: Vec<Outbox>, name: &str) -> Result<Outbox, CliError> {
    let Some(index) = outboxes.iter().position(|outbox| outbox.name == name) else {
        let known: Vec<&str> = outboxes.iter().map(|outbox| outbox.name.as_str()).collect();
        let advice = format!("create it with: tidectl outbox create {name}");
        return Err(CliError::unknown("outbox", name, &known, &advice));
    };
    Ok(outboxes.swap_remove(index))
}

fn show(context: &Context, outboxes: &[Outbox]) -> Result<Exit, CliError> {
    context
        .screen
        .show(&outboxes, |style| table(style, outboxes))?;
    Ok(Exit::Done)
}

fn table(style: Style, outboxes: &[Outbox]) -> String {
    let heading = [
        "OUTBOX",
        "PIPES",
        "MESSAGES",
        "LAST ID",
        "SIZE",
        "RETENTION",
        "SLOWEST",
    ];
    let mut table = Table::new(style, &heading);
    for outbox in outboxes {
        let slowest = outbox
            .slowest_pipeline
            .as_ref()
            .map(|pipeline| format!("{pipeline} at {}", outbox.slowest_position.unwrap_or(0)));
        table.row([
            Cell::from(outbox.name.as_str()),
            Cell::from(outbox.pipelines.to_string()),
            Cell::from(format!("~{}", number(outbox.messages.max(0) as u64))),
            Cell::from(outbox.last_id.to_string()),
            Cell::from(bytes(outbox.size_bytes.max(0) as u64)),
            Cell::from(outbox.retention.as_str()),
            Cell::or_dash(slowest),
        ]);
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_is_no_json_says_where_it_goes_wrong() {
        let error = parse("--payload", "{id: 7}").unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().contains("line 1 column 2"), "{error}");
    }

    #[test]
    fn a_payload_file_that_is_missing_is_named() {
        let error = payload_text("@/nowhere/payload.json").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("could not read /nowhere/payload.json: "),
            "{error}"
        );
    }

    #[test]
    fn the_table_shows_who_holds_the_messages_up() {
        let outbox = Outbox {
            name: "order_events".to_owned(),
            pipelines: 2,
            messages: 1_204,
            last_id: 99_318,
            size_bytes: 8_192,
            retention: "24:00:00".to_owned(),
            slowest_pipeline: Some("orders".to_owned()),
            slowest_position: Some(99_001),
        };
        insta::assert_snapshot!(table(Style::plain(), &[outbox]), @r"
        OUTBOX        PIPES  MESSAGES  LAST ID  SIZE     RETENTION  SLOWEST
        order_events  2      ~1,204    99318    8.0 KiB  24:00:00   orders at 99001
        ");
    }
}
