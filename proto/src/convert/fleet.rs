//! The fleet as operators see it.

use std::collections::BTreeMap;

use tide_model::{
    Epoch,
    fleet::{AgentState, AgentView, Coverage, FleetView, Ownership, PipelineView},
};

use super::{InvalidField, non_empty, parse, parse_optional, time};
use crate::{fleet::v1 as wire, pipeline::v1::PipelineState as WirePipelineState};

impl From<AgentState> for wire::AgentState {
    fn from(state: AgentState) -> Self {
        match state {
            AgentState::Active => Self::Active,
            AgentState::Cordoned => Self::Cordoned,
            AgentState::Draining => Self::Draining,
            AgentState::Drained => Self::Drained,
            AgentState::Stale => Self::Stale,
            AgentState::Stopped => Self::Stopped,
            AgentState::Lost => Self::Lost,
        }
    }
}

fn agent_state(number: i32) -> Result<AgentState, InvalidField> {
    const PATH: &str = "agent.state";
    let state =
        wire::AgentState::try_from(number).map_err(|error| InvalidField::invalid(PATH, error))?;
    Ok(match state {
        wire::AgentState::Unspecified => return Err(InvalidField::missing(PATH)),
        wire::AgentState::Active => AgentState::Active,
        wire::AgentState::Cordoned => AgentState::Cordoned,
        wire::AgentState::Draining => AgentState::Draining,
        wire::AgentState::Drained => AgentState::Drained,
        wire::AgentState::Stale => AgentState::Stale,
        wire::AgentState::Stopped => AgentState::Stopped,
        wire::AgentState::Lost => AgentState::Lost,
    })
}

impl From<Ownership> for wire::Ownership {
    fn from(ownership: Ownership) -> Self {
        match ownership {
            Ownership::Agreed => Self::Agreed,
            Ownership::Split => Self::Split,
            Ownership::Orphan => Self::Orphan,
            Ownership::Ghost => Self::Ghost,
            Ownership::Stale => Self::Stale,
        }
    }
}

/// Whoever does not compare says nothing against it.
fn ownership(number: i32) -> Result<Ownership, InvalidField> {
    let ownership = wire::Ownership::try_from(number)
        .map_err(|error| InvalidField::invalid("pipeline.ownership", error))?;
    Ok(match ownership {
        wire::Ownership::Unspecified | wire::Ownership::Agreed => Ownership::Agreed,
        wire::Ownership::Split => Ownership::Split,
        wire::Ownership::Orphan => Ownership::Orphan,
        wire::Ownership::Ghost => Ownership::Ghost,
        wire::Ownership::Stale => Ownership::Stale,
    })
}

impl From<Coverage> for wire::Coverage {
    fn from(coverage: Coverage) -> Self {
        Self {
            agents: coverage.agents,
            told: coverage.told,
            warming: coverage.warming,
        }
    }
}

impl From<wire::Coverage> for Coverage {
    fn from(coverage: wire::Coverage) -> Self {
        Self {
            agents: coverage.agents,
            told: coverage.told,
            warming: coverage.warming,
        }
    }
}

impl From<&AgentView> for wire::Agent {
    fn from(agent: &AgentView) -> Self {
        Self {
            name: agent.name.to_string(),
            state: wire::AgentState::from(agent.state).into(),
            incarnation: agent.incarnation.to_string(),
            version: agent.version.clone(),
            hostname: agent.hostname.clone(),
            weight: agent.weight,
            metrics_addr: agent.metrics_addr.clone().unwrap_or_default(),
            pipelines: agent.pipelines,
            unhealthy: agent.unhealthy,
            lag_p95: Some(time::duration_seconds(agent.lag_p95_seconds)),
            lag_worst: Some(time::duration_seconds(agent.lag_worst_seconds)),
            holds: agent.holds.clone(),
            started_at: Some(time::timestamp(agent.started_at)),
            last_seen_at: Some(time::timestamp(agent.last_seen_at)),
            reporting: agent.reporting,
            last_drain: agent.last_drain.as_ref().map(Into::into),
            backend_pid: agent.backend_pid.unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::Agent> for AgentView {
    type Error = InvalidField;

    fn try_from(agent: wire::Agent) -> Result<Self, InvalidField> {
        Ok(Self {
            name: parse("agent.name", &agent.name)?,
            state: agent_state(agent.state)?,
            incarnation: parse("agent.incarnation", &agent.incarnation)?,
            version: agent.version,
            hostname: agent.hostname,
            weight: agent.weight,
            metrics_addr: non_empty(agent.metrics_addr),
            pipelines: agent.pipelines,
            unhealthy: agent.unhealthy,
            lag_p95_seconds: time::seconds(agent.lag_p95),
            lag_worst_seconds: time::seconds(agent.lag_worst),
            holds: agent.holds,
            started_at: time::moment("agent.started_at", agent.started_at)?,
            last_seen_at: time::moment("agent.last_seen_at", agent.last_seen_at)?,
            reporting: agent.reporting,
            last_drain: agent.last_drain.map(TryInto::try_into).transpose()?,
            backend_pid: backend(agent.backend_pid),
        })
    }
}

impl From<&PipelineView> for wire::Pipeline {
    fn from(pipeline: &PipelineView) -> Self {
        let text = |name: &Option<tide_model::AgentName>| {
            name.as_ref().map(ToString::to_string).unwrap_or_default()
        };
        let state = pipeline.state.parse().map_or(
            WirePipelineState::Unspecified,
            |state: tide_model::PipelineState| state.into(),
        );
        Self {
            name: pipeline.name.to_string(),
            outbox: pipeline.outbox.clone(),
            sink: pipeline.sink.clone(),
            enabled: pipeline.enabled,
            owner: text(&pipeline.owner),
            epoch: pipeline.epoch.map_or(0, |epoch| epoch.0),
            last_change_id: pipeline.last_change_id,
            lag_rows: pipeline.lag_rows,
            lag: Some(time::duration_seconds(pipeline.lag_seconds)),
            state: state.into(),
            status: pipeline.state.clone(),
            reason: pipeline.reason.clone().unwrap_or_default(),
            since: pipeline.since.map(time::timestamp),
            retry_at: pipeline.retry_at.map(time::timestamp),
            backend_pid: pipeline.backend_pid.unwrap_or_default(),
            moving_to: text(&pipeline.moving_to),
            placement: text(&pipeline.placement),
            holds: pipeline.holds.clone(),
            ownership: wire::Ownership::from(pipeline.ownership).into(),
            claimed_by: pipeline
                .claimed_by
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

impl TryFrom<wire::Pipeline> for PipelineView {
    type Error = InvalidField;

    fn try_from(pipeline: wire::Pipeline) -> Result<Self, InvalidField> {
        Ok(Self {
            name: parse("pipeline.name", &pipeline.name)?,
            outbox: pipeline.outbox,
            sink: pipeline.sink,
            enabled: pipeline.enabled,
            owner: parse_optional("pipeline.owner", &pipeline.owner)?,
            epoch: (pipeline.epoch != 0).then_some(Epoch(pipeline.epoch)),
            last_change_id: pipeline.last_change_id,
            lag_rows: pipeline.lag_rows,
            lag_seconds: time::seconds(pipeline.lag),
            state: pipeline.status,
            reason: non_empty(pipeline.reason),
            since: time::optional_moment("pipeline.since", pipeline.since)?,
            retry_at: time::optional_moment("pipeline.retry_at", pipeline.retry_at)?,
            backend_pid: backend(pipeline.backend_pid),
            moving_to: parse_optional("pipeline.moving_to", &pipeline.moving_to)?,
            placement: parse_optional("pipeline.placement", &pipeline.placement)?,
            holds: pipeline.holds,
            ownership: ownership(pipeline.ownership)?,
            claimed_by: pipeline
                .claimed_by
                .iter()
                .map(|name| parse("pipeline.claimed_by", name))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&FleetView> for wire::Fleet {
    fn from(fleet: &FleetView) -> Self {
        Self {
            group: fleet.group.to_string(),
            agents: fleet.agents.iter().map(Into::into).collect(),
            pipelines: fleet.pipelines.iter().map(Into::into).collect(),
            database_at: Some(time::timestamp(fleet.database_at)),
            warnings: fleet.warnings.clone(),
            coverage: fleet.coverage.map(Into::into),
            revision: fleet.revision.unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::Fleet> for FleetView {
    type Error = InvalidField;

    fn try_from(fleet: wire::Fleet) -> Result<Self, InvalidField> {
        Ok(Self {
            group: parse("fleet.group", &fleet.group)?,
            agents: fleet
                .agents
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            pipelines: fleet
                .pipelines
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            database_at: time::moment("fleet.database_at", fleet.database_at)?,
            warnings: fleet.warnings,
            coverage: fleet.coverage.map(Into::into),
            revision: counted(fleet.revision),
        })
    }
}

/// No process has the number zero.
fn backend(pid: i32) -> Option<i32> {
    (pid != 0).then_some(pid)
}

/// None from somebody who does not count.
fn counted(revision: u64) -> Option<u64> {
    (revision != 0).then_some(revision)
}

impl wire::FleetDelta {
    /// The difference between two views; empty lists where nothing changed.
    pub fn between(before: &FleetView, after: &FleetView) -> Self {
        let (agents, removed_agents) =
            difference(&before.agents, &after.agents, |agent| agent.name.as_str());
        let (pipelines, removed_pipelines) =
            difference(&before.pipelines, &after.pipelines, |p| p.name.as_str());
        Self {
            agents,
            removed_agents,
            pipelines,
            removed_pipelines,
            warnings: after.warnings.clone(),
            database_at: Some(time::timestamp(after.database_at)),
            coverage: after.coverage.map(Into::into),
            revision: after.revision.unwrap_or_default(),
        }
    }

    /// The view after this delta, by name.
    pub fn apply(self, before: &FleetView) -> Result<FleetView, InvalidField> {
        Ok(FleetView {
            group: before.group.clone(),
            agents: applied(&before.agents, self.agents, &self.removed_agents, |agent| {
                agent.name.as_str()
            })?,
            pipelines: applied(
                &before.pipelines,
                self.pipelines,
                &self.removed_pipelines,
                |p| p.name.as_str(),
            )?,
            warnings: self.warnings,
            database_at: time::moment("delta.database_at", self.database_at)?,
            coverage: self.coverage.map(Into::into),
            revision: counted(self.revision),
        })
    }
}

/// New or changed items, and the names of those that are gone.
fn difference<'a, T: PartialEq, W: From<&'a T>>(
    before: &'a [T],
    after: &'a [T],
    name: impl Fn(&'a T) -> &'a str,
) -> (Vec<W>, Vec<String>) {
    let mut known: BTreeMap<&str, &T> = before.iter().map(|item| (name(item), item)).collect();
    let changed = after
        .iter()
        .filter(|item| known.remove(name(item)) != Some(*item))
        .map(W::from)
        .collect();
    (changed, known.into_keys().map(ToOwned::to_owned).collect())
}

/// What is left of `before`, and what is new, by name.
fn applied<T: Clone, W: TryInto<T, Error = InvalidField>>(
    before: &[T],
    changed: Vec<W>,
    removed: &[String],
    name: impl Fn(&T) -> &str,
) -> Result<Vec<T>, InvalidField> {
    let keyed = |item: T| (name(&item).to_owned(), item);
    let mut items: BTreeMap<String, T> = before.iter().cloned().map(keyed).collect();
    for name in removed {
        items.remove(name);
    }
    for item in changed {
        items.extend([keyed(item.try_into()?)]);
    }
    Ok(items.into_values().collect())
}

#[cfg(test)]
mod tests {
    use ::time::OffsetDateTime;

    use super::*;

    fn pipeline(name: &str, lag_rows: i64) -> PipelineView {
        PipelineView {
            name: name.parse().unwrap(),
            outbox: "shop".to_owned(),
            sink: "null".to_owned(),
            enabled: true,
            owner: None,
            epoch: None,
            last_change_id: 0,
            lag_rows,
            lag_seconds: 0.0,
            state: "unowned".to_owned(),
            reason: None,
            since: None,
            retry_at: None,
            backend_pid: None,
            moving_to: None,
            placement: None,
            holds: Vec::new(),
            ownership: Ownership::Agreed,
            claimed_by: Vec::new(),
        }
    }

    fn view(pipelines: &[(&str, i64)]) -> FleetView {
        FleetView {
            group: "default".parse().unwrap(),
            agents: Vec::new(),
            pipelines: pipelines
                .iter()
                .map(|(name, lag)| pipeline(name, *lag))
                .collect(),
            database_at: OffsetDateTime::UNIX_EPOCH,
            warnings: Vec::new(),
            coverage: None,
            revision: None,
        }
    }

    #[test]
    fn a_delta_holds_what_is_different_and_leads_from_one_view_to_the_next() {
        let before = view(&[("a", 1), ("b", 1), ("c", 1)]);
        let after = view(&[("b", 2), ("c", 1), ("d", 1)]);
        let delta = wire::FleetDelta::between(&before, &after);
        let names: Vec<&str> = delta.pipelines.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["b", "d"]);
        assert_eq!(delta.removed_pipelines, ["a"]);
        assert_eq!(delta.apply(&before), Ok(after));
    }

    #[test]
    fn nothing_changed_is_an_empty_delta() {
        let same = view(&[("a", 1)]);
        let delta = wire::FleetDelta::between(&same, &same);
        assert!(delta.pipelines.is_empty() && delta.removed_pipelines.is_empty());
        assert_eq!(delta.apply(&same), Ok(same));
    }
}
