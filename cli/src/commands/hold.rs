//! Holds: cordon, pin, freeze, their ends, and the list of all.

use std::collections::BTreeSet;

use serde_json::json;
use tide_catalog::holds::{Breaking, HoldTerms, NewHold};
use tide_model::{
    AgentName, PipelineName,
    fleet::{Hold, HoldKind},
    hold::HoldTarget,
};
use time::OffsetDateTime;

use crate::{
    args::{
        CordonArgs, FreezeArgs, HoldCommand, LiftArgs, PinArgs, RemoveHoldArgs, SetArgs,
        UncordonArgs, UnholdArgs,
    },
    context::Context,
    error::CliError,
    exit::Exit,
    output::{humanize::counted, views},
    source::{self, Intent},
};

pub(super) async fn run(context: &Context, command: HoldCommand) -> Result<Exit, CliError> {
    match command {
        HoldCommand::List => list(context).await,
        HoldCommand::Remove(args) => remove(context, args).await,
    }
}

pub(super) async fn cordon(context: &Context, args: CordonArgs) -> Result<Exit, CliError> {
    set(context, &NewHold::Cordon(args.agent), args.hold).await
}

pub(super) async fn uncordon(context: &Context, args: UncordonArgs) -> Result<Exit, CliError> {
    let target = HoldTarget::Agent(args.agent);
    lift(context, HoldKind::Cordon, &target, args.lift).await
}

pub(super) async fn pin(context: &Context, args: PinArgs) -> Result<Exit, CliError> {
    let to = if let Some(to) = args.to {
        to
    } else {
        only_owner(context, &args.name).await?
    };
    set(context, &NewHold::Pin(args.name, to), args.hold).await
}

/// Who has all of a pipeline.
async fn only_owner(context: &Context, name: &PipelineName) -> Result<AgentName, CliError> {
    let mut source = source::connect(context).await?;
    let mut units = source.pipelines(None).await?;
    units.retain(|unit| unit.name.pipeline() == *name);
    let owners: BTreeSet<_> = units.into_iter().filter_map(|unit| unit.owner).collect();
    let several = || CliError::Blocked {
        message: format!("{name} has {}", counted(owners.len(), "owner")),
        hint: "say where it shall stay: --to AGENT".to_owned(),
    };
    match owners.first() {
        Some(owner) if owners.len() == 1 => Ok(owner.clone()),
        Some(_) | None => Err(several()),
    }
}

pub(super) async fn freeze(context: &Context, args: FreezeArgs) -> Result<Exit, CliError> {
    set(context, &NewHold::Freeze(args.name), args.hold).await
}

pub(super) async fn unhold(
    context: &Context,
    kind: HoldKind,
    args: UnholdArgs,
) -> Result<Exit, CliError> {
    let target = HoldTarget::Pipeline(args.name);
    lift(context, kind, &target, args.lift).await
}

async fn set(context: &Context, wanted: &NewHold, args: SetArgs) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let intent = intent(context, args.reason);
    let terms = HoldTerms {
        name: args.name_of_hold,
        lasting: args.lasting,
    };
    let held = source.hold_set(wanted, &terms, &intent).await?;
    context.screen.show(&held, |_| {
        let target = held.target.as_str();
        format!("{target} is held: {}", held.summary())
    })?;
    Ok(Exit::Done)
}

async fn lift(
    context: &Context,
    kind: HoldKind,
    target: &HoldTarget,
    args: LiftArgs,
) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let intent = intent(context, args.reason);
    let breaking = Breaking::from(args.breaking);
    let ended = source.hold_lift(kind, target, breaking, &intent).await?;
    let mut left = source.holds().await?;
    left.retain(|hold| hold.target == *target);
    let data = json!({"kind": kind, "target": target.as_str(), "ended": ended, "left": left});
    context.screen.show(&data, |_| {
        let name = target.as_str();
        let done = match ended {
            0 => format!("{name} was not {}", kind.participle()),
            _ => format!("{name} is no longer {} by you", kind.participle()),
        };
        let left: Vec<String> = left.iter().map(Hold::summary).collect();
        if left.is_empty() {
            done
        } else {
            format!("{done}; still held: {}", left.join("; "))
        }
    })?;
    Ok(Exit::Done)
}

async fn list(context: &Context) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let holds = source.holds().await?;
    let now = OffsetDateTime::now_utc();
    context
        .screen
        .show(&holds, |style| views::holds(style, &holds, now))?;
    Ok(Exit::Done)
}

async fn remove(context: &Context, args: RemoveHoldArgs) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let intent = intent(context, args.lift.reason);
    let breaking = Breaking::from(args.lift.breaking);
    let mut removed = Vec::new();
    for id in args.ids {
        removed.push(source.hold_remove(id, breaking, &intent).await?);
    }
    context.screen.show(&removed, |_| {
        let lines = removed.iter().map(|hold| {
            let target = hold.target.as_str();
            format!("{target} is no longer held: {}", hold.summary())
        });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Done)
}

fn intent(context: &Context, reason: String) -> Intent {
    Intent {
        actor: context.settings.actor.clone(),
        reason,
        deadline: None,
    }
}
