//! The fleet on one screen, once or again and again.

use std::time::Duration;

use tide_model::fleet::FleetView;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};

use crate::{
    args::FleetCommand,
    context::Context,
    error::CliError,
    exit::Exit,
    output::views::{self, FleetStatus},
    source::{self, Source},
};

/// A terminal shows ages, which change by themselves.
const REDRAW: Duration = Duration::from_secs(1);

pub(super) async fn run(context: &Context, command: &FleetCommand) -> Result<Exit, CliError> {
    match command {
        FleetCommand::Status { watch: false } => status(context).await,
        FleetCommand::Status { watch: true } => watch(context).await,
    }
}

async fn status(context: &Context) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let fleet = source.fleet().await?;
    let status = FleetStatus::new(source.kind(), &fleet);
    let (label, now) = (source.label(), OffsetDateTime::now_utc());
    context
        .screen
        .show(&status, |style| views::fleet(style, &status, &label, now))?;
    Ok(if status.healthy {
        Exit::Done
    } else {
        Exit::Pending
    })
}

/// Ends only by Ctrl-C, or when nobody reads any more. A source that goes away is looked for again.
async fn watch(context: &Context) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let mut shown = None;
    loop {
        let Err(error) = watch_source(context, &mut source, &mut shown).await;
        if !error.is_transient() {
            return Err(error);
        }
        context
            .screen
            .say(format_args!("{error}; looking for it again"));
        source = source::reconnect(context).await?;
    }
}

async fn watch_source(
    context: &Context,
    source: &mut Source,
    shown: &mut Option<FleetView>,
) -> Result<std::convert::Infallible, CliError> {
    let (kind, label) = (source.kind(), source.label());
    let mut watch = source.fleet_watch().await?;
    loop {
        let fleet = {
            let mut next = std::pin::pin!(watch.next());
            loop {
                let redraw_at = Instant::now() + REDRAW;
                tokio::select! {
                    biased;
                    fleet = &mut next => break fleet?,
                    () = sleep_until(redraw_at) => {}
                }
                if let Some(fleet) = shown.as_ref().filter(|_| context.screen.redraws()) {
                    draw(context, &FleetStatus::new(kind, fleet), &label)?;
                }
            }
        };
        let news = shown.as_ref().is_none_or(|before| !is_same(before, &fleet));
        let status = FleetStatus::new(kind, &fleet);
        if context.screen.redraws() {
            draw(context, &status, &label)?;
        } else if news {
            let now = OffsetDateTime::now_utc();
            context
                .screen
                .show_next(&status, |style| views::fleet(style, &status, &label, now))?;
        }
        *shown = Some(fleet);
    }
}

fn draw(context: &Context, status: &FleetStatus<'_>, label: &str) -> Result<(), CliError> {
    let now = OffsetDateTime::now_utc();
    context
        .screen
        .redraw(&views::fleet(context.screen.style(), status, label, now))
}

/// Whether two views differ in nothing but when they were read.
fn is_same(before: &FleetView, after: &FleetView) -> bool {
    let undated = FleetView {
        database_at: after.database_at,
        revision: after.revision,
        ..before.clone()
    };
    undated == *after
}
