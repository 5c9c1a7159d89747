//! Throw-away PostgreSQL clusters: started in a few dozen milliseconds, gone when dropped.
//!
//! `initdb` runs once per server version into a template that all processes of this user share;
//! each cluster is a copy of it, with a port and a directory of its own. As root the server runs
//! as user `postgres`, else as `nobody`. The server is a direct child and is waited for.
//!
//! The superuser is `postgres`. Clusters listen on 127.0.0.1 and on a Unix socket in
//! [`Postgres::socket_dir`]. They are made for logical decoding, replication and prepared
//! transactions, so that no test needs settings for these.
//!
//! ```text
//!            start                 stop_fast, stop_immediate, kill
//! (nothing) ───────▶ Running ──────────────────────────────────────▶ Stopped
//!                     │  ▲ ▲                  restart                  │
//!              freeze ▼  │ └────────────────────────────────────────────┘
//!                    Frozen  thaw
//! ```

mod account;
mod binaries;
mod cluster;
mod copy;
mod error;
mod server;
mod standby;
mod template;
mod url;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use self::{cluster::Cluster, server::Server};
use crate::leftovers::Scratch;

pub(crate) use self::account::Account;
pub use self::{binaries::BIN_DIR, error::PostgresError};

/// The superuser of every cluster.
pub const SUPERUSER: &str = "postgres";
/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_mins(1);

/// Who may connect over TCP. The Unix socket always trusts, but only the server's own user and
/// root get at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Auth {
    /// Everybody, as anybody.
    #[default]
    Trust,
    /// SCRAM passwords; this is the superuser's.
    Password(String),
}

/// How a cluster is made; the default suits nearly every test.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The directory of `postgres` and `initdb`; searched for if absent.
    pub binaries: Option<PathBuf>,
    /// Who may connect over TCP.
    pub auth: Auth,
    /// Whether a power failure must not lose commits (`fsync`). A killed server loses none
    /// either way.
    pub durable: bool,
    /// `max_connections`.
    pub max_connections: u32,
    /// Further lines of `postgresql.conf`; they win over our own.
    pub settings: Vec<(String, String)>,
    /// Where the cluster lives; a scratch directory of its own if absent.
    pub scratch: Option<Scratch>,
}

/// How to bring a server down before it comes up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Clients are disconnected, a checkpoint is written.
    Fast,
    /// No goodbye to clients; the next start recovers from the log.
    Immediate,
    /// SIGKILL to the postmaster, as the kernel does when memory runs out.
    Kill,
}

/// A cluster of our own. Dropping it stops it at once and removes its directory.
#[derive(Debug)]
pub struct Postgres {
    // Before the cluster: the server has to end before its files go.
    server: Server,
    cluster: Cluster,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            binaries: None,
            auth: Auth::Trust,
            durable: false,
            max_connections: 100,
            settings: Vec::new(),
            scratch: None,
        }
    }
}

impl Postgres {
    /// Makes a cluster from the template and starts it; returns when it accepts connections.
    pub async fn start(options: PostgresOptions) -> Result<Self, PostgresError> {
        let cluster = Cluster::from_template(options).await?;
        let server = Server::start(&cluster).await?;
        let postgres = Self { server, cluster };
        if let Auth::Password(password) = postgres.cluster.auth() {
            let quoted = password.replace('\'', "''");
            let statement = format!("ALTER ROLE {SUPERUSER} PASSWORD '{quoted}'");
            postgres
                .execute("setting the superuser's password", statement)
                .await?;
        }
        Ok(postgres)
    }

    /// Makes a streaming replica of a running cluster and starts it as a hot standby.
    ///
    /// It uses the primary's server binaries and settings, and its own directory and port.
    pub async fn start_standby(primary: &Postgres) -> Result<Self, PostgresError> {
        let cluster = standby::cluster_of(&primary.cluster).await?;
        let server = Server::start(&cluster).await?;
        Ok(Self { server, cluster })
    }

    /// Makes a standby a primary, on a timeline of its own, and returns when it takes writes.
    pub async fn promote(&self) -> Result<(), PostgresError> {
        self.execute("promoting", "SELECT pg_promote()".to_owned())
            .await
    }

    /// The URL of a database here, as the superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_via(self.port(), database)
    }

    /// The URL of a database here, as the given user; any text is fine in all three.
    pub fn url_for(&self, user: &str, password: &str, database: &str) -> String {
        url::url(user, Some(password), self.port(), database)
    }

    /// Like [`url`](Self::url), but through something that listens on another port: a
    /// [`Proxy`](crate::proxy::Proxy) or a [`PgBouncer`](crate::pgbouncer::PgBouncer).
    pub fn url_via(&self, port: u16, database: &str) -> String {
        url::url(SUPERUSER, self.cluster.password(), port, database)
    }

    /// The TCP port; the same after a restart.
    pub fn port(&self) -> u16 {
        self.cluster.port()
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        self.cluster.data()
    }

    /// The directory of the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.cluster.directory()
    }

    /// Who may connect over TCP, and the superuser's password if one is needed.
    pub fn auth(&self) -> &Auth {
        self.cluster.auth()
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self, lines: usize) -> String {
        self.server.log_tail(lines)
    }

    /// The process id of the postmaster while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Creates an empty database and returns its URL as the superuser.
    pub async fn create_database(&self, name: &str) -> Result<String, PostgresError> {
        let quoted = name.replace('"', "\"\"");
        let statement = format!("CREATE DATABASE \"{quoted}\"");
        self.execute("creating a database", statement).await?;
        Ok(self.url(name))
    }

    /// Disconnects clients, writes a checkpoint and stops.
    pub async fn stop_fast(&mut self) -> Result<(), PostgresError> {
        self.stop(Mode::Fast).await
    }

    /// Stops without a goodbye; the next start recovers.
    pub async fn stop_immediate(&mut self) -> Result<(), PostgresError> {
        self.stop(Mode::Immediate).await
    }

    /// Kills the postmaster with SIGKILL and waits until its backends have noticed.
    ///
    /// Backends notice when they next wait for something, so a busy one may outlive the
    /// postmaster for a moment, as in production.
    pub async fn kill(&mut self) -> Result<(), PostgresError> {
        self.stop(Mode::Kill).await
    }

    /// Stops the server, if it runs, and starts it again on the same port.
    pub async fn restart(&mut self, mode: Mode) -> Result<(), PostgresError> {
        self.stop(mode).await?;
        self.server = Server::start(&self.cluster).await?;
        Ok(())
    }

    /// Stops every process of the server in its tracks (SIGSTOP): connections stay open and
    /// nothing answers.
    pub fn freeze(&self) -> Result<(), PostgresError> {
        self.server.signal_all(Signal::SIGSTOP)
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) -> Result<(), PostgresError> {
        self.server.signal_all(Signal::SIGCONT)
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.cluster.scratch
    }

    pub(crate) fn account(&self) -> Account {
        self.cluster.account
    }

    async fn stop(&mut self, mode: Mode) -> Result<(), PostgresError> {
        self.server.stop(mode).await
    }

    /// Runs one statement as the superuser over the Unix socket, which needs no password.
    async fn execute(&self, doing: &'static str, sql: String) -> Result<(), PostgresError> {
        let failed = |source| PostgresError::Execute { doing, source };
        let options = sqlx::postgres::PgConnectOptions::new_without_pgpass()
            .socket(self.socket_dir())
            .port(self.port())
            .username(SUPERUSER)
            .database(SUPERUSER);
        let mut connection = PgConnection::connect_with(&options).await.map_err(failed)?;
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .map_err(failed)?;
        connection.close().await.map_err(failed)
    }
}
