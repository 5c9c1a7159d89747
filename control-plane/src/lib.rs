//! The control plane: one view of the fleet, and durable operations on it.
//!
//! ```text
//!  agents ═══ reports, nudges ═══╗
//!                                ▼
//!  operators ── gRPC ──▶ api ──▶ fleet (hub) ◀── notices (LISTEN) ◀── PostgreSQL
//!                         │                                              ▲  ▲
//!                         └────▶ operations: commands ─── intent ────────┘  │
//!                                            settler ─── is it done? ───────┘
//!  scrapers ── HTTP ──▶ probes, metrics
//! ```
//!
//! Correctness never depends on this process: it keeps nothing that PostgreSQL or the agents do
//! not tell the next one, so killing it at any instant loses nothing. Several of them may run side
//! by side on one database: one is the active one (`leadership`), the others refuse requests with
//! its address and take over when it goes.

mod access;
mod api;
pub mod args;
mod audit;
pub mod config;
mod database;
mod fleet;
mod leadership;
mod metrics;
mod notices;
mod operations;
mod probes;
mod startup;

use std::{net::SocketAddr, sync::Arc};

use tide_daemon::{Exit, Failure, HttpServer, Lifecycle, Metrics};
use tide_model::{GroupName, rebalance::Mode};
use tokio::net::TcpListener;
use tracing::info;

pub use self::api::{HINT_KEY, LEADER_KEY};
use self::{
    access::{
        files::{CredentialsReader, CredentialsTask},
        gate::Gate,
        methods::Method,
    },
    api::Services,
    config::{Config, Security},
    database::Database,
    fleet::{FleetHandle, FleetTask},
    leadership::{Leadership, LeadershipTask},
    operations::{balancer::Balance, commands::Commands},
    probes::ControlPlaneProbes,
};

/// Starts, serves until told to stop, and ends in good order.
pub async fn run(config: Config) -> Result<Exit, Failure> {
    let lifecycle = Lifecycle::start(config.shutdown_timeout);
    let stop = lifecycle.soft();
    let built = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(lifecycle.finish().await),
        built = ControlPlane::build(&config) => built?,
    };
    built.spawn(&lifecycle);
    Ok(lifecycle.finish().await)
}

/// Everything checked, read and bound, and nothing served yet.
pub struct ControlPlane {
    group: GroupName,
    database: Database,
    fleet: FleetHandle,
    hub: FleetTask,
    leadership: Leadership,
    election: LeadershipTask,
    grpc: TcpListener,
    grpc_addr: SocketAddr,
    http: HttpServer,
    http_addr: SocketAddr,
    metrics: Metrics,
    security: Security,
    credentials: CredentialsReader,
    credentials_task: CredentialsTask,
    balance: Balance,
}

impl ControlPlane {
    /// Checks the database, reads the fleet once, binds both addresses and tries to lead.
    pub async fn build(config: &Config) -> Result<Self, Failure> {
        let metrics = Metrics::install().map_err(Failure::failed)?;
        self::metrics::describe(&Method::our_names());
        let (credentials, credentials_task) = access::files::credentials(&config.security)?;
        let (database, first) = startup::open_database(config).await?;
        let (grpc, grpc_addr) = startup::bind_grpc(config.listen).await?;
        let (http, http_addr) = startup::bind_http(config.metrics_addr).await?;
        let (fleet, hub) = fleet::fleet(database.clone(), first, config.warm_up);
        let node = startup::node_id(grpc_addr)?;
        let address = startup::advertised(config, grpc_addr);
        let (leadership, election) = leadership::contend(&database, node, address, config.lease)
            .await
            .map_err(startup::failed)?;
        Ok(Self {
            group: config.group.clone(),
            database,
            fleet,
            hub,
            leadership,
            election,
            grpc,
            grpc_addr,
            http,
            http_addr,
            metrics,
            security: config.security.clone(),
            credentials,
            credentials_task,
            balance: config.balance.into(),
        })
    }

    /// Where gRPC is served once it is.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Where metrics and probes are served once they are.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Starts every part as a task of the process.
    pub fn spawn(self, lifecycle: &Lifecycle) {
        let stop = lifecycle.soft();
        let gate = Gate::new(
            self.group.clone(),
            self.credentials.clone(),
            self.security.asks(),
            self.security.request_rate,
        );
        let (audit, audit_task) = audit::audit(self.database.clone());
        let commands = Commands::new(
            self.database.clone(),
            self.fleet.clone(),
            self.leadership.clone(),
            self.balance,
        );
        let services = Services {
            gate,
            audit,
            credentials: self.credentials,
            cors_origins: self.security.cors_origins.clone(),
            group: self.group.clone(),
            fleet: self.fleet.clone(),
            leadership: self.leadership.clone(),
            commands: commands.clone(),
        };
        let probes = Arc::new(ControlPlaneProbes::new(
            self.fleet.clone(),
            self.leadership.clone(),
            stop.clone(),
        ));
        info!(group = %self.group, database = self.database.server().label(), "fleet read");
        lifecycle.spawn("credentials", self.credentials_task.run(stop.clone()));
        lifecycle.spawn("audit", audit_task.run(stop.clone()));
        lifecycle.spawn(
            "hub",
            self.hub.run(self.leadership.standings(), stop.clone()),
        );
        lifecycle.spawn(
            "notices",
            notices::listen(self.database.clone(), self.fleet.clone(), stop.clone()),
        );
        lifecycle.spawn(
            "settler",
            operations::settle(self.database, self.fleet, self.leadership, stop.clone()),
        );
        if self.balance.terms.mode != Mode::Off {
            lifecycle.spawn(
                "balancer",
                operations::balancer::even_out(commands, stop.clone()),
            );
        }
        lifecycle.spawn("election", self.election.run(stop.clone()));
        lifecycle.spawn("grpc", api::serve(services, self.grpc, stop.clone()));
        lifecycle.spawn("http", self.http.serve(self.metrics, probes, stop));
        let security = self.security.describe();
        info!(address = %self.grpc_addr, security, "serving gRPC");
        info!(address = %self.http_addr, "serving metrics");
    }
}
