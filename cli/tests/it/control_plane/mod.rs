//! A stand-in control plane: it answers what it is told to.

mod service;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
};

use tide_model::{
    AgentName, GroupName, Incarnation, OperationId,
    drain::{Progress, Step},
    fleet::{AgentState, AgentView, FleetView, Ownership, PipelineView},
    operation::{Operation, OperationKind, OperationState},
};
use tide_proto::fleet::v1::{
    fleet_service_server::FleetServiceServer, operation_service_server::OperationServiceServer,
};
use time::{Duration, OffsetDateTime};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, transport::Server};
use uuid::Uuid;

use crate::fixture::{Run, finish, tidectl};

/// What the stand-in answers.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) fleet: watch::Sender<FleetView>,
    pub(crate) operation: watch::Sender<(Operation, Vec<Step>)>,
    /// Refuses everything, as a standby does.
    pub(super) refusal: Option<(Code, &'static str, &'static str)>,
    /// Whom it names when it refuses.
    pub(crate) leader: watch::Sender<Option<String>>,
    pub(crate) asked: Arc<AtomicUsize>,
}

/// A running stand-in. It lives in a runtime of its own, so that dropping it ends every
/// connection as the death of a process does.
pub(crate) struct ControlPlane {
    address: SocketAddr,
    pub(crate) answers: Answers,
    runtime: Option<Runtime>,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        Self::answering(None).await
    }

    pub(crate) async fn refusing(code: Code, message: &'static str, hint: &'static str) -> Self {
        Self::answering(Some((code, message, hint))).await
    }

    async fn answering(refusal: Option<(Code, &'static str, &'static str)>) -> Self {
        let answers = Answers {
            fleet: watch::Sender::new(fleet()),
            operation: watch::Sender::new((drain(), vec![step(Progress::Progressing)])),
            refusal,
            leader: watch::Sender::new(None),
            asked: Arc::default(),
        };
        let runtime = Runtime::new().unwrap();
        let service = answers.clone();
        let listening = runtime.spawn(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = Server::builder()
                .add_service(FleetServiceServer::new(service.clone()))
                .add_service(OperationServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener));
            (address, server)
        });
        let (address, server) = listening.await.unwrap();
        runtime.spawn(server);
        Self {
            address,
            answers,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn command(&self, words: &[&str]) -> tokio::process::Command {
        let mut command = tidectl(words);
        command.env("TIDE_CONTROL_PLANE", self.url());
        command
    }

    pub(crate) async fn run(&self, words: &[&str]) -> Run {
        finish(self.command(words), "").await
    }
}

pub(crate) fn name(text: &str) -> AgentName {
    text.parse().unwrap()
}

pub(crate) fn agent(text: &str) -> AgentView {
    AgentView {
        name: name(text),
        state: AgentState::Active,
        incarnation: Incarnation(Uuid::nil()),
        version: "0.1.0".to_owned(),
        hostname: "node".to_owned(),
        weight: 1,
        metrics_addr: None,
        pipelines: 1,
        unhealthy: 0,
        lag_p95_seconds: 0.0,
        lag_worst_seconds: 0.0,
        holds: Vec::new(),
        started_at: OffsetDateTime::now_utc() - Duration::hours(1),
        last_seen_at: OffsetDateTime::now_utc(),
        reporting: true,
        backend_pid: None,
        last_drain: None,
    }
}

pub(crate) fn pipeline(text: &str, owner: &str) -> PipelineView {
    PipelineView {
        name: text.parse().unwrap(),
        outbox: "order_events".to_owned(),
        sink: "kafka".to_owned(),
        enabled: true,
        owner: Some(name(owner)),
        epoch: None,
        last_change_id: 7,
        lag_rows: 0,
        lag_seconds: 0.0,
        state: "running".to_owned(),
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

pub(crate) fn fleet() -> FleetView {
    FleetView {
        group: "default".parse::<GroupName>().unwrap(),
        agents: vec![agent("relay-1"), agent("relay-2")],
        pipelines: vec![
            pipeline("invoices", "relay-1"),
            pipeline("orders", "relay-2"),
        ],
        database_at: OffsetDateTime::now_utc(),
        warnings: Vec::new(),
        coverage: None,
        revision: None,
    }
}

pub(crate) fn drain() -> Operation {
    Operation {
        id: OperationId(Uuid::from_u128(7)),
        kind: OperationKind::Drain,
        target: "relay-2".to_owned(),
        actor: "ana".to_owned(),
        reason: String::new(),
        state: OperationState::Running,
        outcome: None,
        moves: Vec::new(),
        created_at: OffsetDateTime::now_utc(),
        deadline_at: None,
        finished_at: None,
    }
}

pub(crate) fn ended(state: OperationState, outcome: &str) -> (Operation, Vec<Step>) {
    let operation = Operation {
        state,
        outcome: Some(outcome.to_owned()),
        finished_at: Some(OffsetDateTime::now_utc()),
        ..drain()
    };
    (operation, Vec::new())
}

pub(crate) fn step(progress: Progress) -> Step {
    Step {
        pipeline: "orders".parse().unwrap(),
        from: Some(name("relay-2")),
        to: Some(name("relay-1")),
        progress,
        until: None,
        cause: None,
        detail: "on its way".to_owned(),
        hint: None,
    }
}
