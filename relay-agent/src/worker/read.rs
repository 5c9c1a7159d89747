//! Reads one page after the other.

use std::sync::Arc;

use tide_catalog::{
    CatalogError, PgPool,
    messages::{Page, PageLimits, Source, read_page, read_restored, rebase},
    offsets::Claim,
};
use tide_model::{Cursor, PipelineSpec, Snapshot};
use tokio::time::{Instant, timeout};
use tracing::info;

use super::{Idle, Runnable, Services, WakeupHandle};

/// One read may take this long.
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);

/// An idle pipeline looks for itself after so long, whatever the probe has or has not seen.
const LOOK_ANYWAY: std::time::Duration = std::time::Duration::from_secs(20);

/// Steps over other shards' messages are stored this often at most.
const STEP_PACE: std::time::Duration = std::time::Duration::from_secs(1);

/// Where the next page begins. Runs ahead of the position that is stored.
#[derive(Debug)]
pub(super) struct Reader {
    pool: PgPool,
    wakeups: WakeupHandle,
    source: Source,
    outbox: Arc<str>,
    limits: PageLimits,
    /// Messages to ask for, so that large ones are not sent only to be left out.
    asking: usize,
    cursor: Cursor,
    /// Position in the pass over what an old cluster left unread, while there is one.
    restoring: Option<i64>,
    looked: i64,
    last_message: Instant,
    last_read: Instant,
    /// The highest id whose position was given away to be stored, and when.
    stored: (i64, Instant),
}

impl Reader {
    pub(super) fn new(
        services: &Services,
        runnable: &Runnable,
        spec: &PipelineSpec,
        claim: &Claim,
    ) -> Self {
        Self {
            pool: services.pool.clone(),
            wakeups: services.wakeups.clone(),
            source: runnable.source(&claim.pipeline),
            outbox: runnable.outbox.as_str().into(),
            limits: PageLimits {
                messages: spec.batch_size,
                bytes: spec.batch_bytes,
            },
            asking: spec.batch_size,
            cursor: claim.cursor.clone(),
            restoring: claim.restored.then_some(0),
            looked: 0,
            last_message: Instant::now(),
            last_read: Instant::now(),
            stored: (claim.cursor.high, Instant::now()),
        }
    }

    /// After an empty page: where a shard stands that stepped over what was others', if it is time
    /// to store it. Reading from an older position finds the same, only later.
    pub(super) fn stepped_over(&mut self) -> Option<Cursor> {
        let (high, at) = self.stored;
        if self.cursor.high <= high || at.elapsed() < STEP_PACE {
            return None;
        }
        self.stored = (self.cursor.high, Instant::now());
        Some(self.cursor.clone())
    }

    /// The page after the one before. Not cancel-safe in effect only: a dropped read is repeated.
    pub(super) async fn page(&mut self) -> Result<Page, CatalogError> {
        let looked = self.wakeups.head(&self.outbox).unwrap_or(0);
        let Ok(page) = timeout(PATIENCE, self.read()).await else {
            // The server sends all that was asked for, however large: asked for less, it answers.
            self.asking = ask_for_less(self.asking);
            return Err(CatalogError::Timeout(PATIENCE));
        };
        let page = page?;
        self.looked = looked.max(self.cursor.high);
        self.last_read = Instant::now();
        if !page.messages.is_empty() {
            self.last_message = self.last_read;
        }
        Ok(page)
    }

    async fn read(&mut self) -> Result<Page, CatalogError> {
        let mut connection =
            self.pool
                .acquire()
                .await
                .map_err(|source| CatalogError::Database {
                    doing: "reading the outbox",
                    source,
                })?;
        let limits = PageLimits {
            messages: self.asking,
            ..self.limits
        };
        if let Some(position) = self.restoring {
            let (messages, more) = read_restored(
                &mut connection,
                &self.source,
                &self.cursor,
                position,
                limits,
            )
            .await?;
            let last = messages.last().map(|message| message.id);
            if more {
                self.restoring = last.or(Some(position));
                return Ok(Page::restored(messages, self.cursor.clone(), None));
            }
            let before = self.cursor.clone();
            self.cursor = rebase(&mut connection, &self.source.relation, &self.cursor).await?;
            self.restoring = None;
            info!(outbox = %self.outbox, high = self.cursor.high, "going on after a restore into another cluster");
            return Ok(Page::restored(messages, before, Some(self.cursor.clone())));
        }
        let page = read_page(&mut connection, &self.source, &self.cursor, limits).await?;
        self.asking = ask_for(
            limits.messages,
            page.messages.len(),
            page.more,
            self.limits.messages,
        );
        self.cursor = page.cursor.clone();
        Ok(page)
    }

    /// Waits until there may be something to read. Cancel-safe.
    pub(super) async fn idle(&self) {
        let seen: Snapshot = match &self.cursor.snapshot {
            Some(seen) => seen.clone(),
            // Never read: there is nothing to wait for.
            None => return,
        };
        let idle = Idle {
            outbox: self.outbox.to_string(),
            looked: self.looked,
            seen,
            last_message: self.last_message,
            checked: self.last_read,
        };
        // Woken or not: it reads.
        drop(timeout(LOOK_ANYWAY, self.wakeups.wait(idle)).await);
    }
}

/// How many messages to ask for after a page for which `asked` were asked and `got` came. A page
/// with fewer than there were is full by bytes: the server has sent the rest for nothing.
fn ask_for(asked: usize, got: usize, more: bool, most: usize) -> usize {
    if more && got < asked {
        got.max(1)
    } else {
        (asked * 2).min(most)
    }
}

/// How many messages to ask for after so many did not come in time.
fn ask_for_less(asked: usize) -> usize {
    (asked / 10).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_too_large_to_come_in_time_is_asked_for_in_ever_smaller_parts() {
        let mut asking = 10_000;
        for fewer in [1_000, 100, 10, 1, 1] {
            asking = ask_for_less(asking);
            assert_eq!(asking, fewer);
        }
    }

    #[test]
    fn large_messages_are_asked_for_as_they_fit_and_small_ones_by_the_batch() {
        assert_eq!(ask_for(1_000, 8, true, 1_000), 8, "full by bytes");
        assert_eq!(ask_for(8, 0, true, 1_000), 1, "never none");
        assert_eq!(ask_for(8, 8, true, 1_000), 16, "perhaps more fit");
        assert_eq!(ask_for(800, 800, true, 1_000), 1_000);
        assert_eq!(ask_for(8, 3, false, 1_000), 16, "there was no more");
    }
}
