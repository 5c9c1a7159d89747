//! Evens out the load: first a plan that anybody may look at, then the plan and nothing else.

use serde_json::json;

use super::drain::finish;
use crate::{
    args::RebalanceCommand,
    context::Context,
    error::CliError,
    exit::Exit,
    output::{Style, humanize::counted, views},
    prompt::{Consent, confirm},
    source::{self, Intent},
};

const BALANCED: &str = "balanced: nothing to move";

pub(super) async fn run(context: &Context, command: RebalanceCommand) -> Result<Exit, CliError> {
    match command {
        RebalanceCommand::Plan => plan(context).await,
        RebalanceCommand::Apply {
            yes,
            reason,
            deadline,
            wait,
        } => {
            let intent = Intent {
                actor: context.settings.actor.clone(),
                reason,
                deadline,
            };
            apply(context, yes.into(), &intent, &wait).await
        }
    }
}

async fn plan(context: &Context) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let moves = source.rebalance_plan().await?;
    context.screen.show(&json!({"moves": moves}), |style| {
        if moves.is_empty() {
            BALANCED.to_owned()
        } else {
            views::moves(style, &moves)
        }
    })?;
    if moves.is_empty() {
        return Ok(Exit::Done);
    }
    context.screen.say(format_args!(
        "{}; carry them out with: tidectl rebalance apply{}",
        counted(moves.len(), "move"),
        context.settings.flags_to_repeat()
    ));
    Ok(Exit::Pending)
}

async fn apply(
    context: &Context,
    consent: Consent,
    intent: &Intent,
    wait: &crate::args::WaitArgs,
) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let moves = source.rebalance_plan().await?;
    if moves.is_empty() {
        context
            .screen
            .show(&json!({"moves": []}), |_| BALANCED.to_owned())?;
        return Ok(Exit::Done);
    }
    context
        .screen
        .say(views::moves(Style::plain(), &moves).trim_end());
    confirm(
        context,
        consent,
        &format!("carry out {}", counted(moves.len(), "move")),
    )
    .await?;
    let started = source.rebalance(moves, intent).await?;
    for skipped in &started.skipped {
        context.screen.say(format_args!(
            "skipped {}: this move became stale since the plan",
            skipped.pipeline
        ));
    }
    let plan = started.operation.moves.clone();
    finish(context, &mut source, started.operation, &plan, wait).await
}
