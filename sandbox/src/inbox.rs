//! Reading an inbox: each row is a delivery.

use std::{sync::Arc, thread};

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::runtime;

use crate::envelope::{Delivery, Envelope, EnvelopeError};

/// Why an inbox is not what a pipeline should leave.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// It could not be read.
    #[error("could not read inbox {inbox}")]
    Read {
        /// The inbox.
        inbox: String,
        /// What the server answered.
        #[source]
        source: sqlx::Error,
    },
    /// A row holds no envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

/// Reads an inbox whenever it is asked.
#[derive(Debug, Clone)]
pub struct InboxReader {
    url: Arc<str>,
    inbox: Arc<str>,
}

impl InboxReader {
    /// The inbox of this name in the database at `url`.
    pub fn new(url: &str, inbox: &str) -> Self {
        Self {
            url: url.into(),
            inbox: inbox.into(),
        }
    }

    /// What the inbox holds now, in the order of arrival. Blocks until the server has answered.
    pub fn records(&self) -> Result<Vec<Delivery>, InboxError> {
        // Readers of files and topics answer at once too; a runtime cannot wait inside another.
        let reading = thread::scope(|scope| scope.spawn(|| self.rows()).join());
        let rows = reading.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let rows = rows.map_err(|source| InboxError::Read {
            inbox: self.inbox.to_string(),
            source,
        })?;
        rows.into_iter()
            .enumerate()
            .map(|(index, (envelope, at))| {
                Ok(Delivery {
                    stream: self.inbox.to_string(),
                    envelope: Envelope::parse(envelope.to_string().as_bytes())?,
                    order: index as u64,
                    at: Some(at),
                })
            })
            .collect()
    }

    fn rows(&self) -> Result<Vec<(serde_json::Value, time::OffsetDateTime)>, sqlx::Error> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut connection = PgConnection::connect(&self.url).await?;
            let sql = format!(
                "SELECT event_id, source, source_id, key, headers, payload, created_at, received_at
                 FROM tide.\"inbox_{}\" ORDER BY id",
                self.inbox
            );
            let rows = sqlx::query(AssertSqlSafe(sql))
                .fetch_all(&mut connection)
                .await?;
            let read = |row: sqlx::postgres::PgRow| {
                let created_at: time::OffsetDateTime = row.try_get("created_at")?;
                let written = created_at.format(&time::format_description::well_known::Rfc3339);
                let envelope = json!({
                    "event_id": row.try_get::<uuid::Uuid, _>("event_id")?,
                    "outbox": row.try_get::<String, _>("source")?,
                    "id": row.try_get::<i64, _>("source_id")?,
                    "key": row.try_get::<Option<String>, _>("key")?,
                    "headers": row.try_get::<serde_json::Value, _>("headers")?,
                    "payload": row.try_get::<serde_json::Value, _>("payload")?,
                    "created_at": written.map_err(|error| sqlx::Error::Decode(error.into()))?,
                });
                Ok((envelope, row.try_get("received_at")?))
            };
            rows.into_iter().map(read).collect()
        })
    }
}
