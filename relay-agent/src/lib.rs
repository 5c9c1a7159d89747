//! The relay agent: one daemon a node, a fleet of them a database.
//!
//! ```text
//! catalog ──▶ discovery ──▶ ownership ──▶ coordinator ──▶ workers ──▶ sinks
//!    ▲            ▲              ▲            │              │
//!    │         notices      lock session ◀────┘              │
//!    └────────────────────── committer ◀─────────────────────┘
//!                                         gauges ──▶ metrics, probes, reporter ──▶ control plane
//! ```
//!
//! Data flows one way; the circle closes in PostgreSQL, never in a callback. An agent uses six
//! sessions: one for its locks, one to listen, one to watch its neighbour, three for everything
//! else. The one that is the janitor has one more for that lock, and another while it deletes; one
//! with inboxes in the outboxes' own database has up to two for those.

pub mod args;
pub mod config;
pub mod status;

mod boot_clock;
mod committer;
mod control_plane_access;
mod control_planes;
mod coordinator;
mod crash_watch;
mod crowding;
mod departure;
mod discovery;
mod gauge;
mod handovers;
mod health;
mod janitor;
mod locks;
mod metrics;
mod notices;
mod orders;
mod ownership;
mod preparation;
mod reach;
mod reporter;
mod sink;
mod trust;
mod wakeup;
mod worker;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tide_catalog::{CatalogError, listener::Notice, messages, reach::Speaker, rights, schema};
use tide_daemon::{
    http::HttpServer,
    lifecycle::{Exit, Lifecycle},
    main_exit::Failure,
    metrics::Metrics,
};
use tide_model::{AgentName, Incarnation};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    committer::CommitterHandle,
    config::Config,
    control_planes::ControlPlanes,
    coordinator::{Coordinator, Parts, Patience, StartError},
    gauge::Gauges,
    handovers::{HandoverHandle, Recorder},
    health::{AgentProbes, Board},
    janitor::Janitor,
    locks::Identity,
    preparation::{Preparer, Request, Shelf},
    reach::Reach,
    reporter::Reporter,
    wakeup::WakeupHandle,
    worker::Services,
};

/// Sessions for reading, storing and looking around: with the others that the diagram names, no
/// agent has more than eight, even if it is the janitor.
const POOL: u32 = 3;
/// How long to wait for the listening session before we join without it.
const LISTENING: Duration = Duration::from_secs(2);

/// Runs the agent until it is told to stop, and says how that went.
pub async fn run(config: Config) -> Result<Exit, Failure> {
    let lifecycle = Lifecycle::start(config.shutdown_timeout);
    let recorder = Metrics::install().map_err(Failure::failed)?;
    metrics::describe();
    let mut patience = Patience::default();
    while let Err(error) = refuse_what_cannot_work(&config).await {
        let borne = patience.bear(error, &lifecycle.soft()).await;
        borne.map_err(catalog_failure)?;
    }
    let http = bind(config.metrics_addr).await?;
    let address = http.local_addr().map_err(Failure::failed)?;

    lifecycle.tracker().spawn_blocking(sink::warm_up);
    let (parts, ends) = wire(&config, address, &lifecycle);
    let services = parts.services.clone();
    let planes = |named| {
        let (pool, access) = (services.pool.clone(), config.control_plane_access.clone());
        ControlPlanes::parse(named, &config.group, pool, access)
    };
    let planes = config.control_plane.as_deref().map(planes).transpose()?;
    let janitor = janitor(&config, &services)?;
    let probes = AgentProbes {
        board: parts.board.clone(),
        gauges: parts.gauges.clone(),
        wakeups: services.wakeups.clone(),
        shown: Mutex::default(),
    };
    let reporter = |stop| {
        planes.map(|planes| Reporter {
            planes,
            identity: parts.identity.clone(),
            incarnation: ends.incarnation,
            gauges: parts.gauges.clone(),
            wakeups: services.wakeups.clone(),
            nudges: ends.nudges,
            stop,
            told: None,
        })
    };
    let helpers = Helpers {
        lifecycle: lifecycle.clone(),
        stop: CancellationToken::new(),
    };
    let reporter = reporter(helpers.stop.clone());
    if !config.discovery_only {
        listen(&helpers, &config, ends.notices).await;
    }
    let coordinator = Coordinator::start(parts).await.map_err(start_failure)?;
    info!(agent = %config.name, group = %config.group, address = %address, "agent started");

    lifecycle.spawn(
        "http",
        http.serve(recorder, Arc::new(probes), helpers.stop.clone()),
    );
    let Services {
        group,
        pool,
        committer,
        wakeups,
        shelf,
        reach,
        ..
    } = services;
    helpers.finish("committer", |stop| {
        committer.run(pool.clone(), group.clone(), stop)
    });
    helpers.finish("wake-up", |stop| wakeups.run(pool.clone(), stop));
    let preparer = Preparer {
        pool: pool.clone(),
        shelf,
        reach: reach.clone(),
        requests: ends.requests,
    };
    let (of_pool, of_group, name) = (pool.clone(), group.clone(), config.name.clone());
    helpers.finish("hand-over recorder", |stop| {
        ends.recorder.run(of_pool, of_group, name, stop)
    });
    helpers.finish("preparer", |stop| preparer.run(stop));
    helpers.finish("reach", |stop| reach.run(stop));
    if config.discovery_only {
        info!(interval = ?config.discovery_interval, "looking at intervals only");
    } else {
        let watch = crash_watch::run(config.server.clone(), group, ends.neighbour, ends.gone);
        helpers.drop_at_stop("crash watch", watch);
    }
    if let Some(reporter) = reporter {
        helpers.finish("reporter", |_| reporter.run());
    }
    if let Some(janitor) = janitor {
        helpers.finish("janitor", |stop| janitor.run(stop));
    }
    let hard = lifecycle.hard();
    lifecycle.spawn("coordinator", async move {
        Box::pin(hard.run_until_cancelled(coordinator.run())).await;
        helpers.stop.cancel();
        Ok::<_, Infallible>(())
    });
    let exit = lifecycle.finish().await;
    pool.close().await;
    info!(?exit, "agent stopped");
    Ok(exit)
}

/// Others speak to us from the moment that we have joined: listen before.
async fn listen(helpers: &Helpers, config: &Config, notices: mpsc::Sender<Notice>) {
    let listening = CancellationToken::new();
    let listener = notices::run(config.server.clone(), notices, listening.clone());
    helpers.drop_at_stop("listener", listener);
    // It is tried again for as long as it takes; so long do we wait.
    drop(timeout(LISTENING, listening.cancelled()).await);
}

async fn bind(address: SocketAddr) -> Result<HttpServer, Failure> {
    HttpServer::bind(address).await.map_err(|error| {
        Failure::failed(format!("could not serve metrics on {address}: {error}")).with_hint(Some(
            "choose another address with --metrics-addr, or port 0 for any",
        ))
    })
}

/// The far ends of the coordinator's channels.
struct Ends {
    notices: mpsc::Sender<Notice>,
    gone: mpsc::Sender<AgentName>,
    nudges: mpsc::Sender<()>,
    requests: mpsc::Receiver<Request>,
    recorder: Recorder,
    neighbour: watch::Receiver<Option<AgentName>>,
    incarnation: watch::Receiver<Option<Incarnation>>,
}

/// Makes everything that the parts share.
fn wire(config: &Config, address: SocketAddr, lifecycle: &Lifecycle) -> (Parts, Ends) {
    let (notices_tx, notices) = mpsc::channel(256);
    let (gone_tx, gone) = mpsc::channel(16);
    let (nudges_tx, nudges) = mpsc::channel(4);
    let (preparations, requests) = mpsc::channel(64);
    let (handovers, recorder) = handovers::channel();
    let (neighbour, neighbour_rx) = watch::channel(None);
    let (reports, reports_rx) = watch::channel(None);
    let identity = Identity {
        group: config.group.clone(),
        name: config.name.clone(),
        run: uuid::Uuid::now_v7(),
        weight: config.weight,
        hostname: config::host_name().unwrap_or_else(|_| "unknown".to_owned()),
        metrics_addr: Some(address.to_string()),
    };
    let services = services(config, &identity, handovers);
    let parts = Parts {
        config: config.clone(),
        identity,
        services,
        gauges: Gauges::default(),
        board: Board::new(),
        notices,
        gone,
        nudges,
        neighbour,
        preparations,
        reports,
        soft: lifecycle.soft(),
    };
    let ends = Ends {
        notices: notices_tx,
        gone: gone_tx,
        nudges: nudges_tx,
        requests,
        recorder,
        neighbour: neighbour_rx,
        incarnation: reports_rx,
    };
    (parts, ends)
}

fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Catalog(error) => catalog_failure(error),
        error @ StartError::NameTaken { .. } => Failure::failed(error).with_hint(Some(
            "give this agent another --name, or stop the other one",
        )),
    }
}

async fn refuse_what_cannot_work(config: &Config) -> Result<(), CatalogError> {
    config.server.check().await?;
    let mut connection = config.server.connect().await?;
    rights::verify_relay(&mut connection).await?;
    schema::verify(&mut connection).await
}

fn catalog_failure(error: CatalogError) -> Failure {
    let hint = error.hint();
    Failure::failed(error).with_hint(hint)
}

fn services(config: &Config, identity: &Identity, handovers: HandoverHandle) -> Services {
    // A position that a server crash takes back costs a repetition, nothing else; claims, which must
    // last, are written on the lock session.
    let settings: Vec<(&str, String)> = std::iter::once(("synchronous_commit", "off"))
        .chain(messages::SETTINGS)
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    let pool = config.server.with_settings(&settings).pool(POOL);
    let speaker = Speaker {
        group: identity.group.clone(),
        agent: identity.name.clone(),
        run: identity.run,
    };
    Services {
        group: config.group.clone(),
        reach: Reach::new(speaker, pool.clone()),
        pool,
        committer: CommitterHandle::default(),
        wakeups: WakeupHandle::default(),
        shelf: Shelf::default(),
        handovers,
        home: sink::Home::new(&config.server),
    }
}

/// Tasks that outlive the coordinator, so that the last positions are stored and the last metrics
/// can be scraped.
struct Helpers {
    lifecycle: Lifecycle,
    stop: CancellationToken,
}

impl Helpers {
    /// Runs a task that ends by itself soon after it is told to.
    fn finish<F>(&self, part: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.lifecycle
            .spawn(part, infallible(task(self.stop.clone())));
    }

    /// Runs a task that has nothing to finish.
    fn drop_at_stop(&self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.lifecycle.spawn(
            part,
            infallible(self.stop.clone().run_until_cancelled_owned(task)),
        );
    }
}

async fn infallible<T>(task: impl Future<Output = T>) -> Result<(), Infallible> {
    task.await;
    Ok(())
}

fn janitor(config: &Config, services: &Services) -> Result<Option<Janitor>, Failure> {
    let Some(housekeeping) = config.housekeeping else {
        return Ok(None);
    };
    let node = format!("{}/{}", config.group, config.name);
    let node = node.parse().map_err(Failure::usage)?;
    let pool = services.pool.clone();
    Ok(Some(Janitor::new(&config.server, pool, node, housekeeping)))
}
