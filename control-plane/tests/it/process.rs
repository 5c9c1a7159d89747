//! The program itself: what it says when it cannot start, and how it ends.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tide_catalog::{connection::Server, schema};
use tide_sandbox::postgres::{Auth, Postgres, PostgresOptions};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

const SOON: Duration = Duration::from_secs(30);

fn program(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tide-control-plane"));
    command
        .args(["--listen", "127.0.0.1:0", "--metrics-addr", "127.0.0.1:0"])
        .args(flags)
        .env_remove("TIDE_LOG")
        .env_remove("TIDE_POSTGRES_URL")
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs the program to its end: exit code and everything it said.
async fn ends(flags: &[&str]) -> Result<(i32, String)> {
    let output = timeout(SOON, program(flags).output()).await??;
    ensure!(output.stdout.is_empty(), "stdout is for data");
    let said = String::from_utf8(output.stderr)?;
    Ok((output.status.code().context("killed")?, said))
}

#[tokio::test]
async fn usage_errors_exit_with_2() -> Result<()> {
    for (flags, expected) in [
        (&["--nonsense"][..], "unexpected argument '--nonsense'"),
        (&["--log-format", "loud"], "invalid value 'loud'"),
        (
            &["--shutdown-timeout", "5 days"],
            "\"5 days\" is not a duration",
        ),
        (
            &[],
            "error: no PostgreSQL URL was given\n\nhint: use --postgres-url",
        ),
        (
            &["--postgres-url", "localhost"],
            "error: invalid PostgreSQL URL",
        ),
        (
            &["--config", "/nowhere/tide.toml"],
            "error: could not read /nowhere/tide.toml",
        ),
    ] {
        let (code, said) = ends(flags).await?;
        ensure!(code == 2, "{flags:?}: {code} {said}");
        ensure!(said.contains(expected), "{flags:?}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_exits_with_1_and_a_hint() -> Result<()> {
    let (code, said) = ends(&["--postgres-url", "postgres://u:secret@127.0.0.1:1/tide"]).await?;
    ensure!(code == 1, "{code} {said}");
    ensure!(
        said.contains("error: could not connect to PostgreSQL at 127.0.0.1:1/tide"),
        "{said}"
    );
    ensure!(said.contains("\n\nhint: is the server running"), "{said}");
    ensure!(!said.contains("secret"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_and_a_catalog_that_does_not_fit_are_told_apart() -> Result<()> {
    let auth = Auth::Password("right".to_owned());
    let postgres = Postgres::start(PostgresOptions {
        auth,
        ..Default::default()
    })
    .await?;
    let url = postgres.create_database("tide").await?;

    let wrong = postgres.url_for("postgres", "wrong", "tide");
    let (code, said) = ends(&["--postgres-url", &wrong]).await?;
    ensure!(
        code == 1 && said.contains("password authentication failed"),
        "{said}"
    );
    ensure!(said.contains("hint: check user and password"), "{said}");

    let (code, said) = ends(&["--postgres-url", &url]).await?;
    ensure!(
        code == 1 && said.contains("error: the database has no Tide catalog"),
        "{said}"
    );
    ensure!(
        said.contains("hint: install it with: tidectl migrate"),
        "{said}"
    );

    let mut connection = Server::parse(&url, "test")?.connect().await?;
    schema::migrate(&mut connection).await?;
    let newer = "UPDATE tide.schema_migrations SET version = version + 1000";
    sqlx::raw_sql(newer).execute(&mut connection).await?;
    let (code, said) = ends(&["--postgres-url", &url]).await?;
    ensure!(
        code == 1 && said.contains("error: the catalog is at version 10"),
        "{said}"
    );
    ensure!(said.contains("hint: upgrade this binary"), "{said}");
    Ok(())
}

/// Reads log lines until one contains `wanted`.
async fn line_with(child: &mut Child, wanted: &str) -> Result<String> {
    let mut lines = BufReader::new(child.stderr.as_mut().context("no stderr")?).lines();
    loop {
        let line = timeout(SOON, lines.next_line())
            .await??
            .context("the log ended")?;
        if line.contains(wanted) {
            return Ok(line);
        }
    }
}

fn terminate(child: &Child) -> Result<()> {
    let pid = child.id().context("gone")?.to_string();
    let sent = std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status()?;
    ensure!(sent.success());
    Ok(())
}

#[tokio::test]
async fn it_says_where_it_serves_and_ends_in_good_order() -> Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let url = postgres.create_database("tide").await?;
    schema::migrate(&mut Server::parse(&url, "test")?.connect().await?).await?;
    let mut child = program(&["--log-format", "json"])
        .env("TIDE_POSTGRES_URL", &url)
        .spawn()?;
    let line = line_with(&mut child, "serving gRPC").await?;
    let line: serde_json::Value = serde_json::from_str(&line)?;
    let address = line["address"].as_str().context("no address")?;
    ensure!(!address.ends_with(":0"), "{address}");
    tonic::transport::Channel::from_shared(format!("http://{address}"))?
        .connect()
        .await?;
    terminate(&child)?;
    let status = timeout(SOON, child.wait()).await??;
    let mut rest = String::new();
    child
        .stderr
        .take()
        .context("no stderr")?
        .read_to_string(&mut rest)
        .await?;
    ensure!(status.code() == Some(0), "{status} {rest}");
    ensure!(
        !rest.contains("\"ERROR\"") && !rest.contains("\"WARN\""),
        "{rest}"
    );
    Ok(())
}
