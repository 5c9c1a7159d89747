//! An inbox in PostgreSQL. In the outbox's own database messages and position are stored in one
//! statement under the owner's epoch: exactly once. In another database the inbox leaves alone
//! what it has under the same event id. `docs/adr/0009-inbox-in-one-statement.md` has the reasons.

mod judge;
mod search;
mod target;

use std::{ops::Range, time::Duration};

use tide_catalog::{
    CatalogError,
    inboxes::{Arrivals, Owner, inbox_store, inbox_store_at},
};
use tokio::time::timeout;

use self::{search::Search, target::Target};
use super::{Batch, Context, Sink, SinkError};

/// What the sink is opened from.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) inbox: String,
    pub(crate) postgres_url: Option<String>,
    pub(crate) timeout: Duration,
}

pub(crate) struct PgInboxSink {
    target: Target,
    /// The inbox's table, ready for a statement.
    relation: String,
    settings: Settings,
}

impl Sink for PgInboxSink {
    const KIND: &'static str = "pg-inbox";
    type Settings = Settings;

    async fn open(settings: &Settings, context: &Context) -> Result<Self, SinkError> {
        let opened = timeout(settings.timeout, Target::open(settings, context));
        let (target, relation) = opened
            .await
            .unwrap_or_else(|_| Err(judge::silent(settings.timeout)))?;
        Ok(Self {
            target,
            relation,
            settings: settings.clone(),
        })
    }

    fn stores_positions(&self) -> bool {
        matches!(self.target, Target::Home(_))
    }

    async fn deliver(&mut self, context: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
        let mut search = Search::new(batch.messages.len());
        while let Some(range) = search.next() {
            let done = range.start;
            context.may_publish().map_err(|error| error.after(done))?;
            let (one, end) = (range.len() == 1, range.end);
            let stored = timeout(
                self.settings.timeout,
                self.store(context, batch, range.clone()),
            )
            .await
            .unwrap_or(Err(CatalogError::Timeout(self.settings.timeout)));
            match stored {
                Ok(true) => {
                    batch.progress.reached(end);
                    search.stored();
                }
                Ok(false) => return Err(SinkError::Fenced { delivered: done }),
                Err(error) if error.is_bad_data() && !one => search.refused(),
                Err(error) => return Err(self.failed(&error).after(done)),
            }
        }
        Ok(())
    }
}

impl PgInboxSink {
    /// Stores a part of a batch, all or none of it; false means fenced.
    async fn store(
        &mut self,
        context: &Context,
        batch: &Batch<'_>,
        range: Range<usize>,
    ) -> Result<bool, CatalogError> {
        let messages = &batch.messages[range.clone()];
        let headers: Vec<String> = messages
            .iter()
            .map(|message| {
                let mut headers = Vec::with_capacity(message.headers.len() + 128);
                context
                    .encoder
                    .headers_object(&mut headers, &message.headers);
                // It was text before.
                String::from_utf8(headers).unwrap_or_else(|_| message.headers.clone())
            })
            .collect();
        let arrivals = Arrivals {
            relation: &self.relation,
            source: &context.outbox,
            messages,
            headers: &headers,
        };
        let mut session = self.target.session().await?;
        let stored = match &session {
            target::Session::Home(_) => {
                let owner = Owner {
                    group: &context.group,
                    pipeline: &context.pipeline,
                    epoch: context.epoch,
                };
                let position = batch.position_after(range.end);
                inbox_store_at(session.connection(), &arrivals, owner, position.as_ref()).await
            }
            target::Session::Away(_) => inbox_store(session.connection(), &arrivals)
                .await
                .map(|()| true),
        };
        // A session that failed may still be in the middle of something, and a broken one is of no
        // use; a refusal leaves it as it was.
        match &stored {
            Err(error) if !error.is_bad_data() => session.discard(),
            _ => self.target.give_back(session),
        }
        stored
    }

    fn failed(&self, error: &CatalogError) -> SinkError {
        judge::failed(error, &self.settings.inbox, &self.target.label())
    }
}
