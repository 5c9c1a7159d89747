//! Operations: list, show, follow, give up.

use std::time::Duration;

use tide_model::{OperationId, operation::OperationState};
use time::OffsetDateTime;

use crate::{
    args::OperationCommand,
    context::Context,
    error::CliError,
    exit::Exit,
    follow::{Follow, Verdict, follow, subject},
    output::{humanize::age, views},
    source,
};

pub(super) async fn run(context: &Context, command: OperationCommand) -> Result<Exit, CliError> {
    match command {
        OperationCommand::List { limit } => list(context, limit).await,
        OperationCommand::Show { id } => show(context, id).await,
        OperationCommand::Watch { id, limit } => watch(context, id, limit.wait).await,
        OperationCommand::Cancel { id } => cancel(context, id).await,
    }
}

async fn list(context: &Context, limit: u32) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let operations = source.operations(limit).await?;
    let now = OffsetDateTime::now_utc();
    context.screen.show(&operations, |style| {
        views::operations(style, &operations, now)
    })?;
    Ok(Exit::Done)
}

async fn show(context: &Context, id: OperationId) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let view = source.operation(id).await?;
    let now = OffsetDateTime::now_utc();
    context
        .screen
        .show(&view, |style| views::operation(style, &view, now))?;
    Ok(Exit::Done)
}

async fn watch(
    context: &Context,
    id: OperationId,
    limit: Option<Duration>,
) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let view = source.operation(id).await?;
    if view.operation.state == OperationState::Running {
        let planned = view
            .operation
            .moves
            .iter()
            .map(|wanted| wanted.pipeline.clone())
            .collect();
        let verdict = follow(context, &mut source, Follow { id, planned, limit }).await?;
        return verdict.show(context);
    }
    // It ended before we looked, and much may have happened since: no verdict about the present.
    let operation = &view.operation;
    let now = OffsetDateTime::now_utc();
    let ended = operation
        .finished_at
        .map_or_else(String::new, |at| format!(" {} ago", age(at, now)));
    let outcome = operation.outcome.as_deref().unwrap_or("no reason recorded");
    let sentence = format!(
        "{} {}{ended}: {outcome}",
        subject(operation),
        operation.state
    );
    let exit = Verdict::exit_of(operation);
    Verdict::new(view, sentence, exit).show(context)
}

async fn cancel(context: &Context, id: OperationId) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let operation = source.operation_cancel(id, &context.settings.actor).await?;
    context.screen.show(&operation, |_| match operation.state {
        OperationState::Cancelled => {
            format!(
                "{} cancelled; what has moved stays where it is",
                subject(&operation)
            )
        }
        // It was over already, which is no error: there is nothing left to give up.
        OperationState::Running | OperationState::Succeeded | OperationState::Failed => {
            format!("{} had {} already", subject(&operation), operation.state)
        }
    })?;
    Ok(Exit::Done)
}
