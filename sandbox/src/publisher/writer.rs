//! One writer: a connection that runs one scripted transaction after another.

use std::{sync::Arc, time::Duration};

use rand::rngs::StdRng;
use serde_json::json;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{
    Shared,
    ledger::{Entry, KeyPosition, Mark, Phases, Unknown},
    script::{Draft, Ending, Script, Step},
    sql,
};

/// How long a transaction may take, and a connection attempt.
const PATIENCE: Duration = Duration::from_mins(1);
/// The pause after an interruption.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Writer {
    number: usize,
    random: StdRng,
    options: PgConnectOptions,
    shared: Arc<Shared>,
    connection: Option<PgConnection>,
    /// The transaction whose commit was asked for and not answered yet.
    doubt: Option<Mark>,
}

impl Writer {
    pub(super) fn new(
        number: usize,
        random: StdRng,
        options: PgConnectOptions,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            number,
            random,
            options,
            shared,
            connection: None,
            doubt: None,
        }
    }

    /// Publishes until it is told to stop, or until publishing turns out not to work at all.
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let script = Script::draw(&shared.plan, &mut self.random);
            if !shared.turn(script.messages()).await {
                break;
            }
            let Err(error) = self.turn(&script).await else {
                continue;
            };
            // Whatever state the connection is in, nobody continues with it.
            self.connection = None;
            if !sql::is_interruption(&error) {
                shared
                    .book
                    .send_modify(|book| book.refusal = Some(error.to_string()));
                break;
            }
            shared.book.send_modify(|book| book.interrupted += 1);
            shared.pause_until(Instant::now() + PAUSE).await;
        }
        if let Some(connection) = self.connection.take() {
            let _ = timeout(PATIENCE, connection.close()).await;
        }
    }

    async fn turn(&mut self, script: &Script) -> Result<(), sqlx::Error> {
        self.clear_doubt().await?;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => sql::connect(&self.options, PATIENCE).await?,
        };
        let done = timeout(PATIENCE, self.transaction(&mut connection, script)).await;
        done.map_err(|elapsed| sqlx::Error::Io(elapsed.into()))
            .flatten()?;
        self.connection = Some(connection);
        Ok(())
    }

    /// A prepared transaction in doubt holds its locks, and so everybody up, until it is resolved.
    async fn clear_doubt(&mut self) -> Result<(), sqlx::Error> {
        let Some(mark) = self.doubt else {
            return Ok(());
        };
        let settled = timeout(PATIENCE, sql::settle(&self.options, mark)).await;
        let verdict = settled
            .map_err(|elapsed| sqlx::Error::Io(elapsed.into()))
            .flatten()?;
        self.shared
            .book
            .send_modify(|book| book.resolve(mark.id, verdict));
        self.doubt = None;
        Ok(())
    }

    async fn transaction(
        &mut self,
        connection: &mut PgConnection,
        script: &Script,
    ) -> Result<(), sqlx::Error> {
        sql::control(connection, "BEGIN").await?;
        let entries = self.steps(connection, script).await?;
        match script.ending {
            Ending::RollBack => {
                sql::control(connection, "ROLLBACK").await?;
                self.shared
                    .book
                    .send_modify(|book| book.rolled_back += entries.len());
                Ok(())
            }
            Ending::Commit => {
                let mark = self.in_doubt(connection, Phases::One, entries).await?;
                sql::control(connection, "COMMIT").await?;
                self.certain(mark);
                Ok(())
            }
            Ending::Prepare(hold) => {
                let mark = self.in_doubt(connection, Phases::Two, entries).await?;
                sql::prepare_transaction(connection, mark.id).await?;
                self.shared.pause_until(Instant::now() + hold).await;
                sql::commit_prepared(connection, mark.id).await?;
                self.certain(mark);
                Ok(())
            }
        }
    }

    /// Takes every step; returns what would be committed now.
    async fn steps(
        &self,
        connection: &mut PgConnection,
        script: &Script,
    ) -> Result<Vec<Entry>, sqlx::Error> {
        let mut entries = Vec::new();
        let mut kept = 0;
        for step in &script.steps {
            match step {
                Step::TakeXid => sql::take_xid(connection).await?,
                Step::Hold(hold) => {
                    self.shared.pause_until(Instant::now() + *hold).await;
                }
                Step::Lock(keys) => sql::lock_counters(connection, keys).await?,
                Step::Publish(draft) => {
                    entries.push(self.publish(connection, draft, script.shape.name()).await?);
                }
                Step::Savepoint => {
                    sql::control(connection, "SAVEPOINT s").await?;
                    kept = entries.len();
                }
                Step::RollBackToSavepoint => {
                    sql::control(connection, "ROLLBACK TO SAVEPOINT s").await?;
                    let dropped = entries.split_off(kept).len();
                    self.shared
                        .book
                        .send_modify(|book| book.rolled_back += dropped);
                }
                Step::ReleaseSavepoint => sql::control(connection, "RELEASE SAVEPOINT s").await?,
            }
        }
        Ok(entries)
    }

    async fn publish(
        &self,
        connection: &mut PgConnection,
        draft: &Draft,
        shape: &str,
    ) -> Result<Entry, sqlx::Error> {
        let position = match &draft.key {
            None => None,
            Some(key) => {
                let sequence = sql::next_sequence(connection, &draft.outbox, key).await?;
                Some(KeyPosition {
                    key: key.clone(),
                    sequence,
                })
            }
        };
        let event_id = Uuid::new_v4();
        let payload = json!({
            "key": draft.key,
            "sequence": position.as_ref().map(|position| position.sequence),
            "writer": self.number,
            "padding": "·".repeat(self.shared.plan.padding / 2),
        });
        let headers = json!({ "content-type": "application/json", "sandbox-shape": shape });
        let message = sql::Message {
            outbox: &draft.outbox,
            payload: &payload,
            headers: &headers,
            key: draft.key.as_deref(),
            event_id,
        };
        sql::publish(connection, message).await?;
        Ok(Entry {
            outbox: draft.outbox.clone(),
            event_id,
            position,
        })
    }

    /// Marks the transaction and enters it as unknown: from here on its commit may be asked for.
    async fn in_doubt(
        &mut self,
        connection: &mut PgConnection,
        phases: Phases,
        entries: Vec<Entry>,
    ) -> Result<Mark, sqlx::Error> {
        let mark = Mark {
            id: Uuid::new_v4(),
            phases,
        };
        sql::mark(connection, mark.id).await?;
        self.doubt = Some(mark);
        self.shared
            .book
            .send_modify(|book| book.unknown.push(Unknown { mark, entries }));
        Ok(mark)
    }

    fn certain(&mut self, mark: Mark) {
        self.doubt = None;
        let committed = super::ledger::Verdict::Committed;
        self.shared
            .book
            .send_modify(|book| book.resolve(mark.id, committed));
    }
}
