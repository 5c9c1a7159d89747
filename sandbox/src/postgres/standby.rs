//! Making the files of a streaming replica.

use super::{PostgresError, SUPERUSER, cluster, cluster::Cluster, template};

/// Copies a running primary with `pg_basebackup`; the copy is set up to follow it.
pub(super) async fn cluster_of(primary: &Cluster) -> Result<Cluster, PostgresError> {
    let standby = Cluster::beside(primary).await?;
    let mut command = standby
        .account
        .command(standby.binaries.join("pg_basebackup"));
    command
        .arg("--pgdata")
        .arg(standby.data())
        .args(["--host", "127.0.0.1", "--username", SUPERUSER])
        .args(["--port", &primary.port().to_string()])
        .args(["--checkpoint", "fast", "--wal-method", "stream"])
        .args(["--no-sync", "--no-password"]);
    if let Some(password) = primary.password() {
        command.env("PGPASSWORD", password);
    }
    // Not by `--write-recovery-conf`: it writes every option that it knows itself, and a server
    // that is older than the program stumbles over those that it does not know.
    let port = primary.port();
    let password = primary.password().unwrap_or_default();
    let password = password.replace('\\', r"\\").replace('\'', r"\'");
    let source = format!("host=127.0.0.1 port={port} user={SUPERUSER} password='{password}'");
    cluster::blocking(move || {
        template::run(&mut command)?;
        // The copied configuration holds the primary's port; ours comes after it and wins.
        standby.write_settings()?;
        standby.follow(&source)?;
        Ok(standby)
    })
    .await
}
