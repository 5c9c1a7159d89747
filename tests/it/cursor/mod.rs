//! The snapshot cursor against a real server, in interleavings that are made by hand.
//!
//! Each test is red under one particular mistake in the statement that reads a page; the table in
//! `docs/testing.md` says which.

mod restore;
mod shards;

use std::time::Duration;

use anyhow::Result;
use sqlx::PgConnection;
use tide_catalog::{
    messages::{PageLimits, Source, read_page},
    offsets::{Advance, offsets_advance, offsets_claim},
};
use tide_model::{Cursor, Incarnation};
use tide_sandbox::{publisher::Entry, wait::eventually};
use tide_tests::{
    SOON,
    by_hand::{Drafts, publish},
    catalog::{Catalog, execute},
};
use uuid::Uuid;

const OUTBOX: &str = "events";
const RELATION: &str = "tide.outbox_events";

/// A reader and everything that it has read.
struct Reading {
    connection: PgConnection,
    source: Source,
    cursor: Cursor,
    read: Vec<Uuid>,
}

impl Reading {
    async fn from_the_beginning(catalog: &Catalog) -> Result<Self> {
        Ok(Self {
            connection: catalog.connect().await?,
            source: Source {
                relation: RELATION.to_owned(),
                shard: None,
            },
            cursor: Cursor::beginning(),
            read: Vec::new(),
        })
    }

    /// Reads one page of at most `messages`, and says how many there were.
    async fn page(&mut self, messages: usize) -> Result<usize> {
        let limits = PageLimits {
            messages,
            bytes: usize::MAX,
        };
        let page = read_page(&mut self.connection, &self.source, &self.cursor, limits).await?;
        self.read
            .extend(page.messages.iter().map(|message| message.event_id));
        self.cursor = page.cursor;
        Ok(page.messages.len())
    }

    fn has_read(&self, entries: &[&Entry]) -> bool {
        let expected: Vec<Uuid> = entries.iter().map(|entry| entry.event_id).collect();
        self.read == expected
    }
}

/// Gives a transaction its id now.
async fn take_xid(connection: &mut PgConnection) -> Result<()> {
    execute(connection, "SELECT pg_current_xact_id()").await
}

#[tokio::test]
async fn a_transaction_that_drew_its_id_early_is_found_late() -> Result<()> {
    // GIVEN a publisher that has drawn its message's id and is held up just before it draws its
    // transaction id
    let catalog = Catalog::with_pipeline(OUTBOX, "p").await?;
    let mut gate = catalog.connect().await?;
    execute(
        &mut gate,
        "CREATE FUNCTION public.held_id() RETURNS bigint LANGUAGE plpgsql AS $$
         DECLARE
             drawn bigint := nextval(pg_get_serial_sequence('tide.outbox_events', 'id'));
         BEGIN
             PERFORM pg_advisory_lock(7);
             PERFORM pg_advisory_unlock(7);
             RETURN drawn;
         END
         $$;
         SELECT pg_advisory_lock(7)",
    )
    .await?;
    let mut drafts = Drafts::default();
    // The first value of a sequence is logged with 32 in advance, which takes a transaction id; the
    // ones after it are not.
    let warm = drafts.draw_keyless(OUTBOX);
    publish(&mut gate, &warm).await?;
    let early = drafts.draw_keyless(OUTBOX);
    let mut held = catalog.connect().await?;
    let event_id = early.event_id;
    let publishing = async move {
        let sql = format!(
            "INSERT INTO {RELATION} (id, event_id, payload) OVERRIDING SYSTEM VALUE
             VALUES (public.held_id(), '{event_id}', 'true')"
        );
        execute(&mut held, sql).await
    };
    let rest = async {
        eventually(SOON, "the publisher to be held up", async || {
            let waiting =
                "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)";
            let waits: bool = sqlx::query_scalar(waiting).fetch_one(&mut gate).await?;
            Ok::<_, sqlx::Error>(waits.then_some(()))
        })
        .await?;
        // WHEN a later message is committed and read before the early one goes on
        let later = drafts.draw_keyless(OUTBOX);
        publish(&mut gate, &later).await?;
        let mut reading = Reading::from_the_beginning(&catalog).await?;
        reading.page(10).await?;
        assert!(reading.has_read(&[&warm, &later]));
        execute(&mut gate, "SELECT pg_advisory_unlock(7)").await?;
        anyhow::Ok((reading, later))
    };
    let (published, rest) = tokio::join!(publishing, rest);
    published?;
    let (mut reading, later) = rest?;
    // THEN the next read finds it, once
    reading.page(10).await?;
    reading.page(10).await?;
    assert!(reading.has_read(&[&warm, &later, &early]));
    Ok(())
}

#[tokio::test]
async fn a_transaction_above_every_completed_one_is_found_late() -> Result<()> {
    // GIVEN an open transaction whose id is above every completed one's, so that no snapshot lists
    // it among those in progress
    let catalog = Catalog::with_pipeline(OUTBOX, "p").await?;
    let (mut low, mut high) = (catalog.connect().await?, catalog.connect().await?);
    let mut drafts = Drafts::default();
    execute(&mut low, "BEGIN").await?;
    take_xid(&mut low).await?;
    execute(&mut high, "BEGIN").await?;
    let late = drafts.draw(OUTBOX, "a");
    publish(&mut high, &late).await?;
    let first = drafts.draw(OUTBOX, "b");
    publish(&mut low, &first).await?;
    execute(&mut low, "COMMIT").await?;
    // WHEN the other is read while it is open, and it commits
    let mut reading = Reading::from_the_beginning(&catalog).await?;
    reading.page(10).await?;
    assert!(reading.has_read(&[&first]));
    execute(&mut high, "COMMIT").await?;
    // THEN the next read finds it, once
    reading.page(10).await?;
    reading.page(10).await?;
    assert!(reading.has_read(&[&first, &late]));
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_was_in_progress_is_found_late() -> Result<()> {
    // GIVEN an open transaction with a message, and a later one that is committed
    let catalog = Catalog::with_pipeline(OUTBOX, "p").await?;
    let (mut open, mut other) = (catalog.connect().await?, catalog.connect().await?);
    let mut drafts = Drafts::default();
    let late = drafts.draw(OUTBOX, "a");
    execute(&mut open, "BEGIN").await?;
    publish(&mut open, &late).await?;
    let first = drafts.draw(OUTBOX, "b");
    publish(&mut other, &first).await?;
    let mut reading = Reading::from_the_beginning(&catalog).await?;
    reading.page(10).await?;
    assert!(reading.has_read(&[&first]));
    // WHEN it commits, after a read that saw nothing new
    reading.page(10).await?;
    execute(&mut open, "COMMIT").await?;
    // THEN the next read finds it, once, without anything new having to come
    reading.page(10).await?;
    reading.page(10).await?;
    assert!(reading.has_read(&[&first, &late]));
    Ok(())
}

#[tokio::test]
async fn a_rolled_back_transaction_leaves_nothing_and_blocks_nothing() -> Result<()> {
    let catalog = Catalog::with_pipeline(OUTBOX, "p").await?;
    let (mut open, mut other) = (catalog.connect().await?, catalog.connect().await?);
    let mut drafts = Drafts::default();
    execute(&mut open, "BEGIN").await?;
    publish(&mut open, &drafts.draw_keyless(OUTBOX)).await?;
    let first = drafts.draw_keyless(OUTBOX);
    publish(&mut other, &first).await?;
    let mut reading = Reading::from_the_beginning(&catalog).await?;
    reading.page(10).await?;
    execute(&mut open, "ROLLBACK").await?;
    let second = drafts.draw_keyless(OUTBOX);
    publish(&mut other, &second).await?;
    reading.page(10).await?;
    assert!(reading.has_read(&[&first, &second]));
    Ok(())
}

/// The inversion that ordering by transaction id suffers: B has the lower transaction id and
/// commits after A, on the same row.
async fn inverted(read_in_between: bool) -> Result<()> {
    // GIVEN transactions B, C, A in the order of their ids; C is unrelated and stays open
    let catalog = Catalog::with_pipeline(OUTBOX, "p").await?;
    let mut a = catalog.connect().await?;
    let (mut b, mut c) = (catalog.connect().await?, catalog.connect().await?);
    execute(
        &mut a,
        "CREATE TABLE public.account (id int PRIMARY KEY, balance int); INSERT INTO public.account VALUES (1, 0)",
    )
    .await?;
    let mut drafts = Drafts::default();
    for connection in [&mut b, &mut c, &mut a] {
        execute(connection, "BEGIN").await?;
        take_xid(connection).await?;
    }
    let mut reading = Reading::from_the_beginning(&catalog).await?;
    // WHEN A changes a row, publishes and commits, and then B does so on the same row
    let (first, second) = (drafts.draw(OUTBOX, "k"), drafts.draw(OUTBOX, "k"));
    for (connection, entry) in [(&mut a, &first), (&mut b, &second)] {
        execute(
            connection,
            "UPDATE public.account SET balance = balance + 1",
        )
        .await?;
        publish(connection, entry).await?;
        execute(connection, "COMMIT").await?;
        if read_in_between {
            reading.page(10).await?;
        }
    }
    // THEN both are there although C is open, A's first
    reading.page(10).await?;
    assert!(reading.has_read(&[&first, &second]));
    let third = drafts.draw_keyless(OUTBOX);
    publish(&mut c, &third).await?;
    execute(&mut c, "COMMIT").await?;
    reading.page(10).await?;
    assert!(reading.has_read(&[&first, &second, &third]));
    Ok(())
}

#[tokio::test]
async fn commit_order_per_key_beats_the_order_of_transaction_ids() -> Result<()> {
    inverted(false).await
}

#[tokio::test]
async fn commit_order_per_key_holds_when_it_is_read_in_between() -> Result<()> {
    inverted(true).await
}

#[tokio::test]
async fn a_pass_larger_than_a_page_loses_and_reorders_nothing() -> Result<()> {
    // GIVEN two bulk transactions that are open while later messages are read
    let catalog = Catalog::with_pipeline(OUTBOX, "p").await?;
    let (mut bulk, mut other_bulk) = (catalog.connect().await?, catalog.connect().await?);
    let mut writer = catalog.connect().await?;
    let mut drafts = Drafts::default();
    execute(&mut bulk, "BEGIN").await?;
    execute(&mut other_bulk, "BEGIN").await?;
    let mut late = Vec::new();
    let mut later = Vec::new();
    for _ in 0..50 {
        late.push(drafts.draw(OUTBOX, "bulk"));
        publish(&mut bulk, late.last().unwrap()).await?;
        later.push(drafts.draw(OUTBOX, "other-bulk"));
        publish(&mut other_bulk, later.last().unwrap()).await?;
    }
    let before = drafts.draw(OUTBOX, "single");
    publish(&mut writer, &before).await?;
    let mut reading = Reading::from_the_beginning(&catalog).await?;
    reading.page(7).await?;
    // WHEN the first commits, the second does in the middle of the pass over the first, new
    // messages come all the time, and the position is stored and read back between any two pages
    execute(&mut bulk, "COMMIT").await?;
    let mut fresh = Vec::new();
    let mut pages = 0;
    let (group, pipeline) = ("default".parse()?, "p".parse()?);
    loop {
        let read = reading.page(7).await?;
        pages += 1;
        if pages == 3 {
            assert!(reading.cursor.pass.is_some(), "the pass is under way");
            execute(&mut other_bulk, "COMMIT").await?;
        }
        if pages < 6 {
            fresh.push(drafts.draw(OUTBOX, "bulk"));
            publish(&mut writer, fresh.last().unwrap()).await?;
        }
        let claim = offsets_claim(
            &mut writer,
            &group,
            &"a".parse()?,
            Incarnation(Uuid::nil()),
            std::slice::from_ref(&pipeline),
        )
        .await?
        .remove(0);
        let advance = Advance {
            pipeline: pipeline.clone(),
            epoch: claim.epoch,
            cursor: reading.cursor.clone(),
        };
        let accepted = offsets_advance(&mut writer, &group, &[advance]).await?;
        assert!(accepted.contains(&pipeline));
        let stored = offsets_claim(
            &mut writer,
            &group,
            &"a".parse()?,
            Incarnation(Uuid::nil()),
            std::slice::from_ref(&pipeline),
        )
        .await?
        .remove(0);
        assert_eq!(stored.cursor, reading.cursor);
        if read == 0 && reading.cursor.pass.is_none() {
            break;
        }
    }
    // THEN each was read once, and the order of every key is that of its commits
    assert_eq!(reading.read.len(), drafts.entries().len());
    for key in ["bulk", "other-bulk", "single"] {
        let of_key = |entry: &&Entry| entry.position.as_ref().is_some_and(|at| at.key == key);
        let expected: Vec<Uuid> = drafts
            .entries()
            .iter()
            .filter(of_key)
            .map(|entry| entry.event_id)
            .collect();
        let seen: Vec<Uuid> = reading
            .read
            .iter()
            .copied()
            .filter(|id| expected.contains(id))
            .collect();
        assert_eq!(seen, expected, "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn a_prepared_transaction_is_found_when_it_is_committed() -> Result<()> {
    let catalog = Catalog::with_pipeline(OUTBOX, "p").await?;
    let (mut two_phase, mut other) = (catalog.connect().await?, catalog.connect().await?);
    let mut drafts = Drafts::default();
    let late = drafts.draw_keyless(OUTBOX);
    execute(&mut two_phase, "BEGIN").await?;
    publish(&mut two_phase, &late).await?;
    execute(&mut two_phase, "PREPARE TRANSACTION 'two'").await?;
    let first = drafts.draw_keyless(OUTBOX);
    publish(&mut other, &first).await?;
    let mut reading = Reading::from_the_beginning(&catalog).await?;
    reading.page(10).await?;
    assert!(reading.has_read(&[&first]));
    execute(&mut other, "COMMIT PREPARED 'two'").await?;
    reading.page(10).await?;
    assert!(reading.has_read(&[&first, &late]));
    Ok(())
}

#[tokio::test]
async fn a_read_of_the_end_never_walks_the_outbox() -> Result<()> {
    // GIVEN an outbox with many messages that are all read
    let catalog = Catalog::with_pipeline(OUTBOX, "p").await?;
    let mut reading = Reading::from_the_beginning(&catalog).await?;
    let insert =
        format!("INSERT INTO {RELATION} (payload) SELECT 'true' FROM generate_series(1, 20000)");
    execute(&mut reading.connection, insert).await?;
    execute(&mut reading.connection, format!("ANALYZE {RELATION}")).await?;
    while reading.page(10_000).await? > 0 {}
    // WHEN it is read again, in one transaction, in which counters are not handed on
    let touched = async |connection: &mut PgConnection| -> Result<i64> {
        let rows = sqlx::query_scalar(
            "SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables
             WHERE schemaname = 'tide' AND relname = 'outbox_events'",
        );
        Ok(rows.fetch_one(connection).await?)
    };
    execute(&mut reading.connection, "BEGIN").await?;
    let before = touched(&mut reading.connection).await?;
    for _ in 0..5 {
        reading.page(10).await?;
    }
    // THEN that touches next to nothing of its 20,000 rows
    let more = touched(&mut reading.connection).await? - before;
    assert!(more < 50, "{more} rows for 5 empty reads");
    Ok(())
}

/// Uses up transaction ids.
async fn burn(connection: &mut PgConnection, count: u32) -> Result<()> {
    let sql = format!(
        "DO $$ BEGIN FOR i IN 1..{count} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
    );
    execute(connection, sql).await
}

/// Bounds what a single statement of these tests may take; none waits for another on purpose.
#[tokio::test]
async fn reading_waits_for_nobody() -> Result<()> {
    // GIVEN a transaction that has locked the outbox as writers do, and stays open
    let catalog = Catalog::with_pipeline(OUTBOX, "p").await?;
    let mut open = catalog.connect().await?;
    let mut drafts = Drafts::default();
    execute(&mut open, "BEGIN").await?;
    publish(&mut open, &drafts.draw_keyless(OUTBOX)).await?;
    // WHEN others publish and it is read under a statement timeout
    let mut reading = Reading::from_the_beginning(&catalog).await?;
    let limit = Duration::from_secs(5).as_millis();
    execute(
        &mut reading.connection,
        format!("SET statement_timeout = {limit}"),
    )
    .await?;
    let first = drafts.draw_keyless(OUTBOX);
    publish(&mut reading.connection, &first).await?;
    reading.page(10).await?;
    // THEN what is committed is read at once
    assert!(reading.has_read(&[&first]));
    Ok(())
}
