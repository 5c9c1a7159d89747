//! A database, a control plane on it, and agents that are as real as a test needs.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tide_catalog::{
    PgConnection, agents, connection::Server, lock_session::LockSession, offsets, outboxes,
    pipelines, schema,
};
use tide_control_plane::{
    ControlPlane,
    config::{Config, Rebalancing, Security},
};
use tide_daemon::{Exit, Lifecycle, LogFormat};
use tide_model::{AgentName, Epoch, GroupName, Incarnation, UnitName, fleet::FleetView};
use tide_proto::{
    agent::v1::{
        ReportRequest, ReportResponse, agent_service_client::AgentServiceClient, report_request,
        report_response,
    },
    fleet::v1::{
        GetFleetRequest, fleet_service_client::FleetServiceClient,
        operation_service_client::OperationServiceClient,
    },
};
use tide_sandbox::{
    postgres::{Postgres, PostgresOptions},
    wait::eventually,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};
use uuid::Uuid;

/// Nothing here takes this long.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A migrated database and a control plane that serves it.
pub(crate) struct World {
    pub(crate) postgres: Postgres,
    pub(crate) server: Server,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) http_addr: SocketAddr,
    channel: Channel,
}

impl World {
    /// A control plane of group `default` with nothing to look after.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(|_| {}).await
    }

    /// One that was started with something else.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Result<Self> {
        // A test ends on the thread that its clients run on, so one of them may be connecting while
        // the server stops; the server waits this long for it to say who it is.
        let settings = vec![("authentication_timeout".to_owned(), "1s".to_owned())];
        let options = PostgresOptions {
            settings,
            ..PostgresOptions::default()
        };
        let postgres = Postgres::start(options).await?;
        let url = postgres.create_database("tide").await?;
        let server = Server::parse(&url, "test")?;
        schema::migrate(&mut server.connect().await?).await?;
        let lifecycle = Lifecycle::start(Duration::from_secs(10));
        let mut config = Config {
            postgres_url: url,
            listen: ([127, 0, 0, 1], 0).into(),
            advertise_url: None,
            security: Security::default(),
            lease: Duration::from_secs(3),
            warm_up: Duration::ZERO,
            balance: Rebalancing::default(),
            group: group(),
            metrics_addr: ([127, 0, 0, 1], 0).into(),
            shutdown_timeout: Duration::from_secs(10),
            log_format: LogFormat::Text,
        };
        change(&mut config);
        let control_plane = ControlPlane::build(&config)
            .await
            .map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let address = format!("http://{}", control_plane.grpc_addr());
        let http_addr = control_plane.http_addr();
        control_plane.spawn(&lifecycle);
        let channel = Channel::from_shared(address)?.connect().await?;
        Ok(Self {
            postgres,
            server,
            lifecycle,
            http_addr,
            channel,
        })
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel())
    }

    pub(crate) fn operations(&self) -> OperationServiceClient<Channel> {
        OperationServiceClient::new(self.channel())
    }

    pub(crate) async fn connection(&self) -> Result<PgConnection> {
        Ok(self.server.connect().await?)
    }

    /// Creates pipelines to nowhere, on one outbox.
    pub(crate) async fn pipelines(&self, names: &[&str]) -> Result<()> {
        let mut connection = self.connection().await?;
        outboxes::outbox_create(&mut connection, "shop", None).await?;
        for name in names {
            let config = json!({"sink_type": "null"});
            pipelines::pipeline_set(&mut connection, name, "shop", &config).await?;
        }
        Ok(())
    }

    /// Waits until the control plane shows a fleet that `accept` likes.
    pub(crate) async fn fleet_view(
        &self,
        what: &str,
        accept: impl Fn(&FleetView) -> bool,
    ) -> Result<FleetView> {
        let mut client = self.fleet();
        let view = eventually(SOON, what, async || -> Result<_> {
            let response = client.get_fleet(GetFleetRequest {}).await?.into_inner();
            let view = FleetView::try_from(response.fleet.context("no fleet")?)?;
            if accept(&view) {
                Ok(Some(view))
            } else {
                bail!("{view:?}")
            }
        });
        Ok(view.await?)
    }

    /// Ends the control plane as SIGTERM would.
    pub(crate) async fn stop(&self) -> Result<Exit> {
        self.lifecycle.stop();
        Ok(timeout(SOON, self.lifecycle.finish()).await?)
    }
}

/// The state of the first agent; nothing if there is none yet.
pub(crate) fn state_of(view: &FleetView) -> &'static str {
    view.agents.first().map_or("", |agent| agent.state.as_str())
}

pub(crate) fn group() -> GroupName {
    "default".parse().expect("a valid name")
}

/// The half of an agent that PostgreSQL sees: a session with locks, and a registration. Dropping
/// it is a crash.
pub(crate) struct Locks {
    pub(crate) name: AgentName,
    pub(crate) incarnation: Incarnation,
    session: LockSession,
    server: Server,
}

impl Locks {
    /// Takes the name and registers, as an agent does when it starts.
    pub(crate) async fn register(world: &World, name: &str) -> Result<Self> {
        Self::register_as(world, name, Incarnation(Uuid::new_v4())).await
    }

    pub(crate) async fn register_as(
        world: &World,
        name: &str,
        incarnation: Incarnation,
    ) -> Result<Self> {
        let name: AgentName = name.parse()?;
        let lease = SOON * 10;
        let mut session = LockSession::open(&world.server, &group(), lease).await?;
        let locked = eventually(SOON, "the name lock", async || -> Result<_> {
            Ok(session.lock_name(&name).await?.then_some(()))
        });
        locked.await?;
        let registration = agents::AgentRegistration {
            group: group(),
            name: name.clone(),
            incarnation,
            run: Uuid::new_v4(),
            backend_pid: session.backend_pid(),
            version: "1.2.3".to_owned(),
            hostname: "node-1".to_owned(),
            process_id: 1,
            metrics_addr: None,
            weight: 1,
            lease,
        };
        agents::agent_register(&mut world.connection().await?, &registration).await?;
        Ok(Self {
            name,
            incarnation,
            session,
            server: world.server.clone(),
        })
    }

    /// Takes pipelines and returns the epoch of the first.
    pub(crate) async fn take(&mut self, names: &[&str]) -> Result<Epoch> {
        let names: Vec<UnitName> = names
            .iter()
            .map(|name| name.parse())
            .collect::<Result<_, _>>()?;
        anyhow::ensure!(
            self.session.try_lock(&names).await? == names,
            "locked by another"
        );
        let group = group();
        let claims = offsets::offsets_claim(
            self.session.connection().await?,
            &group,
            &self.name,
            self.incarnation,
            &names,
        );
        Ok(claims.await?.first().context("nothing to claim")?.epoch)
    }

    /// Gives pipelines away.
    pub(crate) async fn release(&mut self, names: &[&str]) -> Result<()> {
        let names: Vec<UnitName> = names
            .iter()
            .map(|name| name.parse())
            .collect::<Result<_, _>>()?;
        Ok(self.session.unlock(&names).await?)
    }

    /// Gives everything away and says that it obeyed the newest intent.
    pub(crate) async fn obey_drain(&mut self) -> Result<()> {
        let held: Vec<UnitName> = self.session.held().iter().cloned().collect();
        if !held.is_empty() {
            self.session.unlock(&held).await?;
        }
        let mut connection = self.server.connect().await?;
        let group = group();
        let view = tide_catalog::fleet::database_view(&mut connection, &group).await?;
        let beat = agents::agent_beat(
            &mut connection,
            &group,
            &self.name,
            self.incarnation,
            0,
            view.generation,
        );
        Ok(beat.await?)
    }

    /// Ends in good order.
    pub(crate) async fn stop(self) -> Result<()> {
        let mut connection = self.server.connect().await?;
        agents::agent_stopped(&mut connection, &group(), &self.name, self.incarnation).await?;
        self.session.close().await;
        Ok(())
    }
}

/// The half of an agent that the control plane hears.
pub(crate) struct Reporter {
    up: mpsc::Sender<ReportRequest>,
    down: Streaming<ReportResponse>,
    sequence: u64,
}

impl Reporter {
    /// Says hello and waits for the welcome.
    pub(crate) async fn connect(world: &World, locks: &Locks) -> Result<Self> {
        let hello = tide_model::report::AgentIdentity {
            group: group(),
            name: locks.name.clone(),
            incarnation: locks.incarnation,
            version: "1.2.3".to_owned(),
        };
        let mut reporter =
            Self::open(world, report_request::Message::Hello((&hello).into())).await?;
        match reporter.next().await? {
            report_response::Message::Welcome(welcome) => {
                anyhow::ensure!(welcome.heartbeat_interval.is_some(), "no interval");
                Ok(reporter)
            }
            other => bail!("no welcome but {other:?}"),
        }
    }

    /// Opens a stream with whatever first message.
    pub(crate) async fn open(
        world: &World,
        first: report_request::Message,
    ) -> Result<Self, Status> {
        let (up, rx) = mpsc::channel(16);
        let request = ReportRequest {
            sequence: 1,
            message: Some(first),
        };
        up.send(request)
            .await
            .map_err(|_| Status::internal("no room"))?;
        let mut client = AgentServiceClient::new(world.channel());
        let down = client.report(ReceiverStream::new(rx)).await?.into_inner();
        Ok(Self {
            up,
            down,
            sequence: 1,
        })
    }

    /// Sends a message under the next number.
    pub(crate) async fn send(&mut self, message: impl Into<report_request::Message>) -> Result<()> {
        self.sequence += 1;
        let request = ReportRequest {
            sequence: self.sequence,
            message: Some(message.into()),
        };
        Ok(self.up.send(request).await?)
    }

    /// Loses a message.
    pub(crate) fn skip(&mut self) {
        self.sequence += 1;
    }

    /// The next word of the control plane.
    pub(crate) async fn next(&mut self) -> Result<report_response::Message> {
        let response = timeout(SOON, self.down.message())
            .await
            .context("silence")??;
        response
            .context("the stream ended")?
            .message
            .context("an empty message")
    }

    /// Waits for the end of the stream, past everything but a farewell.
    pub(crate) async fn end(&mut self) -> Result<()> {
        loop {
            match timeout(SOON, self.down.message())
                .await
                .context("silence")??
            {
                None => return Ok(()),
                Some(ReportResponse {
                    message: Some(report_response::Message::Farewell(f)),
                }) => {
                    bail!("unexpected farewell: {}", f.reason)
                }
                Some(_) => {}
            }
        }
    }
}

/// Decodes the hint of a status.
pub(crate) fn hint(status: &Status) -> String {
    let hint = status.metadata().get(tide_control_plane::HINT_KEY);
    hint.map(|hint| hint.to_str().expect("hints are ASCII").to_owned())
        .unwrap_or_default()
}
