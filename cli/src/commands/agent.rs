//! Agents: list, show and forget.

use serde::Serialize;
use serde_json::json;
use tide_catalog::{PgConnection, agents::agent_remove, intent::Actor};
use tide_model::{
    AgentName,
    fleet::{AgentView, PipelineView},
};
use time::OffsetDateTime;

use super::catalog;
use crate::{
    args::{AgentCommand, SelectArgs},
    context::Context,
    error::CliError,
    exit::Exit,
    output::views,
    select::Selection,
    source,
};

/// An agent and what it owns, as printed.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    agent: AgentView,
    owned: Vec<PipelineView>,
}

pub(super) async fn run(context: &Context, command: AgentCommand) -> Result<Exit, CliError> {
    match command {
        AgentCommand::List(select) => list(context, &select).await,
        AgentCommand::Show { name } => show(context, &name).await,
        AgentCommand::Remove { name, reason } => remove(context, &name, reason).await,
    }
}

async fn list(context: &Context, select: &SelectArgs) -> Result<Exit, CliError> {
    let selection = Selection::parse(select)?;
    let mut source = source::connect(context).await?;
    let mut agents = source.agents().await?;
    let now = OffsetDateTime::now_utc();
    selection.apply(&mut agents, now);
    context.screen.show(&agents, |style| {
        views::agents(style, &agents, now) + &views::footer(style, &source.cited())
    })?;
    Ok(Exit::Done)
}

async fn show(context: &Context, name: &AgentName) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let (agent, owned) = source.agent(name).await?;
    let shown = Shown { agent, owned };
    let now = OffsetDateTime::now_utc();
    context.screen.show(&shown, |style| {
        views::agent(style, &shown.agent, &shown.owned, now)
    })?;
    Ok(Exit::Done)
}

async fn remove(context: &Context, name: &AgentName, reason: String) -> Result<Exit, CliError> {
    let group = &context.settings.group;
    let actor = Actor {
        name: context.settings.actor.clone(),
        reason,
    };
    let mut session = catalog::session(context).await?;
    session
        .run(async |connection: &mut PgConnection| {
            Ok(agent_remove(connection, group, name, &actor).await?)
        })
        .await?;
    let data = json!({"name": name, "removed": true});
    context
        .screen
        .show(&data, |_| format!("{name} is forgotten"))?;
    Ok(Exit::Done)
}
