//! Throw-away clusters against the real server of this machine.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tide_sandbox::{
    leftovers::Scratch,
    postgres::{Auth, Mode, Postgres, PostgresError, PostgresOptions},
    wait::eventually,
};

const SOON: Duration = Duration::from_secs(30);

async fn ask<T>(url: &str, sql: &'static str) -> Result<T, sqlx::Error>
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let mut connection = PgConnection::connect(url).await?;
    let value = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(value)
}

async fn run(url: &str, sql: &'static str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(sql).execute(&mut connection).await?;
    connection.close().await
}

#[tokio::test]
async fn a_cluster_answers_and_leaves_nothing() {
    let scratch = Scratch::create("pg-test").await.unwrap();
    let options = PostgresOptions {
        settings: vec![("application_name".into(), "it's mine".into())],
        scratch: Some(scratch.clone()),
        ..PostgresOptions::default()
    };
    let postgres = Postgres::start(options).await.unwrap();
    let url = postgres.create_database("odd \"name\"/1").await.unwrap();
    let found: String = ask(&url, "SELECT current_database()::text").await.unwrap();
    assert_eq!(found, "odd \"name\"/1");
    let name: String = ask(&url, "SHOW application_name").await.unwrap();
    assert_eq!(name, "it's mine");
    let directory = postgres.socket_dir().to_owned();
    assert!(
        directory
            .join(format!(".s.PGSQL.{}", postgres.port()))
            .exists()
    );
    drop(postgres);
    assert!(!directory.exists());
}

#[tokio::test]
async fn clusters_live_side_by_side() {
    let start = || Postgres::start(PostgresOptions::default());
    let (one, two, three) = tokio::try_join!(start(), start(), start()).unwrap();
    assert_ne!(one.port(), two.port());
    assert_ne!(two.port(), three.port());
    let system = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
    let pids: Vec<i32> = [
        ask(&one.url("postgres"), system).await.unwrap(),
        ask(&two.url("postgres"), system).await.unwrap(),
    ]
    .into();
    assert_ne!(pids[0], pids[1]);
}

#[tokio::test]
async fn commits_survive_every_way_of_going_down() {
    let mut postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let (url, port) = (postgres.url("postgres"), postgres.port());
    run(&url, "CREATE TABLE survivor (id bigint)")
        .await
        .unwrap();
    for mode in [Mode::Fast, Mode::Immediate, Mode::Kill] {
        // A backend that is busy when the postmaster goes must not keep the next one from starting.
        let mut idle = PgConnection::connect(&url).await.unwrap();
        sqlx::query("INSERT INTO survivor VALUES (1)")
            .execute(&mut idle)
            .await
            .unwrap();
        let before = postgres.pid();
        postgres.restart(mode).await.unwrap();
        assert_ne!(postgres.pid(), before);
        assert_eq!(postgres.port(), port);
    }
    let rows: i64 = ask(&url, "SELECT count(*) FROM survivor").await.unwrap();
    assert_eq!(rows, 3);
}

#[tokio::test]
async fn a_stopped_server_refuses_connections() {
    let mut postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let url = postgres.url("postgres");
    postgres.stop_fast().await.unwrap();
    postgres.stop_immediate().await.unwrap();
    assert_eq!(postgres.pid(), None);
    assert!(matches!(
        PgConnection::connect(&url).await,
        Err(sqlx::Error::Io(_))
    ));
}

#[tokio::test]
async fn a_frozen_server_answers_nothing_until_it_is_thawed() {
    let mut postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let url = postgres.url("postgres");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    postgres.freeze().unwrap();
    {
        let mut answer = Box::pin(sqlx::query("SELECT 1").execute(&mut connection));
        let early = tokio::time::timeout(Duration::from_millis(100), &mut answer).await;
        assert!(early.is_err(), "a frozen server answered");
        postgres.thaw().unwrap();
        answer.await.unwrap();
    }
    postgres.freeze().unwrap();
    postgres.stop_fast().await.unwrap();
}

#[tokio::test]
async fn a_frozen_server_can_be_dropped() {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let directory = postgres.socket_dir().to_owned();
    postgres.freeze().unwrap();
    drop(postgres);
    assert!(!directory.exists());
}

#[tokio::test]
async fn passwords_are_asked_for_when_wanted() {
    let options = PostgresOptions {
        auth: Auth::Password("it's a/secret".into()),
        ..PostgresOptions::default()
    };
    let postgres = Postgres::start(options).await.unwrap();
    let one: i32 = ask(&postgres.url("postgres"), "SELECT 1").await.unwrap();
    assert_eq!(one, 1);
    let wrong = postgres.url_for("postgres", "guess", "postgres");
    let error = ask::<i32>(&wrong, "SELECT 1").await.unwrap_err();
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .unwrap();
    assert_eq!(code, "28P01");
    run(
        &postgres.url("postgres"),
        "CREATE ROLE clerk LOGIN PASSWORD 'pen'",
    )
    .await
    .unwrap();
    let clerk = postgres.url_for("clerk", "pen", "postgres");
    let user: String = ask(&clerk, "SELECT current_user::text").await.unwrap();
    assert_eq!(user, "clerk");
}

#[tokio::test]
async fn a_standby_follows_its_primary_and_says_what_it_is() {
    let options = PostgresOptions {
        auth: Auth::Password(r"it's a \ secret".into()),
        ..PostgresOptions::default()
    };
    let primary = Postgres::start(options).await.unwrap();
    run(
        &primary.url("postgres"),
        "CREATE TABLE followed (id bigint)",
    )
    .await
    .unwrap();
    let standby = Postgres::start_standby(&primary).await.unwrap();
    let url = standby.url("postgres");
    assert!(
        ask::<bool>(&url, "SELECT pg_is_in_recovery()")
            .await
            .unwrap()
    );
    run(&primary.url("postgres"), "INSERT INTO followed VALUES (7)")
        .await
        .unwrap();
    let row = eventually(SOON, "the row on the standby", async || {
        let mut connection = PgConnection::connect(&url).await?;
        sqlx::query_scalar::<_, i64>("SELECT id FROM followed")
            .fetch_optional(&mut connection)
            .await
    });
    assert_eq!(row.await.unwrap(), 7);
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_its_log() {
    let options = PostgresOptions {
        settings: vec![("shared_buffers".into(), "nonsense".into())],
        ..PostgresOptions::default()
    };
    let error = Postgres::start(options).await.unwrap_err();
    assert!(matches!(error, PostgresError::Died { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("invalid value for parameter \"shared_buffers\""),
        "{error}"
    );
}

#[tokio::test]
async fn missing_binaries_are_explained() {
    let options = PostgresOptions {
        binaries: Some("/nowhere".into()),
        ..PostgresOptions::default()
    };
    let error = Postgres::start(options).await.unwrap_err();
    assert!(
        error.to_string().contains("apt-get install postgresql"),
        "{error}"
    );
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing() {
    let scratch = Scratch::create("given-up").await.unwrap();
    for patience in [1, 20, 40, 60] {
        let scratch = Some(scratch.clone());
        let start = Postgres::start(PostgresOptions {
            scratch,
            ..PostgresOptions::default()
        });
        // Given up at a different point each time, perhaps not at all.
        drop(tokio::time::timeout(Duration::from_millis(patience), start).await);
    }
    eventually(SOON, "the clusters' directories to go", async || {
        let entries = std::fs::read_dir(scratch.path())?.flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let left: Vec<String> = names.filter(|name| name.starts_with("postgres-")).collect();
        if left.is_empty() {
            Ok(Some(()))
        } else {
            Err(std::io::Error::other(left.join(", ")))
        }
    })
    .await
    .unwrap();
}
