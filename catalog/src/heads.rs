//! Where the outboxes stand, without reading a message.

use sqlx::{AssertSqlSafe, PgConnection, Row};
use tide_model::Snapshot;

use crate::{CatalogError, error::Doing, fleet::parse};

/// Where every outbox stands, in one cheap statement that touches no message.
#[derive(Debug, Clone)]
pub struct Heads {
    /// What a read at this moment could see.
    pub snapshot: Snapshot,
    /// The outboxes, by name.
    pub outboxes: Vec<Head>,
}

/// Where one outbox stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Name of the outbox.
    pub outbox: String,
    /// Its table, quoted.
    pub relation: String,
    /// The highest id drawn, whether or not it is committed.
    pub last: i64,
}

/// Reads the outboxes' sequences.
pub async fn heads(connection: &mut PgConnection) -> Result<Heads, CatalogError> {
    let rows: Vec<(String, Option<String>, Option<String>, i64)> = sqlx::query_as(
        "-- heads\n\
         SELECT s.seen, o.name, o.relation::text, coalesce(pg_sequence_last_value(o.sequence), 0)\n\
         FROM (SELECT pg_current_snapshot()::text AS seen) s LEFT JOIN tide.outboxes o ON true ORDER BY o.name COLLATE \"C\"",
    )
    .fetch_all(connection)
    .await
    .doing("probing the outboxes")?;
    let seen = rows
        .first()
        .map(|(seen, ..)| seen.as_str())
        .unwrap_or_default();
    Ok(Heads {
        snapshot: parse("pg_current_snapshot()", "seen", seen)?,
        outboxes: rows
            .into_iter()
            .filter_map(|(_, outbox, relation, last)| {
                Some(Head {
                    outbox: outbox?,
                    relation: relation?,
                    last,
                })
            })
            .collect(),
    })
}

/// Looks into the outboxes' indexes on `(xid, id)`, in one statement: which transaction wrote last,
/// and which of the `finished` ones wrote at all; of each relation, in their order. An outbox that
/// holds no transaction newer than a snapshot, and none of those that were in progress in it, has no
/// news for who read with it.
///
/// The text of the statement depends on the relations alone, so that those who ask for the same
/// ones again find it prepared.
pub async fn writers(
    connection: &mut PgConnection,
    relations: &[&str],
    finished: impl IntoIterator<Item = u64>,
) -> Result<Vec<Vec<u64>>, CatalogError> {
    use std::fmt::Write as _;
    let mut sql = String::from("-- writers\nSELECT");
    for (index, relation) in relations.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Cannot fail: it is a String.
        write!(
            sql,
            // `ORDER BY xid` would be the order of the texts, in which 999 comes after 1000.
            "{comma}\n    array(SELECT DISTINCT m.xid::text FROM {relation} m WHERE m.xid = ANY ($1::text[]::xid8[]))\
             \n    || array(SELECT m.xid::text FROM {relation} m ORDER BY m.xid DESC LIMIT 1)"
        )
        .unwrap_or_default();
    }
    let finished: Vec<String> = finished.into_iter().map(|xid| xid.to_string()).collect();
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(finished)
        .fetch_one(connection)
        .await
        .doing("probing the outboxes")?;
    let mut answers = Vec::with_capacity(relations.len());
    for column in 0..relations.len() {
        let texts: Vec<String> = row.try_get(column).doing("probing the outboxes")?;
        let xids = texts.iter().map(|text| parse("an outbox", "xid", text));
        answers.push(xids.collect::<Result<_, _>>()?);
    }
    Ok(answers)
}
