//! A real pooler in front of a real cluster.

use std::collections::BTreeSet;

use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use tide_sandbox::{
    pgbouncer::PgBouncer,
    postgres::{Auth, Postgres, PostgresOptions},
};

async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    connection
        .fetch_one("SELECT pg_backend_pid()")
        .await?
        .try_get(0)
}

#[tokio::test]
async fn sessions_share_backends_through_the_pooler() {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let pooler = PgBouncer::start(&postgres).await.unwrap();
    let url = postgres.url_via(pooler.port(), "postgres");
    let mut backends = BTreeSet::new();
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let mut session = PgConnection::connect(&url).await.unwrap();
        backends.insert(backend(&mut session).await.unwrap());
        sessions.push(session);
    }
    assert_eq!(
        backends.len(),
        1,
        "in transaction mode idle sessions hold no backend"
    );
}

#[tokio::test]
async fn passwords_work_through_the_pooler_for_every_role() {
    let options = PostgresOptions {
        auth: Auth::Password("s\"3".into()),
        ..PostgresOptions::default()
    };
    let postgres = Postgres::start(options).await.unwrap();
    let pooler = PgBouncer::start(&postgres).await.unwrap();
    let mut admin = PgConnection::connect(&postgres.url_via(pooler.port(), "postgres"))
        .await
        .unwrap();
    admin
        .execute("CREATE ROLE clerk LOGIN PASSWORD 'pen'")
        .await
        .unwrap();
    let direct = postgres.url_for("clerk", "pen", "postgres");
    let through = direct.replace(&postgres.port().to_string(), &pooler.port().to_string());
    let mut clerk = PgConnection::connect(&through).await.unwrap();
    backend(&mut clerk).await.unwrap();
    let wrong = through.replace("pen", "pencil");
    assert!(PgConnection::connect(&wrong).await.is_err());
}

#[tokio::test]
async fn a_killed_pooler_ends_its_sessions() {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let mut pooler = PgBouncer::start(&postgres).await.unwrap();
    let url = postgres.url_via(pooler.port(), "postgres");
    let mut session = PgConnection::connect(&url).await.unwrap();
    pooler.process().kill9().unwrap();
    pooler
        .process()
        .wait(std::time::Duration::from_secs(10))
        .await
        .unwrap();
    assert!(backend(&mut session).await.is_err());
}
