//! Pipelines: what runs, and switching it. Reading goes through the source; writing goes straight
//! to the catalog, from where agents take changes up at once.

mod apply;
mod file;
mod flow;
mod test;

use serde_json::json;
use tide_catalog::{
    PgConnection,
    pipelines::{self, StoredPipeline},
};
use tide_model::{AgentName, PipelineName, UnitName, fleet::HoldKind};
use time::OffsetDateTime;

use self::flow::Flow;
use super::{catalog, hold};
use crate::{
    args::{PipelineCommand, SelectArgs, UnholdArgs},
    context::Context,
    error::CliError,
    exit::Exit,
    output::views,
    prompt::confirm,
    select::Selection,
    source,
};

pub(super) async fn run(context: &Context, command: PipelineCommand) -> Result<Exit, CliError> {
    match command {
        PipelineCommand::Apply(args) => apply::run(context, &args).await,
        PipelineCommand::List { owner, select } => list(context, owner.as_ref(), &select).await,
        PipelineCommand::Show { name } => show(context, &name).await,
        PipelineCommand::Enable { name } => switch(context, &name, Switch::On).await,
        PipelineCommand::Disable { name } => switch(context, &name, Switch::Off).await,
        PipelineCommand::Pause {
            name,
            reason,
            lasting,
        } => flow::switch(context, &name, Flow::Pause(lasting), reason).await,
        PipelineCommand::Resume(UnholdArgs { name, lift }) => {
            let to = Flow::Resume(lift.breaking.into());
            flow::switch(context, &name, to, lift.reason).await
        }
        PipelineCommand::Pin(args) => hold::pin(context, args).await,
        PipelineCommand::Unpin(args) => hold::unhold(context, HoldKind::Pin, args).await,
        PipelineCommand::Freeze(args) => hold::freeze(context, args).await,
        PipelineCommand::Unfreeze(args) => hold::unhold(context, HoldKind::Freeze, args).await,
        PipelineCommand::Rewind(args) => flow::rewind(context, args).await,
        PipelineCommand::Test(args) => test::run(context, &args).await,
        PipelineCommand::Delete { name, yes } => delete(context, &name, yes).await,
    }
}

async fn list(
    context: &Context,
    owner: Option<&AgentName>,
    select: &SelectArgs,
) -> Result<Exit, CliError> {
    let selection = Selection::parse(select)?;
    let mut source = source::connect(context).await?;
    let mut pipelines = source.pipelines(owner).await?;
    let now = OffsetDateTime::now_utc();
    selection.apply(&mut pipelines, now);
    context.screen.show(&pipelines, |style| {
        views::pipelines(style, &pipelines, now) + &views::footer(style, &source.cited())
    })?;
    Ok(Exit::Done)
}

async fn show(context: &Context, name: &UnitName) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let unknown = match source.pipeline(name).await {
        Ok(pipeline) => {
            let now = OffsetDateTime::now_utc();
            context
                .screen
                .show(&pipeline, |style| views::pipeline(style, &pipeline, now))?;
            return Ok(Exit::Done);
        }
        Err(error) => error,
    };
    // The name of a sharded pipeline stands for its shards.
    let mut shards = source.pipelines(None).await?;
    shards.retain(|unit| unit.name.pipeline_str() == name.as_str());
    if shards.is_empty() {
        return Err(unknown);
    }
    let now = OffsetDateTime::now_utc();
    context
        .screen
        .show(&shards, |style| views::pipelines(style, &shards, now))?;
    Ok(Exit::Done)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Switch {
    On,
    Off,
}

async fn switch(context: &Context, name: &PipelineName, to: Switch) -> Result<Exit, CliError> {
    let enabled = to == Switch::On;
    let mut session = catalog::session(context).await?;
    let changed = async |connection: &mut PgConnection| {
        let stored = stored(connection, name).await?;
        if stored.enabled == enabled {
            return Ok(false);
        }
        match to {
            Switch::On => pipelines::pipeline_enable(connection, name.as_str()).await?,
            Switch::Off => pipelines::pipeline_disable(connection, name.as_str()).await?,
        }
        Ok(true)
    };
    let changed = session.run(changed).await?;
    let data = json!({"name": name, "enabled": enabled, "changed": changed});
    let word = if enabled { "enabled" } else { "disabled" };
    context.screen.show(&data, |_| {
        if changed {
            format!("{word} {name}")
        } else {
            format!("{name} was {word} already")
        }
    })?;
    Ok(Exit::Done)
}

async fn delete(context: &Context, name: &PipelineName, yes: bool) -> Result<Exit, CliError> {
    let mut session = catalog::session(context).await?;
    session
        .run(async |connection| stored(connection, name).await.map(drop))
        .await?;
    confirm(
        context,
        yes.into(),
        &format!("delete pipeline {name} and its position"),
    )
    .await?;
    session
        .run(async |connection| Ok(pipelines::pipeline_delete(connection, name.as_str()).await?))
        .await?;
    context
        .screen
        .show(&json!({"name": name, "deleted": true}), |_| {
            format!("deleted {name}")
        })?;
    Ok(Exit::Done)
}

async fn stored(
    connection: &mut PgConnection,
    name: &PipelineName,
) -> Result<StoredPipeline, CliError> {
    let mut all = pipelines::pipeline_list(connection).await?;
    let Some(index) = all
        .iter()
        .position(|pipeline| pipeline.name == name.as_str())
    else {
        let known: Vec<&str> = all.iter().map(|pipeline| pipeline.name.as_str()).collect();
        let advice = "create it with: tidectl pipeline apply -f FILE";
        return Err(CliError::unknown("pipeline", name.as_str(), &known, advice));
    };
    Ok(all.swap_remove(index))
}
