//! A transaction pooler in front of a throw-away cluster.
//!
//! Tide must refuse to hold its locks through one; this is how that is tested.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::TcpStream;

use crate::{
    leftovers::LeftoversError,
    ports::{self, Port, PortError},
    postgres::{Account, Auth, Postgres, SUPERUSER},
    process::{Process, ProcessError, ProcessSpec},
    wait::{self, TimedOut},
};

/// Where Debian installs it; not on the PATH of ordinary users.
const PROGRAM: &str = "/usr/sbin/pgbouncer";
/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why no pooler could be started.
#[derive(Debug, thiserror::Error)]
pub enum PgBouncerError {
    /// It is not installed.
    #[error("no {PROGRAM}; install it: apt-get install pgbouncer")]
    Missing,
    /// There is no place for its files.
    #[error("no directory for the pooler")]
    Directory(#[source] LeftoversError),
    /// Its files could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// No port is free.
    #[error("no port for the pooler")]
    Port(#[source] PortError),
    /// It could not be started.
    #[error("could not run the pooler")]
    Process(#[source] ProcessError),
    /// It does not listen.
    #[error("the pooler does not listen; the end of its log:\n{log}")]
    NotListening {
        /// The end of its log.
        log: String,
        /// What was waited for.
        #[source]
        source: TimedOut,
    },
}

/// A running pooler; dropping it kills it.
#[derive(Debug)]
pub struct PgBouncer {
    process: Process,
    port: Port,
}

impl PgBouncer {
    /// Starts a pooler in transaction mode for every database of the cluster.
    ///
    /// Any role of the cluster may log in, with the cluster's own rules for passwords. Its
    /// address is [`Postgres::url_via`] of [`port`](Self::port).
    pub async fn start(postgres: &Postgres) -> Result<Self, PgBouncerError> {
        if !Path::new(PROGRAM).is_file() {
            return Err(PgBouncerError::Missing);
        }
        let port = ports::reserve().map_err(PgBouncerError::Port)?;
        let scratch = postgres.scratch();
        let directory = scratch
            .directory("pgbouncer")
            .map_err(PgBouncerError::Directory)?;
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, private()))
                .and_then(|()| postgres.account().own(&path))
                .map(|()| path.clone())
                .map_err(|source| PgBouncerError::Write { path, source })
        };
        let users = write("users.txt", users(postgres))?;
        let settings = write("pgbouncer.ini", settings(postgres, port.number(), &users))?;
        let mut args = vec!["--quiet".into()];
        // It refuses to run as root, and changes the user by itself.
        if let Account::Unprivileged { name, .. } = postgres.account() {
            args.extend(["--user".into(), name.into()]);
        }
        args.push(settings.into_os_string());
        let log_path = directory.join("pgbouncer.log");
        let spec = ProcessSpec {
            args,
            log_path,
            ..ProcessSpec::new("pgbouncer", PROGRAM, scratch)
        };
        let process = Process::spawn(spec).map_err(PgBouncerError::Process)?;
        let mut pooler = Self { process, port };
        pooler.listening().await?;
        Ok(pooler)
    }

    /// The port it listens on, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The pooler's process, to freeze or kill it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    async fn listening(&mut self) -> Result<(), PgBouncerError> {
        let port = self.port();
        let process = &mut self.process;
        let connected = wait::eventually(PATIENCE, "the pooler to listen", async || {
            if !process.is_running().map_err(|error| error.to_string())? {
                return Ok(Some(false));
            }
            let connected = TcpStream::connect(("127.0.0.1", port)).await;
            connected
                .map(|_| Some(true))
                .map_err(|error| error.to_string())
        });
        match connected.await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let ended = process.terminate().err();
                Err(PgBouncerError::Process(
                    ended.expect("it was seen to have ended"),
                ))
            }
            Err(source) => Err(PgBouncerError::NotListening {
                log: process.log_tail(20),
                source,
            }),
        }
    }
}

fn private() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o600)
}

fn users(postgres: &Postgres) -> String {
    let password = match postgres.auth() {
        Auth::Trust => "",
        Auth::Password(password) => password,
    };
    format!("\"{SUPERUSER}\" \"{}\"\n", password.replace('"', "\"\""))
}

fn settings(postgres: &Postgres, port: u16, users: &Path) -> String {
    let auth = match postgres.auth() {
        Auth::Trust => "trust",
        Auth::Password(_) => "scram-sha-256",
    };
    format!(
        "[databases]\n\
         * = host=127.0.0.1 port={server} auth_user={SUPERUSER}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = {auth}\n\
         auth_file = {users}\n\
         pool_mode = transaction\n\
         max_client_conn = 1000\n\
         default_pool_size = 20\n\
         ignore_startup_parameters = extra_float_digits,options\n",
        server = postgres.port(),
        users = users.display(),
    )
}
