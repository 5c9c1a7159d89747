//! Plans that even out the load.

use serde_json::{Value, json};
use tide_model::{
    AgentName,
    assignment::Admits,
    rebalance::{AgentLoad, Proposal, RebalancePlan, UnitWeight},
};
use time::OffsetDateTime;

use super::{facts, moves, operations::upcoming};
use crate::output::{
    Cell, Style, Table,
    humanize::{counted, number},
};

/// Whether a plan is shown with everything that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// With every pipeline, and why it stays.
    Listed,
    /// With how many there are.
    Counted,
}

impl From<bool> for Stays {
    fn from(all: bool) -> Self {
        if all { Self::Listed } else { Self::Counted }
    }
}

/// What moves, what each agent has before and after, what would weigh something else, and what
/// stays.
pub fn plan(style: Style, plan: &RebalancePlan, stays: Stays) -> String {
    let mut parts = Vec::new();
    if plan.moves.is_empty() {
        parts.push("balanced: nothing to move\n".to_owned());
    } else {
        parts.push(moves(style, &plan.moves));
    }
    let weights: Vec<&UnitWeight> = plan.reweighed().collect();
    if !weights.is_empty() {
        parts.push(reweighed(style, &weights));
    }
    if !plan.is_empty() {
        parts.push(agents(style, &plan.agents));
    }
    match stays {
        Stays::Listed if !plan.stays.is_empty() => parts.push(staying(style, plan)),
        Stays::Counted if !plan.is_empty() && !plan.stays.is_empty() => parts.push(format!(
            "{} where {} (--all shows why)\n",
            stay(plan.stays.len()),
            if plan.stays.len() == 1 {
                "it is"
            } else {
                "they are"
            },
        )),
        Stays::Listed | Stays::Counted => {}
    }
    parts.join("\n")
}

fn stay(count: usize) -> String {
    let verb = if count == 1 { "stays" } else { "stay" };
    format!("{} {verb}", counted(count, "pipeline"))
}

/// What is known of a plan that is kept.
pub fn plan_record(style: Style, proposal: &Proposal, now: OffsetDateTime) -> String {
    let Some(record) = &proposal.record else {
        return String::new();
    };
    let state = match record.operation {
        Some(operation) => format!("applied: operation {operation}"),
        None if record.expires_at <= now => "its time is over".to_owned(),
        None => format!(
            "can be applied; expires {}",
            upcoming(record.expires_at, now)
        ),
    };
    let by = match record.actor.as_str() {
        "" => "-",
        actor => actor,
    };
    facts(
        style,
        &[
            ("plan", record.id.to_string()),
            ("goes by", proposal.plan.by.as_str().to_owned()),
            ("made for", by.to_owned()),
            ("made", upcoming(record.created_at, now)),
            ("state", state),
            ("hash", proposal.plan.hash.clone()),
        ],
    )
}

/// The same for programs. What is not kept has no id.
pub fn plan_data(Proposal { plan, record }: &Proposal) -> Value {
    let (before, after) = plan.imbalance();
    json!({
        "id": record.as_ref().map(|record| record.id),
        "hash": plan.hash,
        "by": plan.by,
        "moves": plan.moves,
        "stays": plan.stays,
        "agents": plan.agents,
        "weights": plan.weights,
        "imbalance": {"before": before, "after": after},
        "record": record,
    })
}

fn agents(style: Style, agents: &[AgentLoad]) -> String {
    let mut table = Table::new(style, &["AGENT", "WEIGHT", "PIPELINES", "LOAD", "TAKES"]);
    for agent in agents {
        let (before, after) = (agent.before, agent.after);
        table.row([
            Cell::from(agent.agent.as_str()),
            Cell::from(agent.weight.to_string()),
            change(before.pipelines.into(), after.pipelines.into()),
            change(before.load, after.load),
            Cell::from(match agent.admits {
                Admits::All => "everything",
                Admits::OnlyItsOwn => "nothing more",
                Admits::Nothing => "nothing",
            }),
        ]);
    }
    table.print()
}

fn change(before: u64, after: u64) -> Cell {
    Cell::from(if before == after {
        number(after)
    } else {
        format!("{} > {}", number(before), number(after))
    })
}

fn reweighed(style: Style, weights: &[&UnitWeight]) -> String {
    let mut table = Table::new(style, &["PIPELINE", "WEIGHT", "MESSAGES/S"]);
    for weight in weights {
        table.row([
            Cell::from(weight.pipeline.as_str()),
            change(weight.before.into(), weight.after.into()),
            Cell::or_dash(weight.rate.map(|rate| format!("{rate:.1}"))),
        ]);
    }
    table.print()
}

fn staying(style: Style, plan: &RebalancePlan) -> String {
    let mut table =
        Table::new(style, &["PIPELINE", "AGENT", "STAYS BECAUSE"]).with_words_in("STAYS BECAUSE");
    for stay in &plan.stays {
        table.row([
            Cell::from(stay.pipeline.as_str()),
            Cell::or_dash(stay.agent.as_ref().map(AgentName::as_str)),
            Cell::from(stay.reason.as_str()),
        ]);
    }
    table.print()
}
