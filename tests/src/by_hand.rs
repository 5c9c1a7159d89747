//! Messages published one by one, in an interleaving that the test chooses.
//!
//! The test says in which order the messages of a key commit by the order in which it
//! [draws](Drafts::draw) them; when and on which connection they are written is its own affair.

use std::collections::BTreeMap;

use serde_json::json;
use tide_catalog::{
    CatalogError, PgConnection,
    outboxes::{NewMessage, outbox_publish},
};
use tide_sandbox::publisher::{Entry, KeyPosition};
use uuid::Uuid;

/// Draws messages and keeps account of them.
#[derive(Debug, Default)]
pub struct Drafts {
    drawn: Vec<Entry>,
    next: BTreeMap<(String, String), i64>,
}

impl Drafts {
    /// The next message of a key in commit order.
    pub fn draw(&mut self, outbox: &str, key: &str) -> Entry {
        let next = self
            .next
            .entry((outbox.to_owned(), key.to_owned()))
            .or_default();
        let position = KeyPosition {
            key: key.to_owned(),
            sequence: *next,
        };
        *next += 1;
        self.keep(outbox, Some(position))
    }

    /// A message without a key.
    pub fn draw_keyless(&mut self, outbox: &str) -> Entry {
        self.keep(outbox, None)
    }

    /// Everything that was drawn.
    pub fn entries(&self) -> &[Entry] {
        &self.drawn
    }

    /// Takes a message out of the account: it is not expected to be delivered.
    pub fn forget(&mut self, event_id: Uuid) {
        self.drawn.retain(|entry| entry.event_id != event_id);
    }

    fn keep(&mut self, outbox: &str, position: Option<KeyPosition>) -> Entry {
        let entry = Entry {
            outbox: outbox.to_owned(),
            event_id: Uuid::now_v7(),
            position,
        };
        self.drawn.push(entry.clone());
        entry
    }
}

/// Writes a message in the connection's transaction, or in one of its own.
pub async fn publish(connection: &mut PgConnection, entry: &Entry) -> Result<(), CatalogError> {
    let message = NewMessage {
        outbox: entry.outbox.clone(),
        payload: json!({"sequence": entry.position.as_ref().map(|at| at.sequence)}),
        headers: json!({"source": "by hand"}),
        key: entry.position.as_ref().map(|at| at.key.clone()),
        event_id: Some(entry.event_id),
    };
    outbox_publish(connection, &message).await.map(drop)
}
