//! A fleet: PostgreSQL, agents, pipelines, load, and what was done to it all.

mod agent;
mod check;
mod disturb;
mod intent;
mod observe;
mod pipelines;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use sqlx::{PgPool, pool::PoolConnection, postgres::PgPoolOptions};
use tide_catalog::schema;
use tide_model::GroupName;
use tide_sandbox::{
    leftovers::Scratch,
    postgres::{Postgres, PostgresOptions},
    proxy::Proxy,
    publisher::{Ledger, PublishPlan, Publisher},
};

use self::disturb::Disturbed;
pub use self::{
    agent::{Agent, AgentSpec},
    observe::{Owner, owners},
    pipelines::{Pipeline, Tap},
};
use crate::{SOON, by_hand::Drafts};

/// The database that everything lives in.
pub const DATABASE: &str = "app";

/// How agents reach PostgreSQL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// Straight.
    #[default]
    Direct,
    /// Each through a proxy of its own, which can be cut.
    Proxied,
}

/// What the fleet is made of; the default suits most scenarios.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// How many agents start: `relay-1`, `relay-2`, …
    pub agents: usize,
    /// Their group.
    pub group: String,
    /// Their lease. Long by default: a busy machine must not look like a failure. Scenarios that
    /// wait for a lease to end set a short one.
    pub lease: Duration,
    /// How often they look without news. Long, so that a scenario which needs luck instead of
    /// news fails.
    pub discovery_interval: Duration,
    /// How long their shutdown may take.
    pub shutdown_timeout: Duration,
    /// How they reach PostgreSQL.
    pub network: Network,
    /// The server.
    pub postgres: PostgresOptions,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self {
            agents: 3,
            group: "default".to_owned(),
            lease: Duration::from_secs(5),
            discovery_interval: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(20),
            network: Network::Direct,
            postgres: PostgresOptions::default(),
        }
    }
}

impl FleetOptions {
    /// So many agents.
    pub fn agents(agents: usize) -> Self {
        Self {
            agents,
            ..Self::default()
        }
    }
}

/// A running fleet; dropping it kills everything.
#[derive(Debug)]
pub struct Fleet {
    // Agents end before the server that they talk to, and the server before its files.
    agents: BTreeMap<String, Agent>,
    pipelines: Vec<Pipeline>,
    publisher: Option<Publisher>,
    disturbances: Vec<Disturbed>,
    options: FleetOptions,
    group: GroupName,
    proxies: BTreeMap<String, Proxy>,
    pool: PgPool,
    /// What the test publishes itself.
    pub drafts: Drafts,
    /// The server.
    pub postgres: Postgres,
    /// Where files and logs are.
    pub scratch: Scratch,
}

impl Fleet {
    /// Starts PostgreSQL, installs the catalog, and starts the agents.
    pub async fn start(options: FleetOptions) -> Result<Self> {
        let scratch = Scratch::create("it").await?;
        let postgres = Postgres::start(options.postgres.clone()).await?;
        let url = postgres.create_database(DATABASE).await?;
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(SOON)
            .connect(&url)
            .await?;
        schema::migrate(&mut *pool.acquire().await?).await?;
        let mut fleet = Self {
            agents: BTreeMap::new(),
            pipelines: Vec::new(),
            publisher: None,
            disturbances: Vec::new(),
            group: options.group.parse()?,
            options,
            proxies: BTreeMap::new(),
            pool,
            drafts: Drafts::default(),
            postgres,
            scratch,
        };
        let names: Vec<String> = (1..=fleet.options.agents)
            .map(|number| format!("relay-{number}"))
            .collect();
        fleet.start_agents(&names).await?;
        Ok(fleet)
    }

    /// Starts agents, all of them before the first is waited for.
    pub async fn start_agents(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            self.launch(name).await?;
        }
        for name in names {
            self.agent(name).started().await?;
        }
        Ok(())
    }

    /// Starts one more agent, or a dead one again, and waits until it has joined.
    pub async fn start_agent(&mut self, name: &str) -> Result<()> {
        self.launch(name).await?;
        self.agent(name).started().await
    }

    /// What an agent of this name would be started with.
    pub fn spec(&self, name: &str) -> AgentSpec {
        let port = match self.proxies.get(name) {
            Some(proxy) => proxy.port(),
            None => self.postgres.port(),
        };
        AgentSpec::new(name, self.postgres.url_via(port, DATABASE), &self.options)
    }

    /// Starts an agent as the test specifies it, and waits until it has joined.
    pub async fn start_as(&mut self, spec: AgentSpec) -> Result<()> {
        let name = spec.name.clone();
        self.launch_as(spec)?;
        self.agent(&name).started().await
    }

    /// As [`start_as`](Self::start_as), without waiting for anything.
    pub fn launch_as(&mut self, spec: AgentSpec) -> Result<()> {
        let agent = Agent::spawn(&spec, &self.scratch)?;
        self.agents.insert(spec.name, agent);
        Ok(())
    }

    /// Starts an agent with other flags than the usual ones, and does not wait for it.
    pub async fn launch_changed(
        &mut self,
        name: &str,
        change: impl FnOnce(AgentSpec) -> AgentSpec,
    ) -> Result<()> {
        self.connect_network(name).await?;
        self.launch_as(change(self.spec(name)))
    }

    /// One of the agents.
    ///
    /// # Panics
    /// If it was never started.
    pub fn agent(&mut self, name: &str) -> &mut Agent {
        self.agents
            .get_mut(name)
            .unwrap_or_else(|| panic!("no agent {name}"))
    }

    /// The network between an agent and PostgreSQL.
    ///
    /// # Panics
    /// If the fleet is not [`Network::Proxied`].
    pub fn network(&self, agent: &str) -> &Proxy {
        &self.proxies[agent]
    }

    /// The names of the agents that were started, dead ones too.
    pub fn agent_names(&self) -> Vec<String> {
        self.agents.keys().cloned().collect()
    }

    /// The group.
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// Sessions of the superuser.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// One session of the superuser.
    pub async fn connection(&self) -> Result<PoolConnection<sqlx::Postgres>> {
        self.pool.acquire().await.context("connecting as a test")
    }

    /// The URL of the database as the superuser.
    pub fn url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    /// Publishes to every outbox that a pipeline reads, in every transaction shape, and waits
    /// until there is a first message.
    pub async fn publish(&mut self) -> Result<()> {
        self.publish_as(|plan| plan).await
    }

    /// As [`publish`](Self::publish), with another plan made from the usual one.
    pub async fn publish_as(
        &mut self,
        change: impl FnOnce(PublishPlan) -> PublishPlan,
    ) -> Result<()> {
        let mut outboxes: Vec<String> = self
            .pipelines
            .iter()
            .map(|pipeline| pipeline.outbox.clone())
            .collect();
        outboxes.sort();
        outboxes.dedup();
        let plan = change(PublishPlan::mixed(outboxes));
        let publisher = Publisher::start(&self.pool, plan).await?;
        publisher.wait_for_committed(1, SOON).await?;
        self.publisher = Some(publisher);
        Ok(())
    }

    /// Waits until so many more messages are committed from now on.
    pub async fn publish_more(&self, count: usize) -> Result<()> {
        let publisher = self.publisher.as_ref().context("nobody publishes")?;
        let committed = publisher.committed();
        Ok(publisher
            .wait_for_committed(committed + count, SOON)
            .await?)
    }

    /// Ends the load and returns its account, if there was any.
    pub async fn stop_publishing(&mut self) -> Result<Option<Ledger>> {
        Ok(match self.publisher.take() {
            Some(publisher) => Some(publisher.stop(SOON).await?),
            None => None,
        })
    }

    /// Starts an agent and waits for nothing.
    pub async fn launch(&mut self, name: &str) -> Result<()> {
        self.launch_changed(name, |spec| spec).await
    }

    async fn connect_network(&mut self, name: &str) -> Result<()> {
        if self.options.network == Network::Proxied && !self.proxies.contains_key(name) {
            let proxy = Proxy::to_port(self.postgres.port()).await?;
            self.proxies.insert(name.to_owned(), proxy);
        }
        Ok(())
    }
}
