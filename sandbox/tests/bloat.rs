//! Deleted messages stay in the table for as long as any transaction might see them. No read of a
//! pipeline pays for that: it never walks over what it has behind itself.
//!
//! Counted in blocks, on the statements that agents run, and never in time.

use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tide_catalog::{
    janitor::outbox_sweep,
    messages::{self, Page, PageLimits, Source, read_page},
    schema,
};
use tide_model::{Cursor, Epoch, Shard};
use tide_sandbox::postgres::{Postgres, PostgresOptions};

/// Published, delivered and old.
const MESSAGES: i64 = 20_000;
/// As the agents' janitor deletes.
const BATCH: u32 = 1_000;
const LIMITS: PageLimits = PageLimits {
    messages: 100,
    bytes: 1 << 20,
};

struct World {
    postgres: Postgres,
    connection: PgConnection,
}

impl World {
    /// Outbox `shop`, which keeps nothing that is delivered, two pipelines, and a janitor in office.
    async fn start() -> Result<(Self, Epoch)> {
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        let url = postgres.create_database("app").await?;
        let mut connection = PgConnection::connect(&url).await?;
        schema::migrate(&mut connection).await?;
        let mut world = Self {
            postgres,
            connection,
        };
        for (name, value) in messages::SETTINGS {
            world.run(&format!("SET {name} = {value}")).await?;
        }
        world
            .run(
                "SELECT tide.outbox_create('shop', '0');
                 SELECT tide.relay_set_outbox(name, 'shop', '{\"sink_type\": \"null\"}') FROM unnest('{fast,slow}'::text[]) name;
                 SELECT tide.relay_claim('default', 'a', gen_random_uuid(), '{fast,slow}');
                 SELECT pg_advisory_lock(tide.leader_lock_class('janitor'), hashtext(''))",
            )
            .await?;
        let taken =
            sqlx::query_scalar("SELECT tide.leader_take('janitor', '', 'test', NULL, '1 hour')");
        let epoch = Epoch(taken.fetch_one(&mut world.connection).await?);
        Ok((world, epoch))
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut self.connection).await?;
        Ok(())
    }

    async fn count(&mut self, sql: &str) -> Result<i64> {
        let sql = AssertSqlSafe(sql.to_owned());
        Ok(sqlx::query_scalar(sql)
            .fetch_one(&mut self.connection)
            .await?)
    }

    async fn publish(&mut self, count: i64) -> Result<()> {
        self.run(&format!(
            "INSERT INTO tide.outbox_shop (key, payload)
             SELECT 'key-' || n % 100, jsonb_build_object('n', n, 'text', repeat('x', 200)) FROM generate_series(1, {count}) n"
        ))
        .await
    }

    /// Where a pipeline stands from now on.
    async fn advance(&mut self, pipeline: &str, to: i64) -> Result<()> {
        self.run(&format!(
            "UPDATE tide.relay_consumer_offsets SET last_change_id = {to}, snapshot = pg_current_snapshot() WHERE name = '{pipeline}'"
        ))
        .await
    }

    /// Deletes all that may go, as the janitor does, and says how much it was.
    async fn sweep(&mut self, epoch: Epoch) -> Result<i64> {
        let (mut after, mut deleted) = (0, 0);
        loop {
            let step = outbox_sweep(&mut self.connection, "shop", epoch, after, BATCH).await?;
            (after, deleted) = (step.last_id, deleted + step.deleted);
            if !step.more {
                return Ok(deleted);
            }
        }
    }

    /// Reads the page after a cursor; how many blocks of the outbox and its indexes that took.
    async fn read(&mut self, shard: Option<Shard>, cursor: &Cursor) -> Result<(i64, Page)> {
        let source = Source {
            relation: "tide.outbox_shop".to_owned(),
            shard,
        };
        self.run("BEGIN").await?;
        // Since the session last gave its statistics away, which it does between transactions.
        let before = self.blocks().await?;
        let page = read_page(&mut self.connection, &source, cursor, LIMITS).await?;
        let blocks = self.blocks().await? - before;
        self.run("COMMIT").await?;
        Ok((blocks, page))
    }

    /// How the server carries out the reads that this session has prepared.
    async fn plans(&mut self) -> Result<Vec<String>> {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM pg_prepared_statements WHERE statement LIKE '-- read_page%'",
        )
        .fetch_all(&mut self.connection)
        .await?;
        let mut plans = Vec::new();
        for name in names {
            let explain = format!("EXPLAIN EXECUTE {name} (1, '{{}}', '1', 0, 100)");
            let lines: Vec<String> = sqlx::query_scalar(AssertSqlSafe(explain))
                .fetch_all(&mut self.connection)
                .await?;
            plans.push(lines.join("\n"));
        }
        Ok(plans)
    }

    async fn blocks(&mut self) -> Result<i64> {
        self.count(
            "SELECT sum(pg_stat_get_xact_blocks_fetched(c.oid))::bigint FROM pg_class c
             WHERE c.oid = 'tide.outbox_shop'::regclass
                OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'tide.outbox_shop'::regclass)",
        )
        .await
    }

    /// What a pipeline and a shard at the end of the outbox pay: for 100 new messages, and for none.
    async fn prices(&mut self) -> Result<[i64; 4]> {
        let end = self.count("SELECT max(id) FROM tide.outbox_shop").await?;
        let snapshot: String = sqlx::query_scalar("SELECT pg_current_snapshot()::text")
            .fetch_one(&mut self.connection)
            .await?;
        let cursor = Cursor::beginning().advanced(Some(end), snapshot.parse()?);
        self.publish(100).await?;
        let shard = Shard::new(2, 4);
        let (busy, page) = self.read(None, &cursor).await?;
        ensure!(page.messages.len() == 100, "{}", page.messages.len());
        let (idle, nothing) = self.read(None, &page.cursor).await?;
        ensure!(nothing.messages.is_empty());
        let (busy_shard, page) = self.read(shard, &cursor).await?;
        ensure!(!page.messages.is_empty());
        let (idle_shard, _) = self.read(shard, &page.cursor).await?;
        Ok([busy, idle, busy_shard, idle_shard])
    }
}

#[tokio::test]
async fn reads_do_not_pay_for_what_a_pinned_horizon_keeps() -> Result<()> {
    // GIVEN an outbox full of delivered messages, and a transaction that may still see all of them
    let (mut world, epoch) = World::start().await?;
    world.publish(MESSAGES).await?;
    world.run("VACUUM ANALYZE tide.outbox_shop").await?;
    let mut pin = PgConnection::connect(&world.postgres.url("app")).await?;
    sqlx::raw_sql(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id(), count(*) FROM tide.outbox_shop",
    )
    .execute(&mut pin)
    .await?;
    world.advance("fast", MESSAGES).await?;
    world.advance("slow", MESSAGES / 2).await?;
    let before = world.prices().await?;
    // WHEN the janitor deletes what everybody has: the slowest pipeline says how much that is
    ensure!(world.sweep(epoch).await? == MESSAGES / 2);
    ensure!(world.sweep(epoch).await? == 0, "the slow one has not moved");
    world.advance("slow", MESSAGES).await?;
    ensure!(world.sweep(epoch).await? == MESSAGES / 2);
    // THEN all of it is still there for whoever walks over it, vacuum or not
    world.run("VACUUM tide.outbox_shop").await?;
    let (walk, _) = world.read(None, &Cursor::beginning()).await?;
    // AND no pipeline does
    let after = world.prices().await?;
    for (before, after) in before.iter().zip(after) {
        // A page more of the table or an index, here or there.
        ensure!(after <= before + 10, "{before} blocks became {after}");
        ensure!(
            walk > 5 * after,
            "nothing was pinned: {walk} blocks from the beginning"
        );
    }
    // AND once the transaction ends, nobody pays
    sqlx::raw_sql("COMMIT").execute(&mut pin).await?;
    world.run("VACUUM tide.outbox_shop").await?;
    let (walk, _) = world.read(None, &Cursor::beginning()).await?;
    ensure!(walk < 100, "{walk} blocks from the beginning");
    Ok(())
}

#[tokio::test]
async fn a_read_looks_up_what_it_brings_whatever_the_statistics_say() -> Result<()> {
    // GIVEN an outbox that the server knows nothing of, or everything
    let (mut world, _) = World::start().await?;
    world.publish(MESSAGES).await?;
    for statistics in ["none", "ANALYZE tide.outbox_shop"] {
        if statistics != "none" {
            world.run(statistics).await?;
        }
        let mut late = PgConnection::connect(&world.postgres.url("app")).await?;
        sqlx::raw_sql(
            "BEGIN; INSERT INTO tide.outbox_shop (key, payload) SELECT 'late', '{}' FROM generate_series(1, 5)",
        )
        .execute(&mut late)
        .await?;
        // WHEN new messages are read, and then some that committed late
        let prices = world.prices().await?;
        let end = world.count("SELECT max(id) FROM tide.outbox_shop").await?;
        let seen: String = sqlx::query_scalar("SELECT pg_current_snapshot()::text")
            .fetch_one(&mut world.connection)
            .await?;
        let cursor = Cursor::beginning().advanced(Some(end), seen.parse()?);
        sqlx::raw_sql("COMMIT").execute(&mut late).await?;
        for shard in [None, Shard::new(0, 1)] {
            let (blocks, page) = world.read(shard, &cursor).await?;
            ensure!(page.messages.len() == 5, "{}", page.messages.len());
            ensure!(blocks < 60, "{blocks} blocks for 5 late messages");
        }
        // THEN that takes a few blocks a message, and not the outbox
        ensure!(prices.iter().all(|price| *price < 600), "{prices:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_read_takes_one_process_of_the_server_and_one_look_at_each_message() -> Result<()> {
    // GIVEN a server that thinks little of starting processes
    let (mut world, _) = World::start().await?;
    world
        .run(
            "SET min_parallel_table_scan_size = 0; SET min_parallel_index_scan_size = 0;
             SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0",
        )
        .await?;
    world.publish(MESSAGES).await?;
    for statistics in ["SELECT", "ANALYZE tide.outbox_shop"] {
        world.run(statistics).await?;
        // WHEN a pipeline and a shard read
        world.prices().await?;
        // THEN none is started for it, and new messages are told from late ones without a look at
        // the table
        let plans = world.plans().await?;
        ensure!(plans.len() == 2, "{}", plans.len());
        for plan in plans {
            ensure!(!plan.contains("Gather"), "{plan}");
            ensure!(!plan.contains("Seq Scan"), "{plan}");
            let told = plan.lines().any(|line| {
                line.contains("Index Cond") && line.contains("(xid >=") && line.contains("(id <=")
            });
            ensure!(told, "{plan}");
        }
    }
    Ok(())
}
