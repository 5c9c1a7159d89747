//! The fleet on one screen, once or again and again.

use std::time::Duration;

use tide_model::fleet::{AgentView, FleetView};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};

use crate::{
    args::FleetCommand,
    context::Context,
    error::CliError,
    exit::Exit,
    output::views::{self, FleetStatus},
    select::Selection,
    source::{self, Source},
};

/// A terminal shows ages, which change by themselves.
const REDRAW: Duration = Duration::from_secs(1);

pub(super) async fn run(context: &Context, command: &FleetCommand) -> Result<Exit, CliError> {
    match command {
        FleetCommand::Status { watch, select } => {
            let selection = Selection::parse(select)?;
            if *watch {
                self::watch(context, &selection).await
            } else {
                status(context, &selection).await
            }
        }
    }
}

/// A fleet of which only the agents are left that were asked for, and how many there were.
struct Chosen {
    fleet: FleetView,
    agents: usize,
}

impl Chosen {
    fn of(mut fleet: FleetView, selection: &Selection<AgentView>) -> Self {
        let agents = fleet.agents.len();
        selection.apply(&mut fleet.agents, OffsetDateTime::now_utc());
        Self { fleet, agents }
    }

    fn status(&self, kind: &'static str) -> FleetStatus<'_> {
        FleetStatus::of_chosen(kind, &self.fleet, self.agents)
    }
}

async fn status(context: &Context, selection: &Selection<AgentView>) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let chosen = Chosen::of(source.fleet().await?, selection);
    let status = chosen.status(source.kind());
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
async fn watch(context: &Context, selection: &Selection<AgentView>) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let mut shown = None;
    loop {
        let Err(error) = watch_source(context, &mut source, selection, &mut shown).await;
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
    selection: &Selection<AgentView>,
    shown: &mut Option<Chosen>,
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
                if let Some(chosen) = shown.as_ref().filter(|_| context.screen.redraws()) {
                    draw(context, &chosen.status(kind), &label)?;
                }
            }
        };
        let chosen = Chosen::of(fleet, selection);
        let before = shown.as_ref().map(|before| &before.fleet);
        let news = before.is_none_or(|before| !is_same(before, &chosen.fleet));
        let status = chosen.status(kind);
        if context.screen.redraws() {
            draw(context, &status, &label)?;
        } else if news {
            let now = OffsetDateTime::now_utc();
            context
                .screen
                .show_next(&status, |style| views::fleet(style, &status, &label, now))?;
        }
        *shown = Some(chosen);
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
