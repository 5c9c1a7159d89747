//! `tidectl dev`: a whole fleet on this machine, with one command and nothing to install but
//! PostgreSQL's programs.
//!
//! ```text
//! publisher ──▶ PostgreSQL ──▶ agents relay-1, -2, … ──▶ Kafka (mock), webhooks, files, null
//!                   ▲  control plane ◀──┘                        │
//!                   └── fleet view, drain ── tour ◀── lookout ◀──┘
//! ```
//!
//! Agents, control plane, broker and PostgreSQL are processes that can be killed and frozen; the
//! publisher, the webhooks' endpoint and the judge are in this one. Everything lives in a directory
//! of its own and goes with it; what `kill -9` leaves behind is swept by the next start.

mod accounts;
mod agents;
mod args;
mod control;
mod document;
mod fleet;
mod pipelines;
mod report;
mod stay;
mod stop;
mod story;
mod surroundings;
mod tour;

use std::{io, time::Duration};

use tide_sandbox::{
    binaries::BinaryNotFound,
    kafka::serve_mock_broker,
    publisher::{PublishPlan, Shape},
};

pub use self::args::{DevArgs, DevBrokerArgs, Scenario};
use self::{document::Document, fleet::Fleet, pipelines::OUTBOXES, stop::Stop, story::Story};
use crate::{context::Context, error::CliError, exit::Exit};

/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a fleet, and plays a scenario with it or stays until it is told to stop.
pub(crate) async fn run(context: &Context, args: &DevArgs) -> Result<Exit, CliError> {
    args.check()?;
    let mut stop = Stop::listen(&context.interrupt)?;
    let mut story = Story::begin(&context.screen);
    let starting = Box::pin(Fleet::start(args, &context.settings.group, &mut story));
    let Some(started) = stop.unless(starting).await else {
        return Err(CliError::Interrupted);
    };
    let mut fleet = started.map_err(|error| failed("start the fleet", error))?;
    let took = story.elapsed().as_secs_f64();
    story.tell(format_args!("ready after {took:.1} s"));

    let plan = plan(args);
    let outcome = match args.scenario {
        None => stay::stay(context, &mut fleet, &mut story, plan, &mut stop)
            .await
            .map(|()| Exit::Done)
            .map_err(|error| failed("watch the fleet", error)),
        Some(Scenario::Tour) => {
            tour(context, &mut fleet, &mut story, plan, args.rate, &mut stop).await
        }
    };
    end(fleet, &mut story, args, outcome).await
}

/// Every shape of transaction, as fast as was asked for.
fn plan(args: &DevArgs) -> PublishPlan {
    let mixed = PublishPlan::mixed(OUTBOXES);
    // A bulk counts for as many messages as it has: it must not silence the publisher for long.
    let largest = u16::try_from(args.rate / 2).unwrap_or(u16::MAX).max(2);
    let shapes = mixed.shapes.into_iter().map(|(shape, weight)| match shape {
        Shape::Bulk(count) => (Shape::Bulk(count.min(largest)), weight),
        other => (other, weight),
    });
    PublishPlan {
        // Short enough to be typed again.
        seed: args.seed.unwrap_or(mixed.seed % 1_000_000),
        rate: Some(f64::from(args.rate)),
        shapes: shapes.collect(),
        ..mixed
    }
}

/// Is a mock broker until it is told to end.
pub(crate) async fn run_broker(args: &DevBrokerArgs) -> Result<Exit, CliError> {
    serve_mock_broker(&args.topics)
        .await
        .map(|()| Exit::Done)
        .map_err(|error| failed("serve as a broker", error.into()))
}

async fn tour(
    context: &Context,
    fleet: &mut Fleet,
    story: &mut Story,
    plan: PublishPlan,
    rate: u32,
    stop: &mut Stop,
) -> Result<Exit, CliError> {
    let Some(played) = stop
        .unless(Box::pin(tour::play(fleet, story, plan, rate)))
        .await
    else {
        return Err(CliError::Interrupted);
    };
    let report = played.map_err(|error| failed("finish the tour", error))?;
    let document = Document::new(&report);
    context
        .screen
        .show(&document, |style| report::text(style, &report))?;
    Ok(if report.is_clean() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Stops the fleet in good order. What led here is told even if that fails.
async fn end(
    fleet: Fleet,
    story: &mut Story,
    args: &DevArgs,
    outcome: Result<Exit, CliError>,
) -> Result<Exit, CliError> {
    // A tour that went wrong has something to look at.
    let went_wrong = match &outcome {
        Ok(exit) => *exit != Exit::Done,
        Err(CliError::Interrupted | CliError::OutputClosed) => false,
        Err(_) => true,
    };
    let stopped = fleet.stop(args.keep || went_wrong).await;
    match (outcome, stopped) {
        (outcome, Ok(None)) => outcome,
        (outcome, Ok(Some(kept))) => {
            story.tell(format_args!(
                "logs, files and the database are kept in {}",
                kept.display()
            ));
            outcome
        }
        (Ok(Exit::Done), Err(error)) => Err(failed("stop the fleet", error)),
        (outcome, Err(error)) => {
            story.tell(format_args!(
                "could not stop the fleet in good order: {error:#}"
            ));
            outcome
        }
    }
}

/// Errors of the command line's own keep their advice and their exit code.
fn failed(doing: &str, error: anyhow::Error) -> CliError {
    let error = match error.downcast::<CliError>() {
        Ok(error) => return error,
        Err(error) => error,
    };
    match error.downcast_ref::<BinaryNotFound>() {
        Some(missing) => CliError::NotFound {
            message: format!("could not {doing}: {missing}"),
            hint: "build every program first: cargo build --workspace --bins".to_owned(),
        },
        None => CliError::io(doing, io::Error::other(format!("{error:#}"))),
    }
}
