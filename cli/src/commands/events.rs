//! What happened: the audit, straight from PostgreSQL. Needs no control plane.

use std::time::Duration;

use tide_catalog::events::{Filter, Recorded, event_follow, event_list};
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;

use crate::{
    args::EventsArgs,
    context::Context,
    error::CliError,
    exit::Exit,
    output::{Cell, Style, Table, Tone},
    source::Session,
};

/// How often whoever follows looks.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn run(context: &Context, args: EventsArgs) -> Result<Exit, CliError> {
    let settings = &context.settings;
    let mut session = Session::open(settings.server()?, settings.timeout).await?;
    let filter = Filter {
        since: args.since,
        kind: args.kind,
        subject: args.subject,
        actor: args.by,
    };
    let group = &settings.group;
    let list = async |connection: &mut tide_catalog::PgConnection| {
        // One more than fits tells whether there are more.
        Ok(event_list(connection, group, &filter, args.limit + 1).await?)
    };
    let (mut events, mut seen) = session.run(list).await?;
    let more = events.len() > args.limit as usize;
    if more {
        events.remove(0);
        context.screen.say(format_args!(
            "the newest {} of the past; more with --limit",
            args.limit
        ));
    }
    if !args.follow {
        context
            .screen
            .show(&events, |style| text(style, &events, Heading::Shown))?;
        return Ok(Exit::Done);
    }
    let mut heading = Heading::Shown;
    loop {
        // A table is drawn in parts, each as wide as its own rows; the others line by line.
        if context.screen.is_table() {
            if !events.is_empty() || heading == Heading::Shown {
                context
                    .screen
                    .show_next(&events, |style| text(style, &events, heading))?;
                heading = Heading::Left;
            }
        } else {
            for event in &events {
                context.screen.show_next(event, |_| String::new())?;
            }
        }
        sleep(LOOK).await;
        let follow = async |connection: &mut tide_catalog::PgConnection| {
            Ok(event_follow(connection, group, &filter, &seen).await?)
        };
        match session.run(follow).await {
            Ok(next) => (events, seen) = next,
            // What was seen is known, so nothing is missed by asking again.
            Err(error) if error.is_transient() => events = Vec::new(),
            Err(error) => return Err(error),
        }
    }
}

/// Whether the columns are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heading {
    Shown,
    Left,
}

fn text(style: Style, events: &[Recorded], heading: Heading) -> String {
    let mut table =
        Table::new(style, &["TIME", "EVENT", "SUBJECT", "BY", "WHAT"]).with_words_in("WHAT");
    for event in events {
        let at = event.at.replace_nanosecond(0).unwrap_or(event.at);
        table.row([
            Cell::from(at.format(&Rfc3339).unwrap_or_default()),
            Cell::toned(&event.kind, tone(event)),
            Cell::from(event.subject.as_str()),
            Cell::from(by(event)),
            Cell::or_dash(what(event)),
        ]);
    }
    let printed = table.print();
    match heading {
        Heading::Shown => printed,
        Heading::Left => printed
            .split_once('\n')
            .map_or_else(String::new, |(_, rows)| rows.to_owned()),
    }
}

/// The actor, and whether that is proven.
fn by(event: &Recorded) -> String {
    match event.authenticated_by.as_str() {
        "" => event.actor.clone(),
        proof => format!("{} ({proof})", event.actor),
    }
}

/// Why, how it ended, and from whom where something changed hands.
fn what(event: &Recorded) -> Option<String> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let outcome = some(&event.outcome).filter(|outcome| outcome != "ok");
    let from = event.detail["from"]
        .as_str()
        .map(|from| format!("from {from}"));
    let parts: Vec<String> = [some(&event.reason), outcome, from]
        .into_iter()
        .flatten()
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn tone(event: &Recorded) -> Tone {
    if event.kind == "command.denied" || event.kind.ends_with(".failed") {
        Tone::Bad
    } else if event.kind.starts_with("command.") && event.outcome != "ok" {
        Tone::Uneasy
    } else {
        Tone::Good
    }
}
