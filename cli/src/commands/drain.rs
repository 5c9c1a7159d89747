//! Drain and undrain.

use serde_json::json;
use tide_model::{
    AgentName,
    operation::{Move, Operation, OperationState},
};

use super::selected;
use crate::{
    args::{DrainArgs, UndrainArgs, WaitArgs},
    context::Context,
    error::CliError,
    exit::Exit,
    follow::{Follow, Verdict, follow, goes_on, subject},
    output::{humanize::counted, views},
    prompt::confirm,
    source::{self, Drain, Intent, OperationView, Source, StartedDrain, Stranding},
};

pub(super) async fn drain(context: &Context, args: DrainArgs) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let selected = match selected::named(&args.agents) {
        Some(selected) => selected,
        None => selected::matched(&args.agents, &source.agents().await?)?,
    };
    if selected.everybody && !args.force {
        return Err(CliError::Blocked {
            message: format!(
                "that means every agent that runs, and nobody would deliver: {}",
                selected.counted()
            ),
            hint: "leave one out, or drain all the same with --force".to_owned(),
        });
    }
    let stranding = if args.force {
        Stranding::Accept
    } else {
        Stranding::Refuse
    };
    let intent = Intent {
        actor: context.settings.actor.clone(),
        reason: args.reason.clone(),
        deadline: args.deadline,
    };
    let drains: Vec<Drain> = selected
        .agents
        .iter()
        .map(|agent| Drain {
            agent: agent.clone(),
            together_with: selected.agents.clone(),
            stranding,
            terms: args.terms(),
        })
        .collect();
    // All or none: the first would be on its way when the second is refused.
    let mut planned = Vec::new();
    if args.plan || selected.by_pattern || drains.len() > 1 {
        for drain in &drains {
            planned.push(source.drain_plan(drain, &intent).await?);
        }
    }
    if args.plan {
        return show_plan(context, &selected.agents, &planned.concat());
    }
    if selected.by_pattern {
        let question = format!("drain {}", selected.counted());
        confirm(context, args.yes.into(), &question).await?;
    }
    let mut started = Vec::new();
    for drain in &drains {
        let begun = source.drain(drain, &intent).await?;
        context.screen.say(summary(&drain.agent, &begun.plan));
        started.push(begun);
    }
    let mut worst = Exit::Done;
    for StartedDrain { operation, plan } in started {
        let exit = finish(context, &mut source, operation, &plan, &args.wait).await?;
        if exit != Exit::Done {
            worst = exit;
        }
    }
    Ok(worst)
}

pub(super) async fn undrain(context: &Context, args: UndrainArgs) -> Result<Exit, CliError> {
    let mut source = source::connect(context).await?;
    let intent = Intent {
        actor: context.settings.actor.clone(),
        reason: args.lift.reason,
        deadline: None,
    };
    let breaking = args.lift.breaking.into();
    let operation = source.undrain(&args.agent, breaking, &intent).await?;
    context.screen.show(&operation, |_| {
        let outcome = operation.outcome.as_deref().unwrap_or("takes work again");
        match outcome.strip_prefix("still held: ") {
            None => format!("{} takes work again", args.agent),
            Some(others) => format!("{} is still held: {others}", args.agent),
        }
    })?;
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

fn show_plan(context: &Context, agents: &[AgentName], plan: &[Move]) -> Result<Exit, CliError> {
    for agent in agents {
        let its: Vec<Move> = plan
            .iter()
            .filter(|planned| planned.from.as_ref() == Some(agent))
            .cloned()
            .collect();
        context.screen.say(summary(agent, &its));
    }
    let data = match agents {
        [agent] => json!({"agent": agent, "moves": plan}),
        agents => json!({"agents": agents, "moves": plan}),
    };
    context.screen.show(&data, |style| {
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
