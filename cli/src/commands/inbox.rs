//! Inboxes: create, list, drop. What puts messages into them is a pipeline, and what takes them
//! out is an application.

use serde::Serialize;
use serde_json::json;
use tide_catalog::inboxes::{self, InboxStatus};
use time::OffsetDateTime;

use super::catalog;
use crate::{
    args::InboxCommand,
    context::Context,
    error::CliError,
    exit::Exit,
    output::{
        Cell, Style, Table,
        humanize::{age, bytes, counted, number},
    },
    prompt::confirm,
};

pub(super) async fn run(context: &Context, command: InboxCommand) -> Result<Exit, CliError> {
    match command {
        InboxCommand::Create { name, retention } => {
            create(context, &name, retention.as_deref()).await
        }
        InboxCommand::List | InboxCommand::Status { name: None } => {
            show(context, &read(context).await?)
        }
        InboxCommand::Status { name: Some(name) } => {
            show(context, &[find(read(context).await?, &name)?])
        }
        InboxCommand::Drop { name, yes } => drop_one(context, &name, yes).await,
    }
}

async fn create(context: &Context, name: &str, retention: Option<&str>) -> Result<Exit, CliError> {
    let mut session = catalog::session(context).await?;
    let created = session
        .run(async |connection| Ok(inboxes::inbox_create(connection, name, retention).await?))
        .await;
    created.map_err(|error| {
        error.or_hint("write --retention as a PostgreSQL interval, such as '72 hours'")
    })?;
    context
        .screen
        .show(&json!({"inbox": name}), |_| format!("created inbox {name}"))?;
    Ok(Exit::Done)
}

async fn drop_one(context: &Context, name: &str, yes: bool) -> Result<Exit, CliError> {
    let inbox = find(read(context).await?, name)?;
    let messages = match inbox.pending {
        0 => "nothing waits in it".to_owned(),
        pending => format!(
            "{} in it not processed",
            counted(pending as usize, "message")
        ),
    };
    let what = format!("drop inbox {name} ({messages})");
    confirm(context, yes.into(), &what).await?;
    let mut session = catalog::session(context).await?;
    session
        .run(async |connection| Ok(inboxes::inbox_drop(connection, name).await?))
        .await?;
    context
        .screen
        .show(&json!({"inbox": name}), |_| format!("dropped inbox {name}"))?;
    Ok(Exit::Done)
}

/// One inbox, as printed.
#[derive(Serialize)]
struct Inbox {
    name: String,
    /// Not processed.
    pending: i64,
    /// Not processed, although it was tried.
    failed: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    oldest_pending: Option<OffsetDateTime>,
    /// By the server's statistics.
    messages: i64,
    last_id: i64,
    size_bytes: i64,
    retention: String,
}

impl From<InboxStatus> for Inbox {
    fn from(status: InboxStatus) -> Self {
        Self {
            name: status.inbox,
            pending: status.pending,
            failed: status.failed,
            oldest_pending: status.oldest_pending,
            messages: status.messages_estimate,
            last_id: status.last_id,
            size_bytes: status.size_bytes,
            retention: status.retention,
        }
    }
}

async fn read(context: &Context) -> Result<Vec<Inbox>, CliError> {
    let mut session = catalog::session(context).await?;
    let found = session
        .run(async |connection| Ok(inboxes::inbox_status(connection).await?))
        .await?;
    Ok(found.into_iter().map(Inbox::from).collect())
}

fn find(mut inboxes: Vec<Inbox>, name: &str) -> Result<Inbox, CliError> {
    let Some(index) = inboxes.iter().position(|inbox| inbox.name == name) else {
        let known: Vec<&str> = inboxes.iter().map(|inbox| inbox.name.as_str()).collect();
        let advice = format!("create it with: tidectl inbox create {name}");
        return Err(CliError::unknown("inbox", name, &known, &advice));
    };
    Ok(inboxes.swap_remove(index))
}

fn show(context: &Context, inboxes: &[Inbox]) -> Result<Exit, CliError> {
    let now = OffsetDateTime::now_utc();
    context
        .screen
        .show(&inboxes, |style| table(style, inboxes, now))?;
    Ok(Exit::Done)
}

fn table(style: Style, inboxes: &[Inbox], now: OffsetDateTime) -> String {
    let mut heading = vec![
        "INBOX",
        "PENDING",
        "FAILED",
        "OLDEST",
        "MESSAGES",
        "SIZE",
        "RETENTION",
    ];
    if style.is_wide() {
        heading.push("LAST ID");
    }
    let mut table = Table::new(style, &heading);
    for inbox in inboxes {
        let mut row = vec![
            Cell::from(inbox.name.as_str()),
            Cell::from(number(inbox.pending.max(0) as u64)),
            Cell::from(number(inbox.failed.max(0) as u64)),
            Cell::or_dash(inbox.oldest_pending.map(|oldest| age(oldest, now))),
            Cell::from(format!("~{}", number(inbox.messages.max(0) as u64))),
            Cell::from(bytes(inbox.size_bytes.max(0) as u64)),
            Cell::from(inbox.retention.as_str()),
        ];
        if style.is_wide() {
            row.push(Cell::from(inbox.last_id.to_string()));
        }
        table.row(row);
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_what_waits_and_since_when() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(7);
        let inbox = |name: &str, pending| Inbox {
            name: name.to_owned(),
            pending,
            failed: pending / 100,
            oldest_pending: (pending > 0).then_some(OffsetDateTime::UNIX_EPOCH),
            messages: 12_000,
            last_id: 12_345,
            size_bytes: 8_192,
            retention: "72:00:00".to_owned(),
        };
        let inboxes = [inbox("orders", 1_204), inbox("invoices", 0)];
        insta::assert_snapshot!(table(Style::plain(), &inboxes, now), @r"
        INBOX     PENDING  FAILED  OLDEST  MESSAGES  SIZE     RETENTION
        orders    1,204    12      7m      ~12,000   8.0 KiB  72:00:00
        invoices  0        0       -       ~12,000   8.0 KiB  72:00:00
        ");
    }
}
