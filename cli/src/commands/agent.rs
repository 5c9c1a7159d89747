//! Agents: list and show.

use serde::Serialize;
use tide_model::{
    AgentName,
    fleet::{AgentView, PipelineView},
};
use time::OffsetDateTime;

use crate::{
    args::AgentCommand, context::Context, error::CliError, exit::Exit, output::views, source,
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
        AgentCommand::List => list(context).await,
        AgentCommand::Show { name } => show(context, &name).await,
    }
}

async fn list(context: &Context) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let agents = source.agents().await?;
    let now = OffsetDateTime::now_utc();
    context
        .screen
        .show(&agents, |style| views::agents(style, &agents, now))?;
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
