//! The files of one cluster: its directory, configuration and port, whether it runs or not.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{Account, Auth, PostgresError, PostgresOptions, SUPERUSER, binaries, copy, template};
use crate::{
    leftovers::Scratch,
    ports::{self, Port},
};

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) binaries: PathBuf,
    pub(super) account: Account,
    pub(super) scratch: Scratch,
    directory: PathBuf,
    data: PathBuf,
    port: Port,
    options: PostgresOptions,
}

impl Cluster {
    /// A fresh cluster.
    pub(super) async fn from_template(options: PostgresOptions) -> Result<Self, PostgresError> {
        let account = Account::choose()
            .map_err(PostgresError::Account)?
            .ok_or(PostgresError::NoAccount)?;
        let cluster = Self::empty(account, options).await?;
        blocking(move || {
            let template = template::prepare(&cluster.binaries, account)?;
            copy::tree(&template, &cluster.data, account).map_err(unwritten(&cluster.data))?;
            cluster.write_access_rules()?;
            cluster.write_settings()?;
            Ok(cluster)
        })
        .await
    }

    /// A place and a port for a cluster like another one, with no data yet.
    pub(super) async fn beside(other: &Self) -> Result<Self, PostgresError> {
        Self::empty(
            other.account,
            PostgresOptions {
                scratch: None,
                ..other.options.clone()
            },
        )
        .await
    }

    async fn empty(account: Account, options: PostgresOptions) -> Result<Self, PostgresError> {
        let binaries = binaries::find(options.binaries.as_deref())?;
        let scratch = match options.scratch.clone() {
            Some(scratch) => scratch,
            None => Scratch::create("postgres")
                .await
                .map_err(PostgresError::Scratch)?,
        };
        let directory = scratch
            .directory("postgres")
            .map_err(PostgresError::Scratch)?;
        // The socket lives here too: only the account (and root) may enter.
        fs::set_permissions(&directory, Permissions::from_mode(0o700))
            .and_then(|()| account.own(&directory))
            .map_err(unwritten(&directory))?;
        let port = ports::reserve().map_err(PostgresError::Port)?;
        let data = directory.join("data");
        Ok(Self {
            binaries,
            account,
            scratch,
            directory,
            data,
            port,
            options,
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    pub(super) fn port(&self) -> u16 {
        self.port.number()
    }

    pub(super) fn auth(&self) -> &Auth {
        &self.options.auth
    }

    pub(super) fn password(&self) -> Option<&str> {
        match &self.options.auth {
            Auth::Trust => None,
            Auth::Password(password) => Some(password),
        }
    }

    /// Appends our settings: of several lines for one setting the last one counts.
    pub(super) fn write_settings(&self) -> Result<(), PostgresError> {
        self.append(&self.settings())
    }

    fn append(&self, text: &str) -> Result<(), PostgresError> {
        let path = self.data.join("postgresql.conf");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(unwritten(&path))
    }

    /// Makes it a standby of the server that these connection options lead to.
    pub(super) fn follow(&self, source: &str) -> Result<(), PostgresError> {
        let path = self.data.join("standby.signal");
        fs::write(&path, "")
            .and_then(|()| self.account.own(&path))
            .map_err(unwritten(&path))?;
        let quoted = source.replace('\\', r"\\").replace('\'', "''");
        self.append(&format!("primary_conninfo = '{quoted}'\n"))
    }

    fn settings(&self) -> String {
        let safe = if self.options.durable { "on" } else { "off" };
        let ours = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", self.port().to_string()),
            (
                "unix_socket_directories",
                self.directory.display().to_string(),
            ),
            ("max_connections", self.options.max_connections.to_string()),
            ("fsync", safe.to_owned()),
            ("full_page_writes", safe.to_owned()),
            ("wal_level", "logical".to_owned()),
            ("max_prepared_transactions", "64".to_owned()),
            // A client that connects and then says nothing, as one on a runtime that is just
            // dropping this server, would hold its end up for this long.
            ("authentication_timeout", "3s".to_owned()),
            ("shared_buffers", "32MB".to_owned()),
            ("max_wal_size", "256MB".to_owned()),
            ("timezone", "UTC".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            ("log_line_prefix", "%m [%p] %q%u@%d ".to_owned()),
        ];
        let ours = ours.iter().map(|(name, value)| (*name, value.as_str()));
        let theirs = self
            .options
            .settings
            .iter()
            .map(|(name, value)| (&**name, value.as_str()));
        ours.chain(theirs)
            .fold(String::from("\n"), |mut text, (name, value)| {
                writeln!(text, "{name} = '{}'", value.replace('\'', "''"))
                    .expect("writing to a string cannot fail");
                text
            })
    }

    fn write_access_rules(&self) -> Result<(), PostgresError> {
        let method = match self.options.auth {
            Auth::Trust => "trust",
            Auth::Password(_) => "scram-sha-256",
        };
        // The socket trusts even where passwords are needed: setting the first password takes it.
        let rules = format!(
            "local all {SUPERUSER} trust\n\
             local all all {method}\n\
             host all all 127.0.0.1/32 {method}\n\
             host replication all 127.0.0.1/32 {method}\n"
        );
        let path = self.data.join("pg_hba.conf");
        fs::write(&path, rules).map_err(unwritten(&path))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What resists is left to the next sweep.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn unwritten(path: &Path) -> impl FnOnce(io::Error) -> PostgresError {
    let path = path.to_owned();
    move |source| PostgresError::Write { path, source }
}

/// Runs work that blocks on files and programs, away from the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PostgresError> + Send + 'static,
) -> Result<T, PostgresError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
