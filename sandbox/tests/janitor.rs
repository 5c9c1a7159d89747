//! What the janitor deletes: exactly what is old and what nobody needs.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use proptest::{
    prelude::{Just, Strategy, any, prop_oneof},
    sample::select,
    test_runner::{Config, TestCaseError, TestRunner},
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tide_catalog::{
    CatalogError,
    janitor::{History, Sweep, dead_letter_sweep, history_purge, outbox_sweep},
    messages::{PageLimits, Source, read_page},
    offsets::{Advance, offsets_advance, offsets_claim},
    schema,
};
use tide_model::{Cursor, Epoch, GroupName, Incarnation, Snapshot};
use tide_sandbox::postgres::{Postgres, PostgresOptions};
use uuid::Uuid;

/// More than any test here has.
const ALL: u32 = 1_000;
const DAY: Duration = Duration::from_hours(24);

struct World {
    postgres: Postgres,
    connection: PgConnection,
    epoch: Epoch,
}

impl World {
    /// A catalog with outbox `shop`, which keeps messages for an hour, and a janitor in office.
    async fn start() -> Result<Self> {
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        let url = postgres.create_database("app").await?;
        let mut connection = PgConnection::connect(&url).await?;
        schema::migrate(&mut connection).await?;
        let mut world = Self {
            postgres,
            connection,
            epoch: Epoch(0),
        };
        world
            .run("SELECT tide.outbox_create('shop', '1 hour')")
            .await?;
        world.elect().await?;
        Ok(world)
    }

    /// A new term.
    async fn elect(&mut self) -> Result<()> {
        self.run("SELECT pg_advisory_unlock_all()").await?;
        self.run("SELECT pg_advisory_lock(tide.leader_lock_class('janitor'), hashtext(''))")
            .await?;
        let taken =
            sqlx::query_scalar("SELECT tide.leader_take('janitor', '', 'test', NULL, '1 hour')");
        self.epoch = Epoch(taken.fetch_one(&mut self.connection).await?);
        Ok(())
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut self.connection).await?;
        Ok(())
    }

    async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.postgres.url("app")).await?)
    }

    /// Writes messages as they are after a while: id, transaction, and whether they are old.
    async fn write(&mut self, messages: &[Message]) -> Result<()> {
        for message in messages {
            let age = if message.old { "2 hours" } else { "1 minute" };
            sqlx::query(
                "INSERT INTO tide.outbox_shop (id, xid, payload, created_at) OVERRIDING SYSTEM VALUE
                 VALUES ($1, $2::text::xid8, '1', now() - $3::text::interval)",
            )
            .bind(message.id)
            .bind(message.xid.to_string())
            .bind(age)
            .execute(&mut self.connection)
            .await?;
        }
        Ok(())
    }

    /// Goes through the outbox once, in steps of so many.
    async fn sweep(&mut self, batch: u32) -> Result<Vec<Sweep>, CatalogError> {
        let mut steps: Vec<Sweep> = Vec::new();
        loop {
            let after = steps.last().map_or(0, |step| step.last_id);
            let step = outbox_sweep(&mut self.connection, "shop", self.epoch, after, batch).await?;
            steps.push(step);
            if !step.more {
                return Ok(steps);
            }
        }
    }

    async fn left(&mut self) -> Result<BTreeSet<i64>> {
        let ids = sqlx::query_scalar("SELECT id FROM tide.outbox_shop");
        Ok(ids
            .fetch_all(&mut self.connection)
            .await?
            .into_iter()
            .collect())
    }

    async fn count(&mut self, sql: &str) -> Result<i64> {
        let sql = AssertSqlSafe(sql.to_owned());
        Ok(sqlx::query_scalar(sql)
            .fetch_one(&mut self.connection)
            .await?)
    }
}

#[derive(Debug, Clone)]
struct Message {
    id: i64,
    xid: u64,
    old: bool,
}

/// A row of `relay_consumer_offsets`.
#[derive(Debug, Clone)]
struct Stored {
    high: i64,
    snapshot: Option<Snapshot>,
    pass: Option<(Snapshot, i64)>,
    floor: i64,
    restored: bool,
}

#[derive(Debug, Clone)]
struct Reader {
    enabled: bool,
    /// One for each group that has read anything.
    cursors: Vec<Stored>,
}

/// The rule, once more and in the plainest way.
fn needs(reader: &Reader, message: &Message) -> bool {
    let delivered = |cursor: &Stored| {
        let seen = cursor
            .snapshot
            .as_ref()
            .is_some_and(|s| s.sees(message.xid));
        !cursor.restored
            && cursor.snapshot.is_some()
            && message.id <= cursor.high
            && (message.id <= cursor.floor || seen)
    };
    reader.cursors.is_empty() || !reader.cursors.iter().all(delivered)
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let message = (100..140_u64, any::<bool>());
    proptest::collection::vec(message, 0..30).prop_map(|drawn| {
        (1..)
            .zip(drawn)
            .map(|(id, (xid, old))| Message { id, xid, old })
            .collect()
    })
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let in_progress = proptest::collection::btree_set(100..150_u64, 0..4);
    // Most have seen nearly everything, or nothing would ever be deleted.
    let xmax = prop_oneof![1 => 100..150_u64, 3 => Just(150_u64)];
    (xmax, in_progress).prop_map(|(xmax, in_progress)| {
        let in_progress: Vec<String> = in_progress.range(..xmax).map(ToString::to_string).collect();
        let xmin = in_progress.first().cloned().unwrap_or(xmax.to_string());
        let text = format!("{xmin}:{xmax}:{}", in_progress.join(","));
        text.parse().expect("a snapshot")
    })
}

fn stored() -> impl Strategy<Value = Stored> {
    let high = prop_oneof![1 => 0..35_i64, 3 => Just(35_i64)];
    let snapshot_or_none = proptest::option::weighted(0.95, snapshot());
    let pass = proptest::option::weighted(0.3, (snapshot(), 0..35_i64));
    let floor = prop_oneof![3 => Just(0_i64), 1 => 0..35_i64];
    let restored = select(vec![false, false, false, false, false, false, false, true]);
    (high, snapshot_or_none, pass, floor, restored).prop_map(
        |(high, snapshot, pass, floor, restored)| Stored {
            high,
            snapshot,
            pass,
            floor,
            restored,
        },
    )
}

fn readers() -> impl Strategy<Value = Vec<Reader>> {
    let cursors = prop_oneof![
        1 => Just(Vec::new()),
        9 => proptest::collection::vec(stored(), 1..3),
    ];
    let reader =
        (any::<bool>(), cursors).prop_map(|(enabled, cursors)| Reader { enabled, cursors });
    proptest::collection::vec(reader, 0..4)
}

async fn arrange(world: &mut World, messages: &[Message], readers: &[Reader]) -> Result<()> {
    world
        .run("TRUNCATE tide.outbox_shop; DELETE FROM tide.pipelines")
        .await?;
    world.write(messages).await?;
    for (number, reader) in readers.iter().enumerate() {
        world
            .run(&format!(
                "SELECT tide.relay_set_outbox('p{number}', 'shop', '{{\"sink_type\": \"null\"}}');
                 UPDATE tide.pipelines SET enabled = {} WHERE name = 'p{number}'",
                reader.enabled
            ))
            .await?;
        for (group, cursor) in reader.cursors.iter().enumerate() {
            sqlx::query(
                "INSERT INTO tide.relay_consumer_offsets
                     (relay_group_id, name, last_change_id, snapshot, pass_snapshot, pass_position, floor_id, system_identifier, epoch)
                 SELECT $1, $2, $3, $4::text::pg_snapshot, $5::text::pg_snapshot, $6, $7, system_identifier + $8::integer, 1
                 FROM pg_control_system()",
            )
            .bind(format!("g{group}"))
            .bind(format!("p{number}"))
            .bind(cursor.high)
            .bind(cursor.snapshot.as_ref().map(ToString::to_string))
            .bind(cursor.pass.as_ref().map(|(target, _)| target.to_string()))
            .bind(cursor.pass.as_ref().map(|(_, position)| *position))
            .bind(cursor.floor)
            .bind(i32::from(cursor.restored))
            .execute(&mut world.connection)
            .await?;
        }
    }
    Ok(())
}

#[test]
fn exactly_what_is_old_and_delivered_everywhere_is_deleted() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = std::cell::RefCell::new(runtime.block_on(World::start()).unwrap());
    let mut runner = TestRunner::new(Config {
        cases: 150,
        failure_persistence: None,
        ..Config::default()
    });
    let deleted = std::cell::Cell::new(0);
    let outcome = runner.run(&(messages(), readers()), |(messages, readers)| {
        let expected: BTreeSet<i64> = messages
            .iter()
            .filter(|message| !message.old || readers.iter().any(|reader| needs(reader, message)))
            .map(|message| message.id)
            .collect();
        let world = &mut *world.borrow_mut();
        let swept = runtime.block_on(async {
            arrange(world, &messages, &readers).await?;
            world.sweep(ALL).await?;
            world.left().await
        });
        let left = swept.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        deleted.set(deleted.get() + messages.len() - left.len());
        proptest::prop_assert_eq!(left, expected);
        Ok(())
    });
    outcome.unwrap();
    assert!(
        deleted.get() > 100,
        "the cases hardly delete: {}",
        deleted.get()
    );
}

fn old(ids: std::ops::RangeInclusive<i64>) -> Vec<Message> {
    let message = |id| Message {
        id,
        xid: 100,
        old: true,
    };
    ids.map(message).collect()
}

#[tokio::test]
async fn a_sweep_goes_on_in_steps_and_ends_at_the_first_page_of_young_messages() -> Result<()> {
    // GIVEN 25 old messages, then 30 young ones, and nobody who reads them
    let mut world = World::start().await?;
    world.write(&old(1..=25)).await?;
    let young: Vec<Message> = (26..=55)
        .map(|id| Message {
            id,
            xid: 100,
            old: false,
        })
        .collect();
    world.write(&young).await?;
    // THEN retention alone decides, and the young ones are not all walked through
    let steps = world.sweep(10).await?;
    let deleted: Vec<i64> = steps.iter().map(|step| step.deleted).collect();
    ensure!(deleted == [10, 10, 5, 0], "{steps:?}");
    ensure!(world.left().await? == (26..=55).collect());
    Ok(())
}

#[tokio::test]
async fn a_step_reads_no_more_than_its_page_whatever_the_statistics_say() -> Result<()> {
    // GIVEN an outbox that nobody has analyzed, read by a pipeline far ahead
    let mut world = World::start().await?;
    world
        .run(
            "INSERT INTO tide.outbox_shop (payload) SELECT '1' FROM generate_series(1, 20000);
             SELECT tide.relay_set_outbox('p', 'shop', '{\"sink_type\": \"null\"}');
             SELECT tide.relay_claim('default', 'a', gen_random_uuid(), '{p}')",
        )
        .await?;
    // In a transaction of its own, or its snapshot would not see the messages.
    world
        .run("UPDATE tide.relay_consumer_offsets SET last_change_id = 20000, snapshot = pg_current_snapshot()")
        .await?;
    for (retention, deleted) in [("1 hour", 0), ("0", 100)] {
        world
            .run(&format!(
                "UPDATE tide.outboxes SET retention = '{retention}'; BEGIN"
            ))
            .await?;
        let step = outbox_sweep(&mut world.connection, "shop", world.epoch, 0, 100).await?;
        ensure!(step.looked_at == 100 && step.deleted == deleted, "{step:?}");
        let read = world
            .count("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'outbox_shop'")
            .await?;
        world.run("COMMIT").await?;
        ensure!(read <= 300, "{read} rows were read for a page of 100");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_late_transaction_wrote_stays_until_it_is_delivered() -> Result<()> {
    let mut world = World::start().await?;
    world
        .run("UPDATE tide.outboxes SET retention = '0'")
        .await?;
    world
        .run("SELECT tide.relay_set_outbox('p', 'shop', '{\"sink_type\": \"null\"}')")
        .await?;
    let group: GroupName = "default".parse()?;
    let pipelines = ["p".parse()?];
    let mut owner = world.connect().await?;
    let agent = "relay-1".parse()?;
    let claims = offsets_claim(
        &mut owner,
        &group,
        &agent,
        Incarnation(Uuid::new_v4()),
        &pipelines,
    );
    let claim = claims.await?.remove(0);
    let limits = PageLimits {
        messages: 100,
        bytes: 1 << 20,
    };
    let source = Source {
        relation: "tide.outbox_shop".to_owned(),
        shard: None,
    };
    let deliver = async |owner: &mut PgConnection, cursor: &Cursor| -> Result<(Vec<i64>, Cursor)> {
        let page = read_page(owner, &source, cursor, limits).await?;
        if let Some(cursor) = page.position_after(page.messages.len()) {
            let [pipeline] = pipelines.clone();
            let advance = Advance {
                pipeline,
                epoch: claim.epoch,
                cursor,
            };
            ensure!(!offsets_advance(owner, &group, &[advance]).await?.is_empty());
        }
        Ok((page.messages.iter().map(|m| m.id).collect(), page.cursor))
    };
    // GIVEN a transaction that drew its id early, and a later message that is delivered
    let mut late = world.connect().await?;
    let mut late = late.begin().await?;
    sqlx::query("SELECT tide.outbox_publish('shop', '1')")
        .execute(&mut *late)
        .await?;
    world.run("SELECT tide.outbox_publish('shop', '2')").await?;
    let (delivered, cursor) = deliver(&mut owner, &claim.cursor).await?;
    ensure!(delivered == [2], "{delivered:?}");
    // WHEN it commits before the janitor comes
    late.commit().await?;
    world.sweep(ALL).await?;
    // THEN its message is still there to be read, and then it goes
    ensure!(world.left().await? == [1].into());
    let (delivered, _) = deliver(&mut owner, &cursor).await?;
    ensure!(delivered == [1], "{delivered:?}");
    world.sweep(ALL).await?;
    ensure!(world.left().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_janitor_of_an_earlier_term_deletes_nothing() -> Result<()> {
    let mut world = World::start().await?;
    world.write(&old(1..=5)).await?;
    let former = world.epoch;
    world.elect().await?;
    let current = std::mem::replace(&mut world.epoch, former);
    let error = world.sweep(ALL).await.expect_err("an old epoch");
    ensure!(error.is_fenced(), "{error}");
    let purge = history_purge(&mut world.connection, former, History::Events, DAY, ALL).await;
    ensure!(purge.expect_err("an old epoch").is_fenced());
    ensure!(world.left().await?.len() == 5);
    world.epoch = current;
    world.sweep(ALL).await?;
    ensure!(world.left().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn old_history_goes_and_what_still_means_something_stays() -> Result<()> {
    let mut world = World::start().await?;
    world
        .run(
            "DELETE FROM tide.events;
             INSERT INTO tide.events (at, relay_group_id, actor, kind, subject)
             SELECT now() - age, 'default', 'a', 'k', 's'
             FROM unnest(ARRAY['40 days', '31 days', '29 days', '2 hours']::interval[]) age;
             INSERT INTO tide.operations (id, relay_group_id, kind, target, actor, state, generation, finished_at)
             SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, 'default', 'drain', 'relay-' || n, 'a', 'succeeded', 1,
                    now() - age::interval
             FROM (VALUES (1, '40 days'), (2, '40 days'), (3, '1 day')) o (n, age);
             INSERT INTO tide.operations (relay_group_id, kind, target, actor, generation, created_at)
             VALUES ('default', 'drain', 'relay-4', 'a', 1, now() - interval '1 year');
             INSERT INTO tide.holds (relay_group_id, agent, kind, actor, operation_id, expires_at) VALUES
                 ('default', 'relay-2', 'drain', 'a', '00000000-0000-0000-0000-000000000002', NULL),
                 ('default', 'relay-5', 'cordon', 'a', NULL, now() - interval '1 second'),
                 ('default', 'relay-6', 'cordon', 'a', NULL, now() + interval '1 hour')",
        )
        .await?;
    let mut purged = Vec::new();
    for history in History::ALL {
        let (connection, epoch) = (&mut world.connection, world.epoch);
        purged.push(history_purge(connection, epoch, history, 30 * DAY, ALL).await?);
    }
    // A hold and an operation are gone, two events are, and the end of the hold is on record. There
    // was no plan.
    ensure!(purged == [1, 0, 1, 2], "{purged:?}");
    ensure!(
        world
            .count("SELECT count(*) FROM tide.events WHERE kind = 'hold.expired'")
            .await?
            == 1
    );
    ensure!(
        world
            .count("SELECT count(*) FROM tide.events WHERE kind = 'k'")
            .await?
            == 2
    );
    let kept =
        "SELECT count(*) FROM tide.operations WHERE target IN ('relay-2', 'relay-3', 'relay-4')";
    ensure!(world.count(kept).await? == 3);
    ensure!(world.count("SELECT count(*) FROM tide.holds").await? == 2);
    // Whatever an agent asks for, the last day stays.
    let (connection, epoch) = (&mut world.connection, world.epoch);
    let events = history_purge(connection, epoch, History::Events, Duration::ZERO, ALL).await?;
    ensure!(events == 1, "{events}");
    ensure!(
        world
            .count("SELECT count(*) FROM tide.events WHERE kind = 'k'")
            .await?
            == 1
    );
    Ok(())
}

#[tokio::test]
async fn the_rights_of_an_agent_are_enough_and_those_of_a_publisher_are_not() -> Result<()> {
    let mut world = World::start().await?;
    world.write(&old(1..=5)).await?;
    for (user, role) in [("agent", "tide_relay"), ("app", "tide_publisher")] {
        world
            .run(&format!("CREATE ROLE {user} LOGIN; GRANT {role} TO {user}"))
            .await?;
    }
    let mut agent = PgConnection::connect(&world.postgres.url_for("agent", "", "app")).await?;
    let sweep = outbox_sweep(&mut agent, "shop", world.epoch, 0, ALL).await?;
    ensure!(sweep.deleted == 5, "{sweep:?}");
    for history in History::ALL {
        history_purge(&mut agent, world.epoch, history, DAY, ALL).await?;
    }
    let mut app = PgConnection::connect(&world.postgres.url_for("app", "", "app")).await?;
    let refused = outbox_sweep(&mut app, "shop", world.epoch, 0, ALL).await;
    ensure!(refused.expect_err("no right").is_permission_denied());
    let refused = history_purge(&mut app, world.epoch, History::Events, DAY, ALL).await;
    ensure!(refused.expect_err("no right").is_permission_denied());
    Ok(())
}

#[tokio::test]
async fn exactly_the_letters_that_are_old_and_wait_for_nobody_are_deleted() -> Result<()> {
    // GIVEN letters of pipelines that keep them for an hour, for ever, and for no sensible time
    let mut world = World::start().await?;
    for (pipeline, keep) in [
        ("hour", json!(3_600)),
        ("ever", json!(null)),
        ("odd", json!("soon")),
        ("odder", json!(-5)),
    ] {
        sqlx::query("SELECT tide.relay_set_outbox($1, 'shop', jsonb_build_object('sink_type', 'null', 'dlq_retention_seconds', $2))")
            .bind(pipeline)
            .bind(keep)
            .execute(&mut world.connection)
            .await?;
        world
            .run(&format!(
                "INSERT INTO tide.relay_dlq (relay_group_id, pipeline, outbox, message_id, event_id, key, headers, payload, error, attempts,
                                             epoch, created_at, parked)
                 SELECT 'default', '{pipeline}', 'shop', n, gen_random_uuid(), 'k', '{{}}', '1', 'no', 1, 1,
                        now() - CASE WHEN n <= 8 THEN interval '61 minutes' ELSE interval '59 minutes' END, n = 3
                 FROM generate_series(1, 10) n"
            ))
            .await?;
    }
    world
        .run("SELECT tide.dlq_replay(pipeline => 'hour', ids => ARRAY(SELECT id FROM tide.relay_dlq WHERE message_id = 5))")
        .await?;
    // WHEN they are swept in batches
    let mut counts = Vec::new();
    loop {
        let swept = dead_letter_sweep(&mut world.connection, world.epoch, 4).await?;
        let Some((pipeline, deleted)) = swept.first() else {
            break;
        };
        assert_eq!((pipeline.as_str(), swept.len()), ("hour", 1));
        counts.push(*deleted);
    }
    // THEN those go that are older, that wait for no others of their key, and that nobody asked for
    assert_eq!(counts, [4, 2]);
    let left: Vec<(String, Vec<i64>)> = sqlx::query_as(
        "SELECT pipeline, array_agg(message_id ORDER BY id) FROM tide.relay_dlq GROUP BY pipeline ORDER BY pipeline",
    )
    .fetch_all(&mut world.connection)
    .await?;
    let all: Vec<i64> = (1..=10).collect();
    let expected = [
        ("ever", all.clone()),
        ("hour", vec![3, 5, 9, 10]),
        ("odd", all.clone()),
        ("odder", all),
    ];
    assert_eq!(left, expected.map(|(name, ids)| (name.to_owned(), ids)));
    // and a janitor of an earlier term deletes nothing
    let former = world.epoch;
    world.elect().await?;
    let refused = dead_letter_sweep(&mut world.connection, former, 4).await;
    ensure!(
        refused.as_ref().is_err_and(CatalogError::is_fenced),
        "{refused:?}"
    );
    Ok(())
}
