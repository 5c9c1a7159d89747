//! Evens out the load: first a plan that anybody may look at, then that very plan and nothing else.

use std::time::Duration;

use serde_json::json;
use tide_catalog::holds::Breaking;
use tide_model::rebalance::{By, Proposal};
use time::OffsetDateTime;

use super::drain::finish;
use crate::{
    args::{ApplyPlanArgs, PlanArgs, RebalanceCommand},
    context::Context,
    error::CliError,
    exit::Exit,
    output::{Style, humanize::counted, views, views::Stays},
    prompt::confirm,
    source::{self, Intent, Keeping},
};

pub(super) async fn run(context: &Context, command: RebalanceCommand) -> Result<Exit, CliError> {
    match command {
        RebalanceCommand::Plan(args) => plan(context, args).await,
        RebalanceCommand::Show { plan, all } => {
            let mut source = source::connect(context).await?;
            let proposal = source.rebalance_plan_get(plan).await?;
            let now = OffsetDateTime::now_utc();
            show(context, &proposal, |style| {
                let record = views::plan_record(style, &proposal, now);
                format!(
                    "{record}\n{}",
                    views::plan(style, &proposal.plan, all.into())
                )
            })?;
            Ok(Exit::Done)
        }
        RebalanceCommand::Apply(args) => apply(context, args).await,
        RebalanceCommand::Status => status(context).await,
        RebalanceCommand::Pause { reason, lasting } => pause(context, reason, lasting).await,
        RebalanceCommand::Resume { breaking } => resume(context, breaking.into()).await,
    }
}

async fn status(context: &Context) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let status = source.rebalance_status().await?;
    let now = OffsetDateTime::now_utc();
    context
        .screen
        .show(&views::balance_data(&status), |style| {
            views::balance(style, &status, now)
        })?;
    Ok(Exit::Done)
}

async fn pause(
    context: &Context,
    reason: String,
    lasting: Option<Duration>,
) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let intent = Intent {
        actor: context.settings.actor.clone(),
        reason,
        deadline: None,
    };
    let pause = source.rebalance_pause(&intent, lasting).await?;
    context.screen.show(&pause, |_| pause.to_string())?;
    Ok(Exit::Done)
}

async fn resume(context: &Context, breaking: Breaking) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let asker = &context.settings.actor;
    let ended = source.rebalance_resume(asker, breaking).await?;
    let left = source.rebalance_status().await?.activity.pauses;
    let data = json!({"ended": ended, "pauses": left});
    context.screen.show(&data, |_| {
        let done = match ended {
            0 => "it was not paused".to_owned(),
            ended => format!("{} ended", counted(ended as usize, "pause")),
        };
        let left: Vec<String> = left.iter().map(ToString::to_string).collect();
        if left.is_empty() {
            done
        } else {
            format!("{done}; still {}", left.join("; "))
        }
    })?;
    Ok(Exit::Done)
}

async fn plan(context: &Context, args: PlanArgs) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let keeping = if args.dry_run {
        Keeping::Nothing
    } else {
        Keeping::IfAllowed
    };
    let asker = &context.settings.actor;
    let proposal = source
        .rebalance_plan(args.by.into(), keeping, asker)
        .await?;
    show(context, &proposal, |style| {
        views::plan(style, &proposal.plan, args.all.into())
    })?;
    let Proposal { plan, record } = &proposal;
    if plan.is_empty() {
        return Ok(Exit::Done);
    }
    let summary = summary(&proposal);
    match record {
        Some(record) => context.screen.say(format_args!(
            "{summary}; carry it out with: tidectl rebalance apply {}{}",
            record.id,
            context.settings.flags_to_repeat()
        )),
        None if args.dry_run => context.screen.say(summary),
        None => context.screen.say(format_args!(
            "{summary}; this user may not keep plans, so it has no id to apply it by"
        )),
    }
    Ok(Exit::Pending)
}

async fn apply(context: &Context, args: ApplyPlanArgs) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let asker = context.settings.actor.clone();
    let proposal = if let Some(id) = args.plan {
        source.rebalance_plan_get(id).await?
    } else {
        let by: By = args.by.unwrap_or_default().into();
        source.rebalance_plan(by, Keeping::Must, &asker).await?
    };
    // What is balanced is not kept: there is nothing to apply.
    let Some(record) = &proposal.record else {
        show(context, &proposal, |style| {
            views::plan(style, &proposal.plan, Stays::Counted)
        })?;
        return Ok(Exit::Done);
    };
    if let Some(operation) = record.operation {
        context.screen.say(format_args!(
            "plan {} was applied already: operation {operation}",
            record.id
        ));
    } else {
        let text = views::plan(Style::plain(), &proposal.plan, Stays::Counted);
        context.screen.say(text.trim_end());
        let question = format!("carry out {}", summary(&proposal));
        confirm(context, args.yes.into(), &question).await?;
    }
    let intent = Intent {
        actor: asker,
        reason: args.reason,
        deadline: args.deadline,
    };
    let started = source.rebalance(record.id, &intent).await?;
    for skipped in &started.skipped {
        context.screen.say(format_args!(
            "skipped {}: this move became stale since the plan",
            skipped.pipeline
        ));
    }
    let plan = started.operation.moves.clone();
    finish(context, &mut source, started.operation, &plan, &args.wait).await
}

/// `2 moves`, `1 move and 3 weights`.
fn summary(Proposal { plan, .. }: &Proposal) -> String {
    let moves = counted(plan.moves.len(), "move");
    match plan.reweighed().count() {
        0 => moves,
        weights if plan.moves.is_empty() => counted(weights, "weight"),
        weights => format!("{moves} and {}", counted(weights, "weight")),
    }
}

fn show(
    context: &Context,
    proposal: &Proposal,
    text: impl FnOnce(Style) -> String,
) -> Result<(), CliError> {
    context.screen.show(&views::plan_data(proposal), text)
}
