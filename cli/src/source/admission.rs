//! Which intent may be written, judged on a view that was read a moment ago. Pure. The control
//! plane judges alike.

use tide_model::{
    AgentName, UnitName,
    assignment::Admits,
    drain,
    fleet::{DatabaseView, HoldKind},
    obstacles::drain_obstacles,
    operation::Move,
};

use super::{Drain, Stranding};
use crate::error::CliError;

/// Advice where there is no agent at all.
pub(super) const NO_AGENT: &str = "there is no agent yet; start tide-agent";
/// Advice where there is no pipeline at all.
pub(super) const NO_PIPELINE: &str = "create one with: tidectl pipeline apply -f FILE";

/// Where a drain would send each pipeline, if it may begin. One that has begun was let through
/// once: asking again only joins it.
pub(super) fn drainable(view: &DatabaseView, drain: &Drain) -> Result<Vec<Move>, CliError> {
    let agents = drain.agents();
    for agent in &agents {
        known_agent(view, agent)?;
    }
    let begun = view
        .holds_on(&drain.agent)
        .any(|hold| hold.kind == HoldKind::Drain);
    let obstacles = drain_obstacles(view, &agents);
    if drain.stranding == Stranding::Refuse && !begun && !obstacles.is_empty() {
        return Err(CliError::Blocked {
            message: obstacles.to_string(),
            hint: obstacles.hint(),
        });
    }
    let mut plan = drain::drain_plan(view, &agents);
    plan.retain(|planned| planned.from.as_ref() == Some(&drain.agent));
    Ok(plan)
}

/// The move of a pipeline to an agent, if it may begin.
pub(super) fn movable(
    view: &DatabaseView,
    pipeline: &UnitName,
    to: &AgentName,
) -> Result<Move, CliError> {
    let blocked = |message: String, hint: String| Err(CliError::Blocked { message, hint });
    let Some(row) = view.pipeline_or_shard(pipeline) else {
        let known: Vec<&str> = view.pipelines.iter().map(|row| row.name.as_str()).collect();
        return Err(CliError::unknown(
            "pipeline",
            pipeline.as_str(),
            &known,
            NO_PIPELINE,
        ));
    };
    known_agent(view, to)?;
    if !row.enabled {
        return blocked(
            format!("pipeline {pipeline} is disabled"),
            format!("enable it with: tidectl pipeline enable {pipeline}"),
        );
    }
    if !is_alive(view, to) {
        return blocked(
            format!("agent {to} is not running"),
            "start it, or choose another agent: tidectl agent list".into(),
        );
    }
    if let Some(hold) = view.staying(&row.name)
        && hold.to.as_ref() != Some(to)
    {
        let (kept, origin) = (hold.kind.participle(), hold.origin());
        return blocked(
            format!("pipeline {pipeline} is {kept} {origin}"),
            format!("ask its owner, or: tidectl hold remove {} --break", hold.id),
        );
    }
    match view.admits(to) {
        Admits::All => {}
        Admits::OnlyItsOwn if row.owner.as_ref() == Some(to) => {}
        Admits::OnlyItsOwn | Admits::Nothing => {
            return blocked(
                format!("agent {to} takes no work"),
                format!("choose another agent, or: tidectl undrain {to}"),
            );
        }
    }
    Ok(Move {
        pipeline: pipeline.clone(),
        from: row.owner.clone(),
        to: to.clone(),
        reason: String::new(),
    })
}

fn known_agent(view: &DatabaseView, agent: &AgentName) -> Result<(), CliError> {
    if view.agent(agent).is_some() {
        return Ok(());
    }
    let known: Vec<&str> = view.agents.iter().map(|row| row.name.as_str()).collect();
    Err(CliError::unknown("agent", agent.as_str(), &known, NO_AGENT))
}

fn is_alive(view: &DatabaseView, agent: &AgentName) -> bool {
    view.agent(agent).is_some_and(|row| row.alive)
}

#[cfg(test)]
mod tests {
    use tide_model::{
        Incarnation,
        fleet::{AgentRow, Hold, PipelineRow},
        hold::HoldTarget,
    };
    use time::OffsetDateTime;

    use super::*;
    use crate::exit::Exit;

    fn agent(name: &str) -> AgentRow {
        AgentRow {
            name: name.parse().unwrap(),
            incarnation: Incarnation(uuid::Uuid::nil()),
            alive: true,
            version: "0.1.0".to_owned(),
            hostname: "node".to_owned(),
            weight: 1,
            metrics_addr: None,
            started_at: OffsetDateTime::UNIX_EPOCH,
            last_seen_at: OffsetDateTime::UNIX_EPOCH,
            stopped_at: None,
            backend_pid: None,
            lease_ends_at: None,
        }
    }

    /// Two agents; `orders` is on the first.
    fn view() -> DatabaseView {
        DatabaseView {
            pipelines: vec![PipelineRow {
                name: "orders".parse().unwrap(),
                outbox: "order_events".to_owned(),
                sink: "null".to_owned(),
                enabled: true,
                revision: 1,
                weight: 1,
                lock_key: 7,
                owner: Some("relay-1".parse().unwrap()),
                owner_pid: Some(99),
                epoch: None,
                last_change_id: 0,
                lag_rows: 0,
                lag: time::Duration::ZERO,
                state: None,
                state_reason: None,
                state_since: None,
                retry_at: None,
                reshard_to: None,
                settled: true,
            }],
            agents: vec![agent("relay-1"), agent("relay-2")],
            ..DatabaseView::empty("default".parse().unwrap(), OffsetDateTime::UNIX_EPOCH)
        }
    }

    fn hold(view: &mut DatabaseView, agent: &str, kind: HoldKind) {
        view.holds.push(Hold {
            id: tide_model::HoldId(uuid::Uuid::nil()),
            name: "ana".to_owned(),
            target: HoldTarget::Agent(agent.parse().unwrap()),
            to: None,
            drain: None,
            kind,
            actor: "ana".to_owned(),
            reason: String::new(),
            operation: None,
            is_running: false,
            deadline_at: None,
            created_at: OffsetDateTime::UNIX_EPOCH,
            expires_at: None,
        });
    }

    fn drain(view: &DatabaseView, stranding: Stranding) -> Result<usize, Exit> {
        drainable(view, &Drain::of("relay-1".parse().unwrap(), stranding))
            .map(|plan| plan.len())
            .map_err(|error| error.exit())
    }

    fn moving(view: &DatabaseView, to: &str) -> Result<Move, CliError> {
        movable(view, &"orders".parse().unwrap(), &to.parse().unwrap())
    }

    #[test]
    fn a_drain_is_refused_only_while_it_would_strand_something_new() {
        let mut view = view();
        assert_eq!(drain(&view, Stranding::Refuse), Ok(1));
        view.agents[1].alive = false;
        assert_eq!(drain(&view, Stranding::Refuse), Err(Exit::Blocked));
        assert_eq!(drain(&view, Stranding::Accept), Ok(0));
        hold(&mut view, "relay-1", HoldKind::Drain);
        assert_eq!(drain(&view, Stranding::Refuse), Ok(0), "it drains already");
    }

    #[test]
    fn a_move_needs_a_running_pipeline_and_an_agent_that_takes_it() {
        assert_eq!(
            moving(&view(), "relay-2").unwrap().from,
            Some("relay-1".parse().unwrap())
        );
        let mut disabled = view();
        disabled.pipelines[0].enabled = false;
        let mut gone = view();
        gone.agents[1].alive = false;
        let mut draining = view();
        hold(&mut draining, "relay-2", HoldKind::Drain);
        let mut cordoned = view();
        hold(&mut cordoned, "relay-2", HoldKind::Cordon);
        for (view, words) in [
            (disabled, "pipeline orders is disabled"),
            (gone, "agent relay-2 is not running"),
            (draining, "agent relay-2 takes no work"),
            (cordoned, "agent relay-2 takes no work"),
        ] {
            let error = moving(&view, "relay-2").unwrap_err();
            assert_eq!(
                (error.to_string().as_str(), error.exit()),
                (words, Exit::Blocked)
            );
        }
    }

    #[test]
    fn a_cordoned_agent_may_keep_what_it_has() {
        let mut view = view();
        hold(&mut view, "relay-1", HoldKind::Cordon);
        assert!(moving(&view, "relay-1").is_ok());
    }

    #[test]
    fn unknown_names_come_with_the_known_ones() {
        let error = moving(&view(), "relay-9").unwrap_err();
        assert_eq!(error.to_string(), "agent relay-9 does not exist");
        assert_eq!(
            error.hint().as_deref(),
            Some("did you mean relay-1? the ones that exist: relay-1, relay-2")
        );
    }
}
