//! A throw-away database with a catalog, and agents on it.

use std::{ffi::OsString, io::Write as _, time::Duration};

use anyhow::{Context as _, Result};
use tide_catalog::{PgPool, connection::Server, schema};
use tide_sandbox::{
    binaries,
    leftovers::Scratch,
    postgres::{Postgres, PostgresOptions},
    process::{Process, ProcessSpec},
    proxy::Proxy,
};

const DATABASE: &str = "bench";

/// A cluster, a pool on it, and a place for logs.
pub struct Rig {
    /// Holds everything on disk.
    pub scratch: Scratch,
    /// The database.
    pub url: String,
    /// Sessions on it.
    pub pool: PgPool,
    // Last, so that it outlives what uses it.
    postgres: Postgres,
}

impl Rig {
    /// Starts a cluster without durability, which measures the relay rather than the disk.
    pub async fn start() -> Result<Self> {
        Self::start_with(vec![("shared_buffers".to_owned(), "1GB".to_owned())]).await
    }

    /// As [`start`](Self::start), with these settings of the server.
    pub async fn start_with(settings: Vec<(String, String)>) -> Result<Self> {
        Self::start_as(PostgresOptions {
            settings,
            ..PostgresOptions::default()
        })
        .await
    }

    /// Starts a cluster that makes every commit durable, with these settings.
    pub async fn start_durable(settings: Vec<(String, String)>) -> Result<Self> {
        Self::start_as(PostgresOptions {
            settings,
            durable: true,
            ..PostgresOptions::default()
        })
        .await
    }

    async fn start_as(options: PostgresOptions) -> Result<Self> {
        let scratch = Scratch::create("bench").await?;
        let postgres = Postgres::start(options).await?;
        let url = postgres.create_database(DATABASE).await?;
        let server = Server::parse(&url, "tide-bench")?;
        schema::migrate(&mut server.connect().await?).await?;
        Ok(Self {
            scratch,
            pool: server.pool(8),
            url,
            postgres,
        })
    }

    /// The server's first process.
    pub fn server(&self) -> Result<u32> {
        self.postgres.pid().context("the server is not running")
    }

    /// A proxy between an agent and the database, which can be cut, and the URL through it.
    pub async fn cable(&self) -> Result<(Proxy, String)> {
        let proxy = Proxy::to_port(self.postgres.port()).await?;
        let url = self.postgres.url_via(proxy.port(), DATABASE);
        Ok((proxy, url))
    }

    /// Starts an agent and waits until it has joined.
    pub async fn agent(&self, name: &str, args: &[&str]) -> Result<Process> {
        self.agent_at(&self.url, name, args).await
    }

    /// As [`agent`](Self::agent), reaching the database at another URL.
    pub async fn agent_at(&self, url: &str, name: &str, args: &[&str]) -> Result<Process> {
        let mut all: Vec<OsString> = vec!["--postgres-url".into(), url.into()];
        all.extend(["--name", name, "--metrics-addr", "127.0.0.1:0"].map(OsString::from));
        all.extend(args.iter().map(OsString::from));
        let program = binaries::find("tide-agent")
            .context("build it with: cargo build --release -p tide-relay-agent")?;
        let mut agent = Process::spawn(ProcessSpec {
            args: all,
            ..ProcessSpec::new(name, program, &self.scratch)
        })?;
        agent
            .wait_for_log("agent started", Duration::from_secs(20))
            .await?;
        Ok(agent)
    }
}

/// Prints a line of results.
pub fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("standard output")
}
