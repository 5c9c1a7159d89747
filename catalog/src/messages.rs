//! Reads messages by the snapshot cursor: no gap, order per key, no waiting for anybody.
//!
//! [`tide_model::cursor`] explains why this is right; here are the statements. Each read is ONE
//! statement, so that both halves and the new snapshot come from the same moment, and it goes to
//! the primary: a standby's snapshots hide transactions that are in progress.
//!
//! The late half looks at the index on `(xid, id)` alone. `id + 0`, or a condition on `xid` that
//! seems narrower than the one on `id`, keeps the planner from walking the primary key up to `high`
//! instead, which is the whole outbox. The rows of late messages are
//! looked up one by one, because a join might walk the primary key as well: there is only one
//! sensible plan, and [`SETTINGS`] let the server keep the one that it made without knowing a position.
//!
//! The first row of an answer says what the read has seen, and the others are the messages, late ones
//! before new ones. All three come in order and are merged, so nothing is sorted or copied for it.
//!
//! A read asks for a number of messages, and how large they are is seen only as they come. So the
//! rows are sorted in an inner query and become text in an outer one: the server makes text of each
//! as it sends it, and of no more when the reader goes away, which it does ([`Surplus::Unread`])
//! once as much again has come as it had room for.

use futures_util::{Stream, TryStreamExt};
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Row, postgres::PgRow};
use tide_model::{Cursor, Pass, Shard, Snapshot};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{CatalogError, catch_up, error::Doing, fleet::parse};

/// One message as stored. Payload and headers stay text: most sinks pass them on unread.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Message {
    /// Position in the outbox.
    pub id: i64,
    /// Stable identity over all redeliveries.
    pub event_id: Uuid,
    /// Messages of one key are delivered in commit order.
    pub key: Option<String>,
    /// JSON text.
    pub payload: String,
    /// JSON text of an object.
    pub headers: String,
    /// When it was written, on the server's clock; not when it was committed.
    pub created_at: OffsetDateTime,
}

/// A page of messages in id order, and what it means for the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The messages; may be empty.
    pub messages: Vec<Message>,
    /// Where the pipeline stands after all of them.
    pub cursor: Cursor,
    /// Whether the outbox may hold more right now.
    pub more: bool,
    /// What came besides them.
    pub surplus: Surplus,
    /// Where the pipeline stood before them.
    before: Cursor,
    /// The snapshot of this read, or the target of its pass.
    seen: Snapshot,
    /// Part of what a restored outbox has left over: no position until all of it is delivered.
    provisional: bool,
}

impl Message {
    /// The message in the columns of a row from `first` on, in the order of the fields. By number,
    /// because names are looked up once a column and row, which is a good part of what reading costs.
    fn of_row(row: &PgRow, first: usize) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get(first)?,
            event_id: row.try_get(first + 1)?,
            key: row.try_get(first + 2)?,
            payload: row.try_get(first + 3)?,
            headers: row.try_get(first + 4)?,
            created_at: row.try_get(first + 5)?,
        })
    }
}

impl Page {
    /// Messages that a restored outbox had left over, with more to come if `after` is none. There
    /// is no position in between: a crash begins with the first of them again.
    pub fn restored(taken: Taken, before: Cursor, after: Option<Cursor>) -> Self {
        let seen = before.snapshot.clone().unwrap_or_else(Snapshot::empty);
        let provisional = after.is_none();
        Self {
            messages: taken.messages,
            cursor: after.unwrap_or_else(|| before.clone()),
            more: true,
            surplus: taken.surplus,
            before,
            seen,
            provisional,
        }
    }

    fn of_pass(cursor: &Cursor, pass: &Pass, taken: Taken) -> Self {
        let after = match taken.messages.last() {
            Some(last) if !taken.complete => cursor.passing(last.id, pass.target.clone()),
            _ => cursor.passed(),
        };
        Self {
            messages: taken.messages,
            cursor: after,
            more: true,
            surplus: taken.surplus,
            before: cursor.clone(),
            seen: pass.target.clone(),
            provisional: false,
        }
    }

    /// The position to store once the first `delivered` messages are delivered; none if that does
    /// not move it. A page that moves nothing but the snapshot is not worth a write: reading again
    /// from the older snapshot finds the same.
    pub fn position_after(&self, delivered: usize) -> Option<Cursor> {
        if self.provisional {
            return None;
        }
        let settles = self.before.floor != self.cursor.floor;
        match (
            delivered
                .checked_sub(1)
                .and_then(|index| self.messages.get(index)),
            self.messages.get(delivered),
        ) {
            // All of it, or the end of a pass that had nothing left.
            (last, None) => (last.is_some() || settles || self.before.pass.is_some())
                .then(|| self.cursor.clone()),
            (None, Some(_)) => None,
            (Some(_), Some(_)) if settles => None,
            // More late messages follow, so the rest has to be found again by this very snapshot.
            (Some(last), Some(next)) if next.id <= self.before.high => {
                Some(self.before.passing(last.id, self.seen.clone()))
            }
            (Some(last), Some(_)) => Some(self.before.advanced(Some(last.id), self.seen.clone())),
        }
    }
}

/// How much one page may hold.
#[derive(Debug, Clone, Copy)]
pub struct PageLimits {
    /// At most this many messages.
    pub messages: usize,
    /// No further message once payloads and headers reach this many bytes.
    pub bytes: usize,
}

/// Where messages are read from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The outbox's table, quoted, from the catalog.
    pub relation: String,
    /// The shard whose messages are read; none for all messages.
    pub shard: Option<Shard>,
}

impl Source {
    /// `AND …`: only this shard's messages, in a statement that calls the outbox `m`.
    pub(crate) fn only_ours(&self) -> String {
        self.shard
            .map_or_else(String::new, |Shard { index, count }| {
                format!("AND tide.shard_of(m.key, m.id, {count}) = {index}")
            })
    }
}

/// Reads the page after `cursor`.
pub async fn read_page(
    connection: &mut PgConnection,
    source: &Source,
    cursor: &Cursor,
    limits: PageLimits,
) -> Result<Page, CatalogError> {
    match (&cursor.pass, &cursor.snapshot) {
        (Some(pass), _) if !cursor.origins.is_empty() => {
            let position = pass.position;
            let taken =
                catch_up::read(connection, source, cursor, Some(pass), position, limits).await?;
            Ok(Page::of_pass(cursor, pass, taken))
        }
        (Some(pass), Some(snapshot)) => {
            let Source { relation, .. } = source;
            let ours = source.only_ours();
            let sql = format!(
                "-- read_pass\n\
                 SELECT id, event_id, key, payload::text, headers::text, created_at FROM (\n\
                     SELECT m.* FROM {relation} m\n\
                     WHERE id > greatest($1, $6) AND id <= $2\n\
                       AND (xid = ANY ($3::text[]::xid8[]) OR xid >= $4::text::xid8)\n\
                       AND pg_visible_in_snapshot(xid, $5::text::pg_snapshot) {ours}\n\
                     ORDER BY id LIMIT $7\n\
                 ) q"
            );
            let query = sqlx::query(AssertSqlSafe(sql))
                .bind(pass.position)
                .bind(cursor.high)
                .bind(xids(snapshot))
                .bind(snapshot.xmax().to_string())
                .bind(pass.target.to_string())
                .bind(cursor.floor)
                .bind(limits.messages as i64);
            let taken = take(query.fetch(connection), limits).await?;
            Ok(Page::of_pass(cursor, pass, taken))
        }
        _ => read_both_halves(connection, source, cursor, limits).await,
    }
}

/// Reads behind the last message that there can ever be, with the statement of [`read_page`]: this
/// session is quicker at it from then on.
pub async fn read_nothing(
    connection: &mut PgConnection,
    source: &Source,
) -> Result<(), CatalogError> {
    let end = Cursor {
        high: i64::MAX,
        ..Cursor::beginning()
    };
    let limits = PageLimits {
        messages: 1,
        bytes: 1,
    };
    read_both_halves(connection, source, &end, limits).await?;
    Ok(())
}

/// How a session is to plan what it reads and stores, which is the same few statements again and
/// again.
pub const SETTINGS: [(&str, &str); 4] = [
    // A plan for the very values of a read takes longer to make than to carry out.
    ("plan_cache_mode", "force_generic_plan"),
    // The statistics of an outbox never fit its end. Every statement has an index to use.
    ("enable_seqscan", "off"),
    // A table that has no index to use is then planned at a cost that makes the server compile the
    // statement: a tenth of a second of its processor for three rows.
    ("jit", "off"),
    // Without values, the server takes every read for one that is worth two processes of its own.
    ("max_parallel_workers_per_gather", "0"),
];

/// An upper bound that says nothing. With both ends the server takes the condition for narrow, and
/// with the one on `id` for narrower still, so that it looks both up in the index on `(xid, id)`:
/// new messages, which are not late, cost no look at the table there.
const LAST_XID: &str = "'18446744073709551615'::xid8";

const READING: &str = "reading the outbox";

/// The first column of a page that belongs to the message; those before it belong to the read.
const MESSAGE: usize = 2;

async fn read_both_halves(
    connection: &mut PgConnection,
    source: &Source,
    cursor: &Cursor,
    limits: PageLimits,
) -> Result<Page, CatalogError> {
    let Source { relation, shard } = source;
    let ours = source.only_ours();
    let ours_of_late = match shard {
        Some(Shard { index, count }) => format!(
            "WHERE (SELECT tide.shard_of(m.key, m.id, {count}) FROM {relation} m WHERE m.id = late.id) = {index}"
        ),
        None => String::new(),
    };
    // A shard that has nothing new steps over what is new to others.
    let newest = match shard {
        Some(_) => format!("(SELECT max(id) FROM {relation})"),
        None => "NULL::bigint".to_owned(),
    };
    let sql = format!(
        "-- read_page\n\
         WITH late AS MATERIALIZED (\n\
             SELECT id FROM {relation} WHERE xid = ANY ($2::text[]::xid8[]) AND id + 0 <= $1 AND id + 0 > $4\n\
             UNION ALL\n\
             SELECT id FROM {relation} WHERE xid BETWEEN $3::text::xid8 AND {LAST_XID} AND id <= $1 AND id > $4\n\
         )\n\
         SELECT q.seen, q.newest, q.id, q.event_id, q.key, q.payload::text, q.headers::text, q.created_at FROM (\n\
             SELECT pg_current_snapshot()::text AS seen, {newest} AS newest, 0::bigint AS id, NULL::uuid AS event_id,\n\
                    NULL::text AS key, NULL::jsonb AS payload, NULL::jsonb AS headers, NULL::timestamptz AS created_at\n\
             UNION ALL\n\
             (SELECT NULL, NULL, id, event_id, key, payload, headers, created_at FROM {relation}\n\
              WHERE id = ANY (ARRAY(SELECT late.id FROM late {ours_of_late} ORDER BY late.id LIMIT $5::bigint + 1)) ORDER BY id)\n\
             UNION ALL\n\
             (SELECT NULL, NULL, id, event_id, key, payload, headers, created_at FROM {relation} m\n\
              WHERE id > $1 {ours} ORDER BY id LIMIT $5)\n\
             ORDER BY id\n\
         ) q"
    );
    // Before the first read nothing can be late: high is 0, and ids start at 1.
    let (xips, xmax) = match &cursor.snapshot {
        Some(snapshot) => (xids(snapshot), snapshot.xmax().to_string()),
        None => (Vec::new(), u64::MAX.to_string()),
    };
    let query = sqlx::query(AssertSqlSafe(sql))
        .bind(cursor.high)
        .bind(xips)
        .bind(xmax)
        .bind(cursor.floor)
        .bind(limits.messages as i64);

    let mut rows = query.fetch(connection);
    let mut taking = Taking::new(MESSAGE, limits);
    // No message has the first row's id.
    let Some(first) = rows.try_next().await.doing(READING)? else {
        return Err(CatalogError::inconsistent(
            "pg_current_snapshot()",
            "seen",
            "no row",
        ));
    };
    let seen: String = first.try_get(0).doing(READING)?;
    let seen: Snapshot = parse("pg_current_snapshot()", "seen", &seen)?;
    let newest: Option<i64> = first.try_get(1).doing(READING)?;
    while let Some(row) = rows.try_next().await.doing(READING)? {
        if !taking.take(&row)? {
            break;
        }
    }
    let late_left_behind = taking.left.is_some_and(|id| id <= cursor.high);
    let taken = taking.end();
    let last = taken.messages.last().map(|message| message.id);
    let after = match last {
        Some(last) if late_left_behind => cursor.passing(last, seen.clone()),
        _ if taken.complete => cursor.advanced(last.max(newest), seen.clone()),
        _ => cursor.advanced(last, seen.clone()),
    };
    Ok(Page {
        messages: taken.messages,
        cursor: after,
        more: !taken.complete,
        surplus: taken.surplus,
        before: cursor.clone(),
        seen,
        provisional: false,
    })
}

/// After a restore into another cluster: messages below `cursor.high` that the old cluster's
/// snapshot had not seen, from `position` on. Their transaction ids came along with the rows, so
/// they still compare with the old snapshot; rows of the new cluster all have higher ids.
pub async fn read_restored(
    connection: &mut PgConnection,
    source: &Source,
    cursor: &Cursor,
    position: i64,
    limits: PageLimits,
) -> Result<Taken, CatalogError> {
    if !cursor.origins.is_empty() {
        return catch_up::read(connection, source, cursor, None, position, limits).await;
    }
    let Some(snapshot) = &cursor.snapshot else {
        return Ok(Taken::nothing());
    };
    let Source { relation, .. } = source;
    let ours = source.only_ours();
    let sql = format!(
        "-- read_restored\n\
         SELECT id, event_id, key, payload::text, headers::text, created_at FROM (\n\
             SELECT m.* FROM {relation} m\n\
             WHERE id > greatest($1, $5) AND id <= $2\n\
               AND (xid = ANY ($3::text[]::xid8[]) OR xid >= $4::text::xid8) {ours}\n\
             ORDER BY id LIMIT $6\n\
         ) q"
    );
    let query = sqlx::query(AssertSqlSafe(sql))
        .bind(position)
        .bind(cursor.high)
        .bind(xids(snapshot))
        .bind(snapshot.xmax().to_string())
        .bind(cursor.floor)
        .bind(limits.messages as i64);
    take(query.fetch(connection), limits).await
}

/// The cursor of this cluster, once [`read_restored`] has nothing more: rows that are plainly
/// visible although their transaction ids lie in this cluster's future are from the old one, and
/// everything up to the last of them is settled.
pub async fn rebase(
    connection: &mut PgConnection,
    relation: &str,
    cursor: &Cursor,
) -> Result<Cursor, CatalogError> {
    let sql = format!(
        "-- rebase\n\
         SELECT pg_current_snapshot()::text,\n\
                coalesce(max(id) FILTER (WHERE NOT pg_visible_in_snapshot(xid, pg_current_snapshot())), 0)\n\
         FROM {relation}"
    );
    let (seen, floor): (String, i64) = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .doing("settling a restored outbox")?;
    Ok(cursor.rebased(floor, parse("pg_current_snapshot()", "seen", &seen)?))
}

fn xids(snapshot: &Snapshot) -> Vec<String> {
    snapshot.in_progress().iter().map(u64::to_string).collect()
}

/// What was taken of an answer.
#[derive(Debug)]
pub struct Taken {
    /// In the order of their ids.
    pub messages: Vec<Message>,
    /// Whether that was certainly all there was.
    pub complete: bool,
    /// What came besides them.
    pub surplus: Surplus,
}

/// What was sent although there was no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surplus {
    /// Nothing.
    None,
    /// Some, which was read and dropped.
    Read,
    /// So much that the rest of it is still on its way: the session is better closed than used again.
    Unread,
}

impl Taken {
    fn nothing() -> Self {
        Self {
            messages: Vec::new(),
            complete: true,
            surplus: Surplus::None,
        }
    }
}

/// Takes messages out of rows, up to the limits.
struct Taking {
    /// Number of the column with the message's id.
    column: usize,
    limits: PageLimits,
    messages: Vec<Message>,
    bytes: usize,
    /// The first message that was left behind.
    left: Option<i64>,
    /// Bytes that came in vain.
    in_vain: usize,
}

impl Taking {
    fn new(column: usize, limits: PageLimits) -> Self {
        Self {
            column,
            limits,
            messages: Vec::new(),
            bytes: 0,
            left: None,
            in_vain: 0,
        }
    }

    /// Takes the message in the row if there is room for it. Whether to go on: rows that are left
    /// behind are read until as much has come in vain as there was room for.
    fn take(&mut self, row: &PgRow) -> Result<bool, CatalogError> {
        let PageLimits { messages, bytes } = self.limits;
        let message = Message::of_row(row, self.column).doing(READING)?;
        let size = message.payload.len() + message.headers.len();
        if self.left.is_none() && self.messages.len() < messages && self.bytes < bytes {
            self.bytes += size;
            self.messages.push(message);
            return Ok(true);
        }
        self.left.get_or_insert(message.id);
        self.in_vain += size;
        Ok(self.in_vain < bytes)
    }

    fn end(self) -> Taken {
        Taken {
            complete: self.left.is_none() && self.messages.len() < self.limits.messages,
            surplus: match self.left {
                None => Surplus::None,
                Some(_) if self.in_vain < self.limits.bytes => Surplus::Read,
                Some(_) => Surplus::Unread,
            },
            messages: self.messages,
        }
    }
}

/// Takes the messages that rows begin with.
pub(crate) async fn take(
    mut rows: impl Stream<Item = Result<PgRow, sqlx::Error>> + Unpin,
    limits: PageLimits,
) -> Result<Taken, CatalogError> {
    let mut taking = Taking::new(0, limits);
    while let Some(row) = rows.try_next().await.doing(READING)? {
        if !taking.take(&row)? {
            break;
        }
    }
    Ok(taking.end())
}
