//! What the probe for idle pipelines learns from the outboxes, on a real server.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tide_catalog::{
    heads::{heads, writers},
    schema,
};
use tide_sandbox::postgres::{Postgres, PostgresOptions};

/// A database with an outbox for each list, with a message of each of its transactions.
async fn outboxes(wrote: &[&[u64]]) -> Result<(Postgres, PgConnection)> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let url = postgres.create_database("app").await?;
    let mut connection = PgConnection::connect(&url).await?;
    schema::migrate(&mut connection).await?;
    for (number, xids) in wrote.iter().enumerate() {
        let xids: Vec<String> = xids.iter().map(u64::to_string).collect();
        let sql = format!(
            "SELECT tide.outbox_create('o{number}');
             INSERT INTO tide.outbox_o{number} (payload, xid) SELECT '{{}}', x::xid8 FROM unnest('{{{}}}'::text[]) x",
            xids.join(",")
        );
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await?;
    }
    Ok((postgres, connection))
}

#[tokio::test]
async fn the_newest_writer_is_the_one_with_the_highest_number() -> Result<()> {
    // GIVEN outboxes with transactions of one digit more, in any order, and with none
    let wrote: [&[u64]; 4] = [&[988, 999, 1_000], &[1_046, 988, 99], &[], &[7]];
    let (_postgres, mut connection) = outboxes(&wrote).await?;
    let heads = heads(&mut connection).await?;
    let relations: Vec<&str> = heads
        .outboxes
        .iter()
        .map(|head| head.relation.as_str())
        .collect();
    ensure!(relations.len() == wrote.len(), "{heads:?}");
    // WHEN they are asked who wrote last, and which of these wrote at all
    let finished = [7, 99, 1_000];
    let answers = writers(&mut connection, &relations, finished).await?;
    // THEN each answers for itself
    for (xids, answer) in wrote.iter().zip(answers) {
        let newest = xids.iter().max();
        let expected: BTreeSet<u64> = xids
            .iter()
            .copied()
            .filter(|xid| finished.contains(xid) || Some(xid) == newest)
            .collect();
        let answer: BTreeSet<u64> = answer.into_iter().collect();
        ensure!(answer == expected, "{xids:?}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn who_wrote_last_is_found_without_reading_the_outbox() -> Result<()> {
    // GIVEN an outbox with many messages
    let (_postgres, mut connection) = outboxes(&[&[]]).await?;
    sqlx::raw_sql(
        "INSERT INTO tide.outbox_o0 (payload, xid)
         SELECT '{}', n::text::xid8 FROM generate_series(1, 50000) n",
    )
    .execute(&mut connection)
    .await?;
    sqlx::raw_sql("VACUUM ANALYZE tide.outbox_o0")
        .execute(&mut connection)
        .await?;
    // WHEN it is asked
    let mut transaction = connection.begin().await?;
    let before = blocks(&mut transaction).await?;
    let answers = writers(&mut transaction, &["tide.outbox_o0"], [1, 50_001]).await?;
    ensure!(answers == [vec![1, 50_000]], "{answers:?}");
    // THEN its index knew
    let read = blocks(&mut transaction).await? - before;
    ensure!((1..20).contains(&read), "{read} blocks");
    Ok(())
}

/// Blocks of the outbox that this session has read since it last gave its statistics away, which it
/// does between transactions.
async fn blocks(connection: &mut PgConnection) -> Result<i64> {
    let blocks = sqlx::query_scalar(
        "SELECT sum(pg_stat_get_xact_blocks_fetched(c.oid))::bigint FROM pg_class c
         WHERE c.oid = 'tide.outbox_o0'::regclass
            OR c.oid IN (SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = 'tide.outbox_o0'::regclass)",
    );
    Ok(blocks.fetch_one(connection).await?)
}
