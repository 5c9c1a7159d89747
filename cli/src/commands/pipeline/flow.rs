//! Pause, resume, rewind.

use std::time::Duration;

use serde_json::json;
use tide_catalog::{
    PgConnection,
    holds::Breaking,
    intent::Actor,
    orders::{RewindMode, RewindTo, Rewound, pipeline_pause, pipeline_resume, pipeline_rewind},
};
use tide_model::PipelineName;

use crate::{
    args::RewindArgs,
    commands::catalog,
    context::Context,
    error::CliError,
    exit::Exit,
    output::{Cell, Style, Table, humanize::counted},
    prompt::confirm,
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// For so long; until it is resumed if none.
    Pause(Option<Duration>),
    Resume(Breaking),
}

pub(super) async fn switch(
    context: &Context,
    name: &PipelineName,
    to: Flow,
    reason: String,
) -> Result<Exit, CliError> {
    let (actor, group) = (actor(context, reason), &context.settings.group);
    let mut session = catalog::session(context).await?;
    let changed = session
        .run(async |connection: &mut PgConnection| {
            super::stored(connection, name).await?;
            Ok(match to {
                Flow::Pause(lasting) => {
                    pipeline_pause(connection, group, name, &actor, lasting).await?
                }
                Flow::Resume(breaking) => {
                    pipeline_resume(connection, group, name, &actor, breaking).await?
                }
            })
        })
        .await?;
    let paused = matches!(to, Flow::Pause(_));
    let data = json!({"name": name, "paused": paused, "changed": changed});
    context.screen.show(&data, |_| match (to, changed) {
        (Flow::Pause(_), true) => format!("paused {name}"),
        (Flow::Pause(_), false) => format!("{name} was paused already"),
        (Flow::Resume(_), true) => format!("resumed {name}"),
        (Flow::Resume(_), false) => format!("{name} was not paused"),
    })?;
    Ok(Exit::Done)
}

pub(super) async fn rewind(context: &Context, args: RewindArgs) -> Result<Exit, CliError> {
    let to = match (args.to_id, args.to_time) {
        (Some(id), _) => RewindTo::Id(id),
        (None, Some(time)) => RewindTo::Time(time),
        // The parser asks for one of the three.
        (None, None) => RewindTo::Id(0),
    };
    let mode = |dry_run| RewindMode {
        dry_run,
        accept_gone: args.accept_gone,
    };
    let (name, group) = (&args.name, &context.settings.group);
    let actor = actor(context, args.reason);
    let mut session = catalog::session(context).await?;
    let mut run = async |mode| {
        session
            .run(async |connection: &mut PgConnection| {
                super::stored(connection, name).await?;
                Ok(pipeline_rewind(connection, group, name, to, mode, &actor).await?)
            })
            .await
    };
    let foreseen = run(mode(true)).await?;
    let messages = total(&foreseen);
    if args.dry_run || messages == 0 {
        show(context, name, &foreseen, true)?;
        return Ok(Exit::Done);
    }
    let what = format!(
        "deliver {} of {name} again",
        counted(messages as usize, "message")
    );
    confirm(context, args.yes.into(), &what).await?;
    let rewound = run(mode(false)).await?;
    show(context, name, &rewound, false)?;
    Ok(Exit::Done)
}

fn total(units: &[Rewound]) -> i64 {
    units.iter().map(|unit| unit.messages).sum()
}

fn show(
    context: &Context,
    name: &PipelineName,
    units: &[Rewound],
    dry_run: bool,
) -> Result<(), CliError> {
    let parts: Vec<_> = units
        .iter()
        .map(|unit| {
            json!({"unit": unit.unit, "from_id": unit.from_id, "to_id": unit.new_id, "messages": unit.messages})
        })
        .collect();
    let data = json!({
        "name": name, "dry_run": dry_run, "messages": total(units), "units": parts,
    });
    context
        .screen
        .show(&data, |style| text(style, name, units, dry_run))
}

fn text(style: Style, name: &PipelineName, units: &[Rewound], dry_run: bool) -> String {
    let messages = total(units);
    if messages == 0 {
        return format!("{name} has delivered nothing after that: nothing to deliver again");
    }
    let mut table = Table::new(style, &["UNIT", "FROM", "TO", "MESSAGES"]);
    for unit in units {
        table.row([
            Cell::from(unit.unit.as_str()),
            Cell::from(unit.from_id.to_string()),
            Cell::from(unit.new_id.to_string()),
            Cell::from(unit.messages.to_string()),
        ]);
    }
    let messages = counted(messages as usize, "message");
    let verdict = if dry_run {
        format!("{messages} would be delivered again")
    } else {
        format!("rewound {name}: {messages} to be delivered again")
    };
    format!("{}\n{verdict}", table.print().trim_end())
}

fn actor(context: &Context, reason: String) -> Actor {
    Actor {
        name: context.settings.actor.clone(),
        reason,
    }
}
