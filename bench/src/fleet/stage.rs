//! A fleet as PostgreSQL sees it, and a control plane that looks after it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rand::RngExt as _;
use tide_catalog::{
    agents::{AgentRegistration, agent_register},
    connection::Server,
    lock_session::LockSession,
    offsets::offsets_claim,
    outboxes::outbox_create,
};
use tide_model::{
    AgentName, GroupName, Incarnation, UnitName,
    report::{AgentIdentity, PipelineReport},
};
use tokio::{task::JoinSet, time::Instant};
use uuid::Uuid;

use super::{
    Size,
    agent::{Change, ChangeSender, SimulatedAgent, changes},
    control::Control,
};
use crate::rig::Rig;

/// What the pipelines read, evenly.
const OUTBOXES: usize = 10;
/// Nobody pings these sessions, so their lease is longer than any measurement.
const LEASE: Duration = Duration::from_hours(6);
/// Agents that are registered at once.
const AT_ONCE: usize = 8;

/// Everything that takes part.
pub(super) struct Stage {
    pub(super) control: Control,
    pub(super) agents: usize,
    pub(super) pipelines: usize,
    crowd: Vec<Member>,
    /// Ends with the stage.
    _streams: JoinSet<()>,
    rig: Rig,
}

/// One agent.
struct Member {
    units: Vec<UnitName>,
    changes: ChangeSender,
    /// Holds its locks.
    _session: LockSession,
}

impl Stage {
    /// Registers the agents, gives them their pipelines, and lets them all connect at once.
    pub(super) async fn set(size: Size) -> Result<Self> {
        let rig = Rig::start_with(settings(size)).await?;
        create_pipelines(&rig, size).await?;
        let server = Server::parse(&rig.url, "tide-bench")?;
        let joined = stream::iter(0..size.agents)
            .map(|number| join(&rig, &server, number, size.pipelines))
            .buffered(AT_ONCE);
        let joined: Vec<Joined> = joined.try_collect().await?;
        sqlx::query("VACUUM ANALYZE").execute(&rig.pool).await?;
        let control = Control::start(&rig)?;
        let mut streams = JoinSet::new();
        let mut crowd = Vec::with_capacity(size.agents);
        let url: Arc<str> = control.url().into();
        for one in joined {
            let (changes, heard) = changes();
            crowd.push(Member {
                units: one.reports.keys().cloned().collect(),
                changes,
                _session: one.session,
            });
            let agent = SimulatedAgent::new(Arc::clone(&url), one.identity, one.reports, heard);
            streams.spawn(agent.run());
        }
        Ok(Self {
            control,
            agents: size.agents,
            pipelines: size.agents * size.pipelines,
            crowd,
            _streams: streams,
            rig,
        })
    }

    /// PostgreSQL's first process.
    pub(super) fn server(&self) -> Result<u32> {
        self.rig.server()
    }

    /// Changes the state of some pipeline of some agent, and returns when.
    pub(super) async fn change_somewhere(&self, reason: &str) -> Result<Instant> {
        let (member, unit) = {
            let mut rng = rand::rng();
            let member = &self.crowd[rng.random_range(0..self.crowd.len())];
            (
                member,
                member.units[rng.random_range(0..member.units.len())].clone(),
            )
        };
        let change = Change {
            unit,
            reason: reason.to_owned(),
        };
        let at = Instant::now();
        member
            .changes
            .send(change)
            .await
            .ok()
            .context("an agent has ended")?;
        Ok(at)
    }
}

/// Room for a session an agent, and for a lock a pipeline.
fn settings(size: Size) -> Vec<(String, String)> {
    let all = [
        ("shared_buffers", "512MB".to_owned()),
        ("max_connections", (size.agents + 50).to_string()),
        (
            "max_locks_per_transaction",
            (size.pipelines + 64).to_string(),
        ),
    ];
    all.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

async fn create_pipelines(rig: &Rig, size: Size) -> Result<()> {
    let mut connection = rig.pool.acquire().await?;
    for outbox in 0..OUTBOXES {
        outbox_create(&mut connection, &format!("bench{outbox}"), None).await?;
    }
    sqlx::query(
        "INSERT INTO tide.pipelines (name, outbox, config)
         SELECT format('team-%s.orders-%s', a, p), 'bench' || (a + p) % $3, '{\"sink_type\": \"null\"}'
         FROM generate_series(0, $1 - 1) a, generate_series(0, $2 - 1) p",
    )
    .bind(size.agents as i32)
    .bind(size.pipelines as i32)
    .bind(OUTBOXES as i32)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

struct Joined {
    identity: AgentIdentity,
    session: LockSession,
    reports: BTreeMap<UnitName, PipelineReport>,
}

/// What an agent does to PostgreSQL when it starts, by the same statements.
async fn join(rig: &Rig, server: &Server, number: usize, pipelines: usize) -> Result<Joined> {
    let group: GroupName = "default".parse()?;
    let name: AgentName = format!("agent-{number:04}").parse()?;
    let incarnation = Incarnation(Uuid::new_v4());
    let mut session = LockSession::open(server, &group, LEASE).await?;
    anyhow::ensure!(session.lock_name(&name).await?, "{name} is taken");
    let registration = AgentRegistration {
        group: group.clone(),
        name: name.clone(),
        incarnation,
        run: Uuid::new_v4(),
        backend_pid: session.backend_pid(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: format!("node-{number:04}"),
        process_id: std::process::id(),
        metrics_addr: None,
        weight: 1,
        lease: LEASE,
    };
    agent_register(&mut *rig.pool.acquire().await?, &registration).await?;
    let units: Vec<UnitName> = (0..pipelines)
        .map(|pipeline| format!("team-{number}.orders-{pipeline}").parse())
        .collect::<Result<_, _>>()?;
    session.try_lock(&units).await?;
    let claims = offsets_claim(
        session.connection().await?,
        &group,
        &name,
        incarnation,
        &units,
    )
    .await?;
    let reports = claims
        .into_iter()
        .map(|claim| (claim.pipeline, super::agent::first_report(claim.epoch)))
        .collect();
    Ok(Joined {
        identity: AgentIdentity {
            group,
            name,
            incarnation,
            version: registration.version,
        },
        session,
        reports,
    })
}
