//! Reads messages by the snapshot cursor: no gap, order per key, no waiting for anybody.
//!
//! [`tide_model::cursor`] explains why this is right; here are the statements. Each read is ONE
//! statement, so that both halves and the new snapshot come from the same moment, and it goes to
//! the primary: a standby's snapshots hide transactions that are in progress.
//!
//! The late half looks at the index on `(xid, id)` alone. `id + 0` keeps the planner from walking
//! the primary key up to `high` instead, which is the whole outbox.

use futures_util::TryStreamExt;
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
    pub fn restored(messages: Vec<Message>, before: Cursor, after: Option<Cursor>) -> Self {
        let seen = before.snapshot.clone().unwrap_or_else(Snapshot::empty);
        let provisional = after.is_none();
        Self {
            messages,
            cursor: after.unwrap_or_else(|| before.clone()),
            more: true,
            before,
            seen,
            provisional,
        }
    }

    /// A page of `pass`; `complete` unless the limits left some of it behind.
    fn of_pass(cursor: &Cursor, pass: &Pass, messages: Vec<Message>, complete: bool) -> Self {
        let after = match messages.last() {
            Some(last) if !complete => cursor.passing(last.id, pass.target.clone()),
            _ => cursor.passed(),
        };
        Self {
            messages,
            cursor: after,
            more: true,
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
            let (messages, complete) = catch_up::read(
                connection,
                source,
                cursor,
                Some(pass),
                pass.position,
                limits,
            )
            .await?;
            Ok(Page::of_pass(cursor, pass, messages, complete))
        }
        (Some(pass), Some(snapshot)) => {
            let Source { relation, .. } = source;
            let ours = source.only_ours();
            let sql = format!(
                "-- read_pass\n\
                 SELECT id, event_id, key, payload::text, headers::text, created_at FROM {relation} m\n\
                 WHERE id > greatest($1, $6) AND id <= $2\n\
                   AND (xid = ANY ($3::text[]::xid8[]) OR xid >= $4::text::xid8)\n\
                   AND pg_visible_in_snapshot(xid, $5::text::pg_snapshot) {ours}\n\
                 ORDER BY id LIMIT $7"
            );
            let query = sqlx::query(AssertSqlSafe(sql))
                .bind(pass.position)
                .bind(cursor.high)
                .bind(xids(snapshot))
                .bind(snapshot.xmax().to_string())
                .bind(pass.target.to_string())
                .bind(cursor.floor)
                .bind(limits.messages as i64);
            let (messages, complete) = collect(query.fetch(connection), limits).await?;
            Ok(Page::of_pass(cursor, pass, messages, complete))
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
             SELECT id FROM {relation} WHERE xid >= $3::text::xid8 AND id + 0 <= $1 AND id + 0 > $4\n\
         ), page AS (\n\
             (SELECT m.* FROM {relation} m JOIN late USING (id) WHERE true {ours} ORDER BY id LIMIT $5::bigint + 1)\n\
             UNION ALL\n\
             (SELECT m.* FROM {relation} m WHERE id > $1 {ours} ORDER BY id LIMIT $5)\n\
         )\n\
         SELECT s.seen, s.newest, p.id, p.event_id, p.key, p.payload::text, p.headers::text, p.created_at\n\
         FROM (SELECT pg_current_snapshot()::text AS seen, {newest} AS newest) s LEFT JOIN page p ON true ORDER BY p.id"
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
    let mut messages = Vec::new();
    let mut seen: Option<Snapshot> = None;
    let mut newest: Option<i64> = None;
    let (mut bytes, mut late, mut read) = (0, 0, 0);
    while let Some(row) = rows.try_next().await.doing("reading the outbox")? {
        if seen.is_none() {
            let text: String = row.try_get(0).doing("reading the outbox")?;
            seen = Some(parse("pg_current_snapshot()", "seen", &text)?);
            newest = row.try_get(1).doing("reading the outbox")?;
        }
        let Some(id) = row
            .try_get::<Option<i64>, _>(MESSAGE)
            .doing("reading the outbox")?
        else {
            break;
        };
        read += 1;
        late += usize::from(id <= cursor.high);
        if messages.len() < limits.messages && bytes < limits.bytes {
            let message = Message::of_row(&row, MESSAGE).doing("reading the outbox")?;
            bytes += message.payload.len() + message.headers.len();
            messages.push(message);
        }
    }
    let seen =
        seen.ok_or_else(|| CatalogError::inconsistent("pg_current_snapshot()", "seen", "no row"))?;
    let last = messages.last().map(|message| message.id);
    let late_left_behind = late > messages.len();
    let more = read > messages.len() || messages.len() >= limits.messages;
    let after = match last {
        Some(last) if late_left_behind => cursor.passing(last, seen.clone()),
        _ if more => cursor.advanced(last, seen.clone()),
        _ => cursor.advanced(last.max(newest), seen.clone()),
    };
    Ok(Page {
        messages,
        cursor: after,
        more,
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
) -> Result<(Vec<Message>, bool), CatalogError> {
    if !cursor.origins.is_empty() {
        let (messages, complete) =
            catch_up::read(connection, source, cursor, None, position, limits).await?;
        return Ok((messages, !complete));
    }
    let Some(snapshot) = &cursor.snapshot else {
        return Ok((Vec::new(), false));
    };
    let Source { relation, .. } = source;
    let ours = source.only_ours();
    let sql = format!(
        "-- read_restored\n\
         SELECT id, event_id, key, payload::text, headers::text, created_at FROM {relation} m\n\
         WHERE id > greatest($1, $5) AND id <= $2\n\
           AND (xid = ANY ($3::text[]::xid8[]) OR xid >= $4::text::xid8) {ours}\n\
         ORDER BY id LIMIT $6"
    );
    let query = sqlx::query(AssertSqlSafe(sql))
        .bind(position)
        .bind(cursor.high)
        .bind(xids(snapshot))
        .bind(snapshot.xmax().to_string())
        .bind(cursor.floor)
        .bind(limits.messages as i64);
    let (messages, complete) = collect(query.fetch(connection), limits).await?;
    Ok((messages, !complete))
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

/// Takes rows up to the limits; the flag says whether that was certainly all of them.
pub(crate) async fn collect(
    mut rows: impl futures_util::Stream<Item = Result<PgRow, sqlx::Error>> + Unpin,
    limits: PageLimits,
) -> Result<(Vec<Message>, bool), CatalogError> {
    let mut messages = Vec::new();
    let (mut bytes, mut read, mut complete) = (0, 0, true);
    while let Some(row) = rows.try_next().await.doing("reading the outbox")? {
        read += 1;
        if bytes >= limits.bytes {
            complete = false;
            continue;
        }
        let message = Message::of_row(&row, 0).doing("reading the outbox")?;
        bytes += message.payload.len() + message.headers.len();
        messages.push(message);
    }
    Ok((messages, complete && read < limits.messages))
}
