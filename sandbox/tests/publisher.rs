//! The publisher against the real catalog: its ledger must be exactly what the outboxes hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sqlx::{Executor as _, PgPool, Row as _, postgres::PgPoolOptions};
use tide_sandbox::{
    postgres::{Mode, Postgres, PostgresOptions},
    proxy::Proxy,
    publisher::{Ledger, PublishError, PublishPlan, Publisher, Shape},
};
use uuid::Uuid;

const SOON: Duration = Duration::from_mins(1);
const OUTBOXES: [&str; 2] = ["orders", "payments"];

async fn cluster() -> (Postgres, PgPool) {
    let options = PostgresOptions {
        settings: vec![("track_commit_timestamp".into(), "on".into())],
        ..PostgresOptions::default()
    };
    let postgres = Postgres::start(options).await.expect("a cluster");
    let url = postgres.create_database("app").await.expect("a database");
    let pool = pool(&url);
    let mut connection = pool.acquire().await.expect("a connection");
    tide_catalog::schema::migrate(&mut connection)
        .await
        .expect("the catalog");
    for outbox in OUTBOXES {
        let create = sqlx::query("SELECT tide.outbox_create($1)").bind(outbox);
        connection.execute(create).await.expect("an outbox");
    }
    (postgres, pool)
}

fn pool(url: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(2)
        .connect_lazy(url)
        .expect("a valid url")
}

/// Key, sequence and event of everything an outbox holds, in the order of commits.
async fn stored(pool: &PgPool, outbox: &str) -> Vec<(Option<String>, Option<i64>, Uuid)> {
    let find = sqlx::query("SELECT relation::text FROM tide.outboxes WHERE name = $1").bind(outbox);
    let relation: String = pool.fetch_one(find).await.expect("an outbox").get(0);
    let sql = format!(
        "SELECT key, (payload->>'sequence')::bigint, event_id FROM {relation}
         ORDER BY pg_xact_commit_timestamp(xid::xid), id"
    );
    let rows = pool
        .fetch_all(sqlx::AssertSqlSafe(sql))
        .await
        .expect("its rows");
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

/// The ledger and the outboxes agree on every message, and sequences are the commit order.
async fn assert_exact(pool: &PgPool, ledger: &Ledger) {
    for outbox in OUTBOXES {
        let rows = stored(pool, outbox).await;
        let mut expected: BTreeMap<Uuid, (Option<String>, Option<i64>)> = BTreeMap::new();
        for entry in ledger.of_outbox(outbox) {
            let place = entry
                .position
                .clone()
                .map(|place| (place.key, place.sequence))
                .unzip();
            assert!(
                expected.insert(entry.event_id, place).is_none(),
                "entered twice"
            );
        }
        let mut next: BTreeMap<String, i64> = BTreeMap::new();
        for (key, sequence, event_id) in rows {
            let place = expected.remove(&event_id);
            assert_eq!(
                place,
                Some((key.clone(), sequence)),
                "{event_id}, seed {}",
                ledger.seed
            );
            if let Some(key) = key {
                let next = next.entry(key).or_default();
                assert_eq!(sequence, Some(*next), "commit order, seed {}", ledger.seed);
                *next += 1;
            }
        }
        assert!(
            expected.is_empty(),
            "entered but not stored: {expected:?}, seed {}",
            ledger.seed
        );
    }
}

#[tokio::test]
async fn the_ledger_is_what_the_outboxes_hold() {
    let (_postgres, pool) = cluster().await;
    let plan = PublishPlan {
        rate: None,
        ..PublishPlan::mixed(OUTBOXES)
    };
    let publisher = Publisher::start(&pool, plan).await.unwrap();
    publisher.wait_for_committed(1_500, SOON).await.unwrap();
    let ledger = publisher.stop(SOON).await.unwrap();
    assert!(ledger.entries.len() >= 1_500);
    assert!(ledger.rolled_back > 0);
    assert_eq!(ledger.interrupted, 0);
    assert_exact(&pool, &ledger).await;
}

#[tokio::test]
async fn each_shape_publishes() {
    let (_postgres, pool) = cluster().await;
    let hold = Duration::from_millis(10);
    let shapes = [
        Shape::Single,
        Shape::Keyless,
        Shape::Several,
        Shape::Savepoints,
        Shape::LongOpen(hold),
        Shape::EarlyXid(hold),
        Shape::Bulk(30),
        Shape::Prepared(hold),
    ];
    let mut seen = Ledger::default();
    for shape in shapes {
        let shapes = vec![(shape, 1)];
        let plan = PublishPlan {
            rate: None,
            shapes,
            ..PublishPlan::mixed(OUTBOXES)
        };
        let publisher = Publisher::start(&pool, plan).await.unwrap();
        publisher.wait_for_committed(40, SOON).await.unwrap();
        seen.entries
            .extend(publisher.stop(SOON).await.unwrap().entries);
    }
    assert_exact(&pool, &seen).await;
}

#[tokio::test]
async fn two_publishers_share_the_order_of_keys() {
    let (_postgres, pool) = cluster().await;
    let plan = || PublishPlan {
        rate: None,
        keys: 3,
        ..PublishPlan::mixed(OUTBOXES)
    };
    let (one, two) = tokio::try_join!(
        Publisher::start(&pool, plan()),
        Publisher::start(&pool, plan())
    )
    .unwrap();
    one.wait_for_committed(200, SOON).await.unwrap();
    two.wait_for_committed(200, SOON).await.unwrap();
    let mut ledger = one.stop(SOON).await.unwrap();
    ledger.entries.extend(two.stop(SOON).await.unwrap().entries);
    assert_exact(&pool, &ledger).await;
}

#[tokio::test]
async fn restarts_of_the_server_leave_the_ledger_exact() {
    let (mut postgres, pool) = cluster().await;
    let plan = PublishPlan {
        rate: None,
        ..PublishPlan::mixed(OUTBOXES)
    };
    let publisher = Publisher::start(&pool, plan).await.unwrap();
    for mode in [Mode::Immediate, Mode::Kill, Mode::Fast, Mode::Kill] {
        publisher
            .wait_for_committed(publisher.committed() + 100, SOON)
            .await
            .unwrap();
        postgres.restart(mode).await.unwrap();
    }
    publisher
        .wait_for_committed(publisher.committed() + 100, SOON)
        .await
        .unwrap();
    let ledger = publisher.stop(SOON).await.unwrap();
    assert!(ledger.interrupted > 0);
    assert_exact(&pool, &ledger).await;
}

#[tokio::test]
async fn commits_whose_answer_was_lost_are_found_out() {
    let (postgres, pool) = cluster().await;
    let proxy = Proxy::to_port(postgres.port()).await.unwrap();
    let through = self::pool(&postgres.url_via(proxy.port(), "app"));
    let plan = PublishPlan {
        rate: None,
        writers: 8,
        ..PublishPlan::mixed(OUTBOXES)
    };
    let publisher = Publisher::start(&through, plan).await.unwrap();
    for _ in 0..15 {
        publisher
            .wait_for_committed(publisher.committed() + 60, SOON)
            .await
            .unwrap();
        // What the server does while cut off is not answered; then the connections are gone.
        proxy.cut();
        proxy.close_all();
        proxy.heal();
    }
    let ledger = publisher.stop(SOON).await.unwrap();
    assert!(ledger.interrupted > 0);
    assert_exact(&pool, &ledger).await;
    let marks = "SELECT count(*) FILTER (WHERE fence) FROM sandbox.mark";
    let fenced: i64 = pool.fetch_one(marks).await.unwrap().get(0);
    let prepared: i64 = pool
        .fetch_one("SELECT count(*) FROM pg_prepared_xacts")
        .await
        .unwrap()
        .get(0);
    assert_eq!(prepared, 0, "and {fenced} were fenced");
}

#[tokio::test]
async fn the_rate_is_kept() {
    let (_postgres, pool) = cluster().await;
    let began = tokio::time::Instant::now();
    let publisher = Publisher::start(&pool, PublishPlan::steady(OUTBOXES, 100.0))
        .await
        .unwrap();
    publisher.wait_for_committed(50, SOON).await.unwrap();
    assert!(
        began.elapsed() >= Duration::from_millis(450),
        "{:?}",
        began.elapsed()
    );
    let ledger = publisher.stop(SOON).await.unwrap();
    let outboxes: BTreeSet<&str> = ledger.counts().into_keys().collect();
    assert_eq!(outboxes, BTreeSet::from(OUTBOXES));
}

#[tokio::test]
async fn an_outbox_that_does_not_exist_is_told() {
    let (_postgres, pool) = cluster().await;
    let publisher = Publisher::start(&pool, PublishPlan::mixed(["ghost"]))
        .await
        .unwrap();
    let waited = publisher.wait_for_committed(1, SOON).await.unwrap_err();
    assert!(waited.last.contains("ghost"), "{waited}");
    assert!(matches!(
        publisher.stop(SOON).await,
        Err(PublishError::Refused(_))
    ));
}

#[tokio::test]
async fn an_impossible_plan_is_refused() {
    let (_postgres, pool) = cluster().await;
    let plan = PublishPlan {
        shapes: vec![(Shape::Single, 0)],
        ..PublishPlan::mixed(OUTBOXES)
    };
    assert!(matches!(
        Publisher::start(&pool, plan).await,
        Err(PublishError::Plan(_))
    ));
}
