//! Stands in for an agent: holds the locks that an agent holds, and writes what an agent writes.

use std::time::Duration;

use tide_catalog::{
    agents::{self, AgentRegistration},
    fleet::{Lag, read_view},
    lock_session::LockSession,
    offsets::{self, StateChange},
};
use tide_model::{AgentName, GroupName, Incarnation, PipelineState, UnitName};
use uuid::Uuid;

use crate::fixture::Fixture;

pub(crate) struct StandIn {
    group: GroupName,
    name: AgentName,
    incarnation: Incarnation,
    session: LockSession,
}

impl StandIn {
    /// An agent that is alive and owns these pipelines.
    pub(crate) async fn start(fixture: &Fixture, name: &str, owns: &[&str]) -> Self {
        let group: GroupName = "default".parse().unwrap();
        let name: AgentName = name.parse().unwrap();
        let incarnation = Incarnation(Uuid::new_v4());
        let lease = Duration::from_mins(5);
        let mut session = LockSession::open(&fixture.server(), &group, lease)
            .await
            .unwrap();
        assert!(session.lock_name(&name).await.unwrap());
        let registration = AgentRegistration {
            group: group.clone(),
            name: name.clone(),
            incarnation,
            run: Uuid::new_v4(),
            backend_pid: session.backend_pid(),
            version: "0.1.0".to_owned(),
            hostname: "node-1".to_owned(),
            process_id: 7,
            metrics_addr: None,
            weight: 1,
            lease,
        };
        agents::agent_register(session.connection().await.unwrap(), &registration)
            .await
            .unwrap();
        let mut agent = Self {
            group,
            name,
            incarnation,
            session,
        };
        agent.take(owns).await;
        agent.obey().await;
        agent
    }

    /// Locks and claims pipelines, and says that they run.
    pub(crate) async fn take(&mut self, pipelines: &[&str]) {
        let pipelines = parsed(pipelines);
        let locked = self.session.try_lock(&pipelines).await.unwrap();
        assert_eq!(
            locked.len(),
            pipelines.len(),
            "somebody else holds one of them"
        );
        let claims = offsets::offsets_claim(
            self.session.connection().await.unwrap(),
            &self.group,
            &self.name,
            self.incarnation,
            &pipelines,
        )
        .await
        .unwrap();
        let changes: Vec<StateChange> = claims
            .into_iter()
            .map(|claim| StateChange {
                pipeline: claim.pipeline,
                epoch: claim.epoch,
                state: PipelineState::Running,
                reason: None,
                retry_in: None,
            })
            .collect();
        let connection = self.session.connection().await.unwrap();
        offsets::offsets_set_state(connection, &self.group, &changes)
            .await
            .unwrap();
    }

    /// Gives pipelines away.
    pub(crate) async fn release(&mut self, pipelines: &[&str]) {
        self.session.unlock(&parsed(pipelines)).await.unwrap();
    }

    /// Says what it holds, and that it has seen everything operators want so far.
    pub(crate) async fn obey(&mut self) {
        let connection = self.session.connection().await.unwrap();
        let view = read_view(connection, &self.group, Lag::Skip).await.unwrap();
        let owned = self.session.held().len();
        let connection = self.session.connection().await.unwrap();
        agents::agent_beat(
            connection,
            &self.group,
            &self.name,
            self.incarnation,
            owned,
            view.generation,
        )
        .await
        .unwrap();
    }
}

fn parsed(names: &[&str]) -> Vec<UnitName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}
