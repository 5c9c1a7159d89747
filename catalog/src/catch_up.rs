//! After a change of the number of shards: reads what the former shards had left.
//!
//! A message of a new shard was delivered if its *former* shard's position says so. The statement
//! joins each message with that one position; [`tide_model::cursor`] explains why the order per key
//! holds.

use sqlx::{AssertSqlSafe, PgConnection};
use tide_model::{Cursor, Pass, Snapshot};

use crate::{
    CatalogError,
    messages::{PageLimits, Source, Taken, take},
};

/// Messages above `position`, up to `cursor.high`, that the former shards had not delivered. With a
/// `pass` only what its target sees; without one everything that the pass has not delivered either,
/// which is for a restored outbox, where no later snapshot can find the rest.
pub(crate) async fn read(
    connection: &mut PgConnection,
    source: &Source,
    cursor: &Cursor,
    pass: Option<&Pass>,
    position: i64,
    limits: PageLimits,
) -> Result<Taken, CatalogError> {
    let Source { relation, .. } = source;
    let ours = source.only_ours();
    let which = match pass {
        // Older than a restore are only rows at or below the floor; their transactions are not
        // this cluster's, and they are visible.
        Some(_) => {
            "m.id > $10 AND (m.id <= $8 OR pg_visible_in_snapshot(m.xid, $9::text::pg_snapshot))"
        }
        None => {
            "($9::text IS NULL OR m.id > $10 OR NOT pg_visible_in_snapshot(m.xid, $9::text::pg_snapshot))"
        }
    };
    let sql = format!(
        "-- catch_up\n\
         SELECT id, event_id, key, payload::text, headers::text, created_at FROM (SELECT m.* FROM {relation} m\n\
         WHERE m.id > $1 AND m.id <= $2 AND {which} {ours}\n\
           AND NOT EXISTS (\n\
               SELECT FROM unnest($3::bigint[], $4::text[], $5::text[], $6::bigint[])\n\
                    WITH ORDINALITY AS former (high, seen, pass_target, pass_at, shard)\n\
               WHERE former.shard = tide.shard_of(m.key, m.id, $7)\n\
                 AND (m.id <= former.high AND (m.id <= $8 OR pg_visible_in_snapshot(m.xid, former.seen::pg_snapshot))\n\
                      OR m.id <= former.pass_at AND m.id <= former.high\n\
                         AND pg_visible_in_snapshot(m.xid, former.pass_target::pg_snapshot)))\n\
         ORDER BY m.id LIMIT $11) q"
    );
    let text = |snapshot: &Option<Snapshot>| snapshot.as_ref().map(ToString::to_string);
    let origins = &cursor.origins;
    let done = cursor.pass.as_ref();
    let query = sqlx::query(AssertSqlSafe(sql))
        .bind(position)
        .bind(cursor.high)
        .bind(origins.iter().map(|origin| origin.high).collect::<Vec<_>>())
        .bind(
            origins
                .iter()
                .map(|origin| text(&origin.snapshot))
                .collect::<Vec<_>>(),
        )
        .bind(
            origins
                .iter()
                .map(|origin| text(&origin.pass_target))
                .collect::<Vec<_>>(),
        )
        .bind(
            origins
                .iter()
                .map(|origin| origin.pass_position)
                .collect::<Vec<_>>(),
        )
        .bind(origins.len() as i32)
        .bind(cursor.floor)
        .bind(done.map(|pass| pass.target.to_string()))
        .bind(done.map_or(0, |pass| pass.position))
        .bind(limits.messages as i64);
    take(query.fetch(connection), limits).await
}
