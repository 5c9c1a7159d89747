//! The newest messages of an outbox, for whoever wants to see what would become of them.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    CatalogError,
    error::Doing,
    messages::{Message, PageLimits, take},
};

/// The last messages of an outbox, oldest first; none if there is no such outbox. Reads and changes
/// nothing, whoever delivers them.
pub async fn messages_newest(
    connection: &mut PgConnection,
    outbox: &str,
    limits: PageLimits,
) -> Result<Option<Vec<Message>>, CatalogError> {
    let relation: Option<String> = sqlx::query_scalar(
        "-- messages_newest\nSELECT relation::text FROM tide.outboxes WHERE name = $1",
    )
    .bind(outbox)
    .fetch_optional(&mut *connection)
    .await
    .doing("looking for the outbox")?;
    let Some(relation) = relation else {
        return Ok(None);
    };
    let sql = format!(
        "-- messages_newest\n\
         SELECT id, event_id, key, payload::text, headers::text, created_at FROM {relation}\n\
         ORDER BY id DESC LIMIT $1"
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(limits.messages as i64);
    let mut messages = take(query.fetch(connection), limits).await?.messages;
    messages.reverse();
    Ok(Some(messages))
}
