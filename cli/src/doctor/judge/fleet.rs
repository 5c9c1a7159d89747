//! Control planes, agents, pipelines and holds.

use tide_catalog::{leader::LeaderInfo, pipelines::StoredPipeline};
use tide_model::{GroupName, PipelineSpec, PipelineState, fleet::DatabaseView};
use time::Duration;

use super::some;
use crate::{
    doctor::{
        facts::{Answer, ControlPlane, Fleet},
        finding::Finding,
    },
    output::humanize::{age, counted},
};

/// An agent writes every few seconds; one that has not for this long has trouble with its database.
const SILENCE: Duration = Duration::seconds(30);
/// A hold without an end that is older was probably forgotten.
const FORGOTTEN: Duration = Duration::days(1);

/// Which answer, and which of them leads. Without any, data flows on: nothing here is a failure
/// but one that serves somebody else.
pub(super) fn control_planes(
    asked: &[ControlPlane],
    group: &GroupName,
    fleet: Option<&Fleet>,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = asked.iter().map(|one| answer(one, group)).collect();
    if let Some(fleet) = fleet {
        findings.push(leads(fleet.leader.as_ref(), asked));
    }
    findings
}

fn answer(one: &ControlPlane, group: &GroupName) -> Finding {
    const CHECK: &str = "control_plane.reachable";
    let address = &one.address;
    match &one.answer {
        Answer::Active(served) if served == group => {
            Finding::ok(CHECK, format!("{address} answers and is active"))
        }
        Answer::Active(served) => Finding::fail(
            CHECK,
            format!("{address} serves group {served}, not {group}"),
            "name its group's control plane with --control-plane",
        ),
        Answer::Standby(leader) => {
            Finding::ok(CHECK, format!("{address} answers, a standby of {leader}"))
        }
        Answer::Trouble(problem) => {
            let hint = problem.hint.as_deref();
            Finding::warn(
                CHECK,
                &*problem.message,
                hint.unwrap_or("look into its log"),
            )
        }
    }
}

fn leads(leader: Option<&LeaderInfo>, asked: &[ControlPlane]) -> Finding {
    const CHECK: &str = "control_plane.leader";
    let start = "start tide-control-plane; agents deliver without, but drains need somebody who watches them";
    let Some(leader) = leader else {
        return Finding::warn(CHECK, "none leads the group", start);
    };
    let node = &leader.node_id;
    if !leader.is_healthy() {
        return Finding::warn(
            CHECK,
            format!("{node} led last, and its lease has run out"),
            start,
        );
    }
    let at = leader
        .address
        .as_deref()
        .unwrap_or("an address it does not tell");
    let detail = format!("{node} leads at {at}, under epoch {}", leader.epoch);
    if asked
        .iter()
        .any(|one| matches!(one.answer, Answer::Active(_) | Answer::Standby(_)))
    {
        Finding::ok(CHECK, detail)
    } else {
        Finding::warn(
            CHECK,
            format!("{detail}, and none of those that were asked answers"),
            "name it with --control-plane",
        )
    }
}

/// Everything that the database says about the group.
pub(super) fn judge(fleet: &Fleet) -> Vec<Finding> {
    vec![
        agents(&fleet.view),
        versions(&fleet.view),
        unowned(&fleet.view),
        configuration(&fleet.view, &fleet.pipelines),
        holds(&fleet.view),
    ]
}

fn agents(view: &DatabaseView) -> Finding {
    const CHECK: &str = "agents.alive";
    let alive = view.agents.iter().filter(|agent| agent.alive).count();
    let lost = view
        .agents
        .iter()
        .filter(|agent| !agent.alive && agent.stopped_at.is_none());
    let stale = view
        .agents
        .iter()
        .filter(|agent| agent.alive && view.taken_at - agent.last_seen_at > SILENCE);
    let since = |agent: &tide_model::fleet::AgentRow| {
        format!(
            "{} (last seen {} ago)",
            agent.name,
            age(agent.last_seen_at, view.taken_at)
        )
    };
    let lost = some(lost.map(since));
    let stale = some(stale.map(since));
    if alive == 0 && view.pipelines.iter().any(|row| row.enabled) {
        Finding::fail(
            CHECK,
            "no agent is alive, so nothing is delivered",
            "start tide-agent",
        )
    } else if !stale.is_empty() {
        Finding::warn(
            CHECK,
            format!("alive, and silent in the catalog: {stale}"),
            "look at its /livez and its log: it holds its locks and cannot write",
        )
    } else if !lost.is_empty() {
        Finding::warn(
            CHECK,
            format!("{alive} alive; gone without a word: {lost}"),
            "start it again; others have taken over its pipelines",
        )
    } else {
        Finding::ok(CHECK, format!("{} alive", counted(alive, "agent")))
    }
}

fn versions(view: &DatabaseView) -> Finding {
    const CHECK: &str = "agents.versions";
    let own = env!("CARGO_PKG_VERSION");
    let other: Vec<String> = view
        .agents
        .iter()
        .filter(|agent| agent.alive && agent.version != own)
        .map(|agent| format!("{} ({})", agent.name, agent.version))
        .collect();
    if other.is_empty() {
        Finding::ok(CHECK, format!("all run {own}, as this tidectl does"))
    } else {
        let detail = format!("this tidectl is {own}, and others are not: {}", some(other));
        Finding::warn(CHECK, detail, "finish the upgrade")
    }
}

fn unowned(view: &DatabaseView) -> Finding {
    const CHECK: &str = "pipelines.owned";
    let enabled = view.pipelines.iter().filter(|row| row.enabled);
    let unowned: Vec<String> = enabled
        .clone()
        .filter(|row| row.owner.is_none())
        .map(|row| row.name.to_string())
        .collect();
    match unowned.first() {
        None => {
            let all = counted(enabled.count(), "enabled pipeline");
            Finding::ok(CHECK, format!("{all}, none without an owner"))
        }
        Some(first) => Finding::fail(
            CHECK,
            format!("nobody owns {}", some(unowned.iter().cloned())),
            format!("ask why: tidectl explain {first}"),
        ),
    }
}

/// A configuration that cannot be read here, or that its owner could not work with.
fn configuration(view: &DatabaseView, stored: &[StoredPipeline]) -> Finding {
    const CHECK: &str = "pipelines.configuration";
    let mut wrong: Vec<(String, String)> = stored
        .iter()
        .filter(|pipeline| pipeline.enabled)
        .filter_map(|pipeline| Some((pipeline.name.clone(), mistake(pipeline)?)))
        .collect();
    let told = view
        .pipelines
        .iter()
        .filter(|row| row.enabled && row.owner.is_some())
        .filter(|row| row.state == Some(PipelineState::Misconfigured));
    for row in told {
        if wrong
            .iter()
            .all(|(name, _)| name != row.name.pipeline().as_str())
        {
            let reason = row.state_reason.clone();
            wrong.push((row.name.to_string(), reason.unwrap_or_default()));
        }
    }
    match wrong.first() {
        None => Finding::ok(CHECK, "every enabled pipeline can be read"),
        Some((first, _)) => Finding::fail(
            CHECK,
            some(wrong.iter().map(|(name, why)| format!("{name}: {why}"))),
            format!(
                "correct it with: tidectl pipeline apply -f FILE, or disable it: tidectl pipeline disable {first}"
            ),
        ),
    }
}

fn mistake(pipeline: &StoredPipeline) -> Option<String> {
    let name = match pipeline.name.parse() {
        Ok(name) => name,
        Err(error) => return Some(format!("{error}")),
    };
    let parsed = PipelineSpec::parse(name, pipeline.outbox.clone(), &pipeline.config);
    parsed.err().map(|error| error.to_string())
}

fn holds(view: &DatabaseView) -> Finding {
    const CHECK: &str = "holds";
    let forgotten: Vec<String> = view
        .holds
        .iter()
        .filter(|hold| hold.expires_at.is_none() && view.taken_at - hold.created_at > FORGOTTEN)
        .map(|hold| {
            let since = age(hold.created_at, view.taken_at);
            format!(
                "{} {} {} for {since}",
                hold.target.as_str(),
                hold.kind.participle(),
                hold.origin()
            )
        })
        .collect();
    if forgotten.is_empty() {
        let held = counted(view.holds.len(), "hold");
        Finding::ok(
            CHECK,
            format!("{held}, none without an end for longer than a day"),
        )
    } else {
        Finding::warn(
            CHECK,
            format!("held without an end: {}", some(forgotten)),
            "see whose they are: tidectl hold list; if forgotten: tidectl hold remove ID --break",
        )
    }
}
