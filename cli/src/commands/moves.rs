//! Moves one pipeline.

use super::drain::finish;
use crate::{
    args::MoveArgs,
    context::Context,
    error::CliError,
    exit::Exit,
    source::{self, Intent},
};

pub(super) async fn run(context: &Context, args: MoveArgs) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let intent = Intent {
        actor: context.settings.actor.clone(),
        reason: args.reason,
        deadline: args.deadline,
    };
    let operation = source
        .move_pipeline(&args.pipeline, &args.to, &intent)
        .await?;
    let plan = operation.moves.clone();
    finish(context, &mut source, operation, &plan, &args.wait).await
}
