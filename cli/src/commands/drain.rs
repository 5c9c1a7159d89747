//! Drain and undrain.

use serde_json::json;
use tide_model::{
    AgentName,
    operation::{Move, Operation, OperationState},
};

use crate::{
    args::{DrainArgs, UndrainArgs, WaitArgs},
    context::Context,
    error::CliError,
    exit::Exit,
    follow::{Follow, Verdict, follow, goes_on, subject},
    output::{humanize::counted, views},
    source::{self, Intent, OperationView, Source, StartedDrain, Stranding},
};

pub(super) async fn drain(context: &Context, args: DrainArgs) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let stranding = if args.force {
        Stranding::Accept
    } else {
        Stranding::Refuse
    };
    let intent = Intent {
        actor: context.settings.actor.clone(),
        reason: args.reason,
        deadline: args.deadline,
    };
    if args.plan {
        let plan = source.drain_plan(&args.agent, &intent, stranding).await?;
        return show_plan(context, &args.agent, &plan);
    }
    let StartedDrain { operation, plan } = source.drain(&args.agent, &intent, stranding).await?;
    context.screen.say(summary(&args.agent, &plan));
    finish(context, &mut source, operation, &plan, &args.wait).await
}

pub(super) async fn undrain(context: &Context, args: UndrainArgs) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let intent = Intent {
        actor: context.settings.actor.clone(),
        reason: args.reason,
        deadline: None,
    };
    let operation = source.undrain(&args.agent, &intent).await?;
    context
        .screen
        .show(&operation, |_| format!("{} takes work again", args.agent))?;
    Ok(Exit::Done)
}

/// Waits for the end of an operation that has just begun, or leaves it alone.
pub(super) async fn finish(
    context: &Context,
    source: &mut Source,
    operation: Operation,
    plan: &[Move],
    wait: &WaitArgs,
) -> Result<Exit, CliError> {
    let id = operation.id;
    if operation.state != OperationState::Running {
        // What is over at once, such as the drain of an agent that does not run, needs no watching.
        let steps = Vec::new();
        return Verdict::ended(OperationView { operation, steps }).show(context);
    }
    if wait.detach {
        goes_on(context, &subject(&operation), id);
        let verdict = format!("{} is operation {id}", subject(&operation));
        let steps = Vec::new();
        return Verdict::new(OperationView { operation, steps }, verdict, Exit::Done).show(context);
    }
    let what = subject(&operation);
    context.screen.say(format_args!(
        "operation {id}; Ctrl-C detaches, the {what} goes on"
    ));
    let planned = plan
        .iter()
        .map(|planned| planned.pipeline.clone())
        .collect();
    let limit = wait.limit();
    follow(context, source, Follow { id, planned, limit })
        .await?
        .show(context)
}

fn show_plan(context: &Context, agent: &AgentName, plan: &[Move]) -> Result<Exit, CliError> {
    context.screen.say(summary(agent, plan));
    context
        .screen
        .show(&json!({"agent": agent, "moves": plan}), |style| {
            if plan.is_empty() {
                String::new()
            } else {
                views::moves(style, plan)
            }
        })?;
    Ok(Exit::Done)
}

fn summary(agent: &AgentName, plan: &[Move]) -> String {
    match plan {
        [] => format!("{agent} has no pipeline to give away"),
        plan => format!(
            "{}: {}",
            counted(plan.len(), "pipeline"),
            views::shares(plan)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(pipeline: &str, to: &str) -> Move {
        Move {
            pipeline: pipeline.parse().unwrap(),
            from: Some("relay-2".parse().unwrap()),
            to: to.parse().unwrap(),
            reason: String::new(),
        }
    }

    #[test]
    fn the_summary_counts_by_receiver() {
        let agent = "relay-2".parse().unwrap();
        let plan = [
            planned("a", "relay-1"),
            planned("b", "relay-3"),
            planned("c", "relay-1"),
        ];
        assert_eq!(
            summary(&agent, &plan),
            "3 pipelines: relay-2 > relay-1 (2), relay-3 (1)"
        );
        assert_eq!(summary(&agent, &[]), "relay-2 has no pipeline to give away");
    }
}
