//! What cannot work is refused at once, with one clear error, what to do about it, and the right
//! exit code; and it never tells a password.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Result, ensure};
use tide_sandbox::{
    pgbouncer::PgBouncer,
    postgres::{Auth, Postgres, PostgresOptions},
};
use tide_tests::{
    Fleet, FleetOptions,
    catalog::{Catalog, execute},
    command::{Finished, run},
    proof,
};
use tokio::{net::TcpListener, time::Instant};

/// Nothing that is refused may take longer, a connection that is not answered included.
const AT_ONCE: Duration = Duration::from_secs(20);
/// Appears in URLs, and may appear nowhere else.
const PASSWORD: &str = "Tr0ub4dor";

/// Runs an agent that is expected to refuse.
async fn agent(url: &str, arguments: &[&str]) -> Result<Finished> {
    let mut all = vec!["--metrics-addr", "127.0.0.1:0"];
    all.extend(arguments);
    let finished = run("tide-agent", &all, &[("TIDE_POSTGRES_URL", url)], AT_ONCE).await?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    ensure!(!said.contains(PASSWORD), "it told the password: {said}");
    Ok(finished)
}

/// Both ways to use the database refuse it alike.
async fn refused(url: &str, says: &str, hint: &str) -> Result<()> {
    agent(url, &[]).await?.explains(1, says, hint)?;
    agent(url, &["status"]).await?.explains(1, says, hint)
}

fn written(name: &str, text: &str) -> Result<(tempfile::TempDir, String)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join(name);
    std::fs::write(&path, text)?;
    let path = path.display().to_string();
    Ok((directory, path))
}

#[tokio::test]
async fn a_mistyped_flag_is_told_which_was_meant() -> Result<()> {
    let refused = agent("postgres://localhost/app", &["--lese", "3"]).await?;
    ensure!(refused.code == Some(2), "{refused:?}");
    ensure!(
        refused
            .stderr
            .starts_with("error: unexpected argument '--lese'"),
        "{refused:?}"
    );
    ensure!(refused.stderr.contains("'--lease'"), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn without_a_database_it_says_how_to_give_one() -> Result<()> {
    let refused = run("tide-agent", &[], &[], AT_ONCE).await?;
    refused.explains(2, "no database given", "--postgres-url")
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_without_repeating_it() -> Result<()> {
    for url in [
        "mysql://me:Tr0ub4dor@localhost/app",
        "me:Tr0ub4dor@localhost",
        "",
    ] {
        let refused = agent(url, &[]).await?;
        refused.explains(
            2,
            "PostgreSQL URL",
            "postgres://USER:PASSWORD@HOST:PORT/DATABASE",
        )?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_refused() -> Result<()> {
    let postgres = Postgres::start(PostgresOptions {
        auth: Auth::Password("right".to_owned()),
        ..PostgresOptions::default()
    })
    .await?;
    let url = postgres.url_for("postgres", PASSWORD, "postgres");
    refused(
        &url,
        "password authentication failed",
        "check user and password",
    )
    .await
}

#[tokio::test]
async fn an_unreachable_database_is_refused() -> Result<()> {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    let url = format!("postgres://me:{PASSWORD}@127.0.0.1:{port}/app");
    refused(
        &url,
        &format!("127.0.0.1:{port}/app"),
        "is the server running",
    )
    .await
}

#[tokio::test]
async fn an_unknown_database_is_refused() -> Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    refused(
        &postgres.url("nowhere"),
        "\"nowhere\" does not exist",
        "create the database",
    )
    .await
}

#[tokio::test]
async fn a_database_without_a_catalog_is_refused() -> Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let url = postgres.create_database("app").await?;
    refused(&url, "no Tide catalog", "tidectl migrate").await
}

#[tokio::test]
async fn a_catalog_of_another_version_is_refused() -> Result<()> {
    let catalog = Catalog::install().await?;
    let mut connection = catalog.connect().await?;
    execute(
        &mut connection,
        "UPDATE tide.schema_migrations SET version = version + 1000",
    )
    .await?;
    refused(
        &catalog.url,
        "this binary knows versions up to",
        "upgrade this binary",
    )
    .await?;
    execute(
        &mut connection,
        "UPDATE tide.schema_migrations SET version = version - 2000",
    )
    .await?;
    refused(&catalog.url, "this binary needs version", "tidectl migrate").await?;
    execute(&mut connection, "DELETE FROM tide.schema_migrations").await?;
    refused(&catalog.url, "no Tide catalog", "tidectl migrate").await
}

#[tokio::test]
async fn a_transaction_pooler_is_noticed_and_refused() -> Result<()> {
    let catalog = Catalog::install().await?;
    let pooler = PgBouncer::start(&catalog.postgres).await?;
    let url = catalog.postgres.url_via(pooler.port(), "app");
    let refused = agent(&url, &[]).await?;
    refused.explains(
        1,
        "a transaction pooler stands between",
        "directly to the server",
    )
}

#[tokio::test]
async fn a_database_whose_texts_may_be_anything_is_refused() -> Result<()> {
    // GIVEN a database that takes bytes which are no text, in a key for example
    let catalog = Catalog::install().await?;
    execute(
        &mut catalog.connect().await?,
        "CREATE DATABASE bytes WITH ENCODING 'SQL_ASCII' TEMPLATE template0",
    )
    .await?;
    let url = catalog.postgres.url("bytes");
    // WHEN it is to hold messages THEN it is refused, before there is one
    let (says, hint) = ("is encoded in SQL_ASCII", "ENCODING 'UTF8'");
    agent(&url, &[]).await?.explains(1, says, hint)?;
    let environment = [("TIDE_POSTGRES_URL", &*url)];
    run("tidectl", &["migrate"], &environment, AT_ONCE)
        .await?
        .explains(1, says, hint)
}

#[tokio::test]
async fn a_standby_server_is_refused() -> Result<()> {
    let catalog = Catalog::install().await?;
    let standby = Postgres::start_standby(&catalog.postgres).await?;
    let refused = agent(&standby.url("app"), &[]).await?;
    refused.explains(
        1,
        "the server is a standby",
        "point --postgres-url at the primary",
    )
}

#[tokio::test]
async fn a_second_agent_of_one_name_gives_up_and_the_first_notices_nothing() -> Result<()> {
    // GIVEN an agent
    let options = FleetOptions {
        lease: Duration::from_secs(1),
        ..FleetOptions::agents(1)
    };
    let mut fleet = Fleet::start(options).await?;
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_running().await?;
    fleet.publish().await?;
    let before = fleet.owners().await?;
    // WHEN another of its name is started
    let began = Instant::now();
    let refused = agent(&fleet.url(), &["--name", "relay-1", "--lease", "1"]).await?;
    // THEN it waits as long as a dead session could last, and no longer
    refused.explains(
        1,
        "an agent named relay-1 is running in group default",
        "--name",
    )?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(5), "{took:?}");
    ensure!(fleet.owners().await? == before);
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_configuration_file_is_checked_key_by_key() -> Result<()> {
    let cases = [
        ("leese_secs = 3", "leese_secs"),
        ("lease_secs = \"three\"", "lease_secs"),
        ("lease_secs = ", "lease_secs"),
        ("metrics_addr = \"nowhere\"", "metrics_addr"),
    ];
    for (text, says) in cases {
        let (_directory, path) = written("agent.toml", text)?;
        let refused = agent("postgres://localhost/app", &["--config", &path]).await?;
        ensure!(refused.code == Some(2), "{refused:?}");
        ensure!(refused.stderr.starts_with("error: "), "{refused:?}");
        ensure!(refused.stderr.contains(says), "{refused:?}");
        ensure!(refused.stderr.contains("hint: "), "{refused:?}");
    }
    let missing = agent(
        "postgres://localhost/app",
        &["--config", "/no/such/file.toml"],
    )
    .await?;
    ensure!(missing.code == Some(2), "{missing:?}");
    ensure!(missing.stderr.contains("/no/such/file.toml"), "{missing:?}");
    Ok(())
}

#[tokio::test]
async fn a_value_out_of_range_is_refused() -> Result<()> {
    let cases: [(&[&str], &str); 9] = [
        (&["--lease", "0.1"], "--lease"),
        (&["--lease", "1000"], "--lease"),
        (&["--lease", "soon"], "--lease"),
        (&["--discovery-interval", "0"], "--discovery-interval"),
        (&["--name", "two words"], "invalid agent name"),
        (&["--relay-group-id", ""], "--relay-group-id"),
        (&["--weight=-1"], "--weight"),
        (&["--metrics-addr", "somewhere"], "--metrics-addr"),
        (&["--control-plane", "not a url"], "--control-plane"),
    ];
    let catalog = Catalog::install().await?;
    for (arguments, says) in cases {
        let refused = run(
            "tide-agent",
            arguments,
            &[("TIDE_POSTGRES_URL", &catalog.url)],
            AT_ONCE,
        )
        .await?;
        ensure!(refused.code == Some(2), "{arguments:?}: {refused:?}");
        ensure!(
            refused.stderr.starts_with("error: "),
            "{arguments:?}: {refused:?}"
        );
        ensure!(refused.stderr.contains(says), "{arguments:?}: {refused:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_metrics_address_in_use_is_refused() -> Result<()> {
    let catalog = Catalog::install().await?;
    let taken = TcpListener::bind("127.0.0.1:0").await?;
    let address = taken.local_addr()?.to_string();
    let arguments = ["--metrics-addr", &address];
    let refused = run(
        "tide-agent",
        &arguments,
        &[("TIDE_POSTGRES_URL", &catalog.url)],
        AT_ONCE,
    )
    .await?;
    refused.explains(
        1,
        &format!("could not serve metrics on {address}"),
        "--metrics-addr",
    )
}

#[tokio::test]
async fn a_control_plane_that_is_not_there_is_mentioned_once_and_missed_by_nobody() -> Result<()> {
    // GIVEN an agent that is told of a control plane that does not exist
    let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    let spec = fleet.spec("relay-1");
    let url = format!("http://127.0.0.1:{port}");
    fleet.start_as(spec.with("--control-plane", &url)).await?;
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_running().await?;
    // WHEN it works under load for longer than it takes to try again a few times
    fleet.publish().await?;
    fleet
        .agent("relay-1")
        .log("control plane is not reachable")
        .await?;
    fleet.publish_more(600).await?;
    // THEN it has said so once
    let log = fleet.agent("relay-1").whole_log();
    let times = log.matches("control plane is not reachable").count();
    ensure!(times == 1, "{times} times:\n{log}");
    ensure!(log.contains(&url), "{log}");
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_running_agent_tells_no_password() -> Result<()> {
    // GIVEN an agent with passwords in its URL and in the headers of a sink
    let postgres = PostgresOptions {
        auth: Auth::Password(PASSWORD.to_owned()),
        ..PostgresOptions::default()
    };
    let mut fleet = Fleet::start(FleetOptions {
        postgres,
        ..FleetOptions::agents(0)
    })
    .await?;
    let mut spec = fleet.spec("relay-1");
    spec.env
        .push(("TOKEN".to_owned(), format!("Bearer {PASSWORD}")));
    spec.env
        .push(("RUST_LOG".to_owned(), "debug,h2=info,hyper=info".to_owned()));
    fleet.start_as(spec).await?;
    let receiver = std::sync::Arc::new(tide_sandbox::http::Receiver::start().await?);
    let headers = serde_json::json!({"headers": {"authorization": "${env:TOKEN}"}});
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, headers)
        .await?;
    fleet.wait_until_running().await?;
    fleet.publish().await?;
    fleet.publish_more(20).await?;
    // WHEN sessions break, the server goes away and the sink refuses
    receiver.script("/hook", [tide_sandbox::http::Behaviour::Respond(503)]);
    fleet.end_lock_session("relay-1").await?;
    fleet
        .restart_postgres(tide_sandbox::postgres::Mode::Immediate)
        .await?;
    fleet.wait_until_running().await?;
    fleet.publish_more(20).await?;
    // THEN the secret has arrived where it belongs and is told nowhere
    let requests = receiver.requests();
    let expected = format!("Bearer {PASSWORD}");
    ensure!(
        requests
            .iter()
            .all(|one| one.headers.get("authorization") == Some(&expected))
    );
    let mut said = fleet.agent("relay-1").whole_log();
    for path in ["/metrics", "/health", "/readyz"] {
        write!(said, "{}", fleet.agent("relay-1").get(path).await?.body)?;
    }
    let status = sqlx::query_scalar::<_, String>(
        "SELECT string_agg(s::text, ' ') FROM tide.relay_status() s",
    );
    said.push_str(&status.fetch_one(fleet.pool()).await?);
    ensure!(!said.contains(PASSWORD), "{said}");
    proof::clean(&fleet.settle_and_check().await?)
}
