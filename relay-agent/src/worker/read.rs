//! Reads one page after the other.

use std::{sync::Arc, time::Duration};

use sqlx::{Postgres, pool::PoolConnection};
use tide_catalog::{
    CatalogError, PgConnection, PgPool,
    messages::{Page, PageLimits, Source, Surplus, read_page, read_restored, rebase},
    offsets::Claim,
};
use tide_model::{Cursor, PipelineSpec, Snapshot};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::info;

use super::{Idle, Runnable, Services, WakeupHandle};

/// One read may take this long.
const PATIENCE: Duration = Duration::from_mins(1);

/// An idle pipeline looks for itself after so long, whatever the probe has or has not seen: a bug
/// there would otherwise hold the last messages back for ever.
const LOOK_ANYWAY: Duration = Duration::from_mins(1);

/// After a page that had room for more so many times as long as the read took passes until the next
/// one, at least and at most so long. Each read costs the server a share of what publishers could use, whether it brings
/// one message or a hundred, and the busier the server is, the longer a read takes.
#[derive(Debug, Clone, Copy)]
struct Gathering {
    times: u32,
    least: Duration,
    most: Duration,
}

/// Of messages that come now and then: the next one may be far away, and is wanted soon.
const SINGLE: Gathering = Gathering {
    times: 4,
    least: Duration::ZERO,
    most: Duration::from_millis(20),
};

/// Of a stream.
const STREAM: Gathering = Gathering {
    times: 16,
    least: Duration::from_millis(8),
    most: Duration::from_millis(20),
};

/// Of a stream that fills pages in no time: fewer and larger reads leave publishers more of the server.
const FLOOD: Gathering = Gathering {
    most: Duration::from_millis(50),
    ..STREAM
};

/// So many messages in one page are a stream: more have come by the time that they have gathered, and
/// to ask the probe first would only cost the server another question.
const STREAMING: usize = 8;

/// So many are a flood. Below it, what waits in between would be missed at a hand-over.
const FLOODING: usize = 64;

/// Steps over other shards' messages are stored this often at most.
const STEP_PACE: Duration = Duration::from_secs(1);

/// Where the next page begins. Runs ahead of the position that is stored.
#[derive(Debug)]
pub(super) struct Reader {
    pool: PgPool,
    /// The session of the read before, while nobody else wants one: to give it back and to take
    /// another costs the server a question, and leaves it with nothing to do meanwhile.
    kept: Option<Lent>,
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
    /// Not before then is it worth while to read again.
    gathered: Instant,
    /// Whether the last page was part of a stream.
    streaming: bool,
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
            kept: None,
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
            gathered: Instant::now(),
            streaming: false,
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

    /// The page after the one before. A read that is dropped is repeated.
    pub(super) async fn page(&mut self) -> Result<Page, CatalogError> {
        let looked = self.wakeups.head(&self.outbox).unwrap_or(0);
        let began = Instant::now();
        let Ok(page) = timeout(PATIENCE, self.read()).await else {
            // Over a slow line not even what there is room for comes in time: fewer messages do.
            self.asking = ask_for_less(self.asking);
            return Err(CatalogError::Timeout(PATIENCE));
        };
        let page = page?;
        self.looked = looked.max(self.cursor.high);
        self.last_read = Instant::now();
        self.streaming = page.messages.len() >= STREAMING;
        if !page.messages.is_empty() {
            self.last_message = self.last_read;
            if !page.more {
                let gathering = match page.messages.len() {
                    FLOODING.. => FLOOD,
                    STREAMING.. => STREAM,
                    _ => SINGLE,
                };
                self.gathered = self.last_read + gathering.after(self.last_read - began);
            }
        }
        Ok(page)
    }

    async fn read(&mut self) -> Result<Page, CatalogError> {
        let mut lent = match self.kept.take() {
            Some(kept) => kept,
            None => Lent::by(&self.pool).await?,
        };
        lent.is_done = false;
        let limits = PageLimits {
            messages: self.asking,
            ..self.limits
        };
        let page = self.read_with(&mut lent.session, limits).await?;
        lent.is_done = page.surplus != Surplus::Unread;
        if lent.is_done && page.more && has_spare(&self.pool) {
            self.kept = Some(lent);
        }
        let wasted = page.surplus != Surplus::None;
        self.asking = ask_for(
            self.asking,
            page.messages.len(),
            wasted,
            self.limits.messages,
        );
        Ok(page)
    }

    /// Gives back what the next page would need: it is not wanted soon.
    pub(super) fn rest(&mut self) {
        self.kept = None;
    }

    async fn read_with(
        &mut self,
        session: &mut PgConnection,
        limits: PageLimits,
    ) -> Result<Page, CatalogError> {
        if let Some(position) = self.restoring {
            let taken =
                read_restored(session, &self.source, &self.cursor, position, limits).await?;
            if !taken.complete {
                let last = taken.messages.last().map(|message| message.id);
                self.restoring = last.or(Some(position));
                return Ok(Page::restored(taken, self.cursor.clone(), None));
            }
            let before = self.cursor.clone();
            self.cursor = rebase(session, &self.source.relation, &self.cursor).await?;
            self.restoring = None;
            info!(outbox = %self.outbox, high = self.cursor.high, "going on after a restore into another cluster");
            return Ok(Page::restored(taken, before, Some(self.cursor.clone())));
        }
        let page = read_page(session, &self.source, &self.cursor, limits).await?;
        self.cursor = page.cursor.clone();
        Ok(page)
    }

    /// Waits until there may be something to read. Cancel-safe.
    pub(super) async fn idle(&self) {
        sleep_until(self.gathered).await;
        if self.streaming {
            return;
        }
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

impl Gathering {
    /// How long to let messages gather after a read that took so long.
    fn after(self, took: Duration) -> Duration {
        (took * self.times).clamp(self.least, self.most)
    }
}

/// How many messages to ask for after `asked` were asked for and `got` were taken, with others
/// `wasted` that came in vain.
fn ask_for(asked: usize, got: usize, wasted: bool, most: usize) -> usize {
    if wasted && got < asked {
        got.max(1)
    } else {
        (asked * 2).min(most)
    }
}

/// How many messages to ask for after so many did not come in time.
fn ask_for_less(asked: usize) -> usize {
    (asked / 10).max(1)
}

/// Whether somebody who wants a session now gets one at once.
fn has_spare(pool: &PgPool) -> bool {
    pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections()
}

/// A session of the pool that is closed rather than given back while an answer is on its way: the
/// pool would read all of it, however long, before anybody could use the session again.
#[derive(Debug)]
struct Lent {
    session: PoolConnection<Postgres>,
    /// Whether everything that was asked for has come.
    is_done: bool,
}

impl Lent {
    async fn by(pool: &PgPool) -> Result<Self, CatalogError> {
        let session = pool
            .acquire()
            .await
            .map_err(|source| CatalogError::Database {
                doing: "reading the outbox",
                source,
            })?;
        Ok(Self {
            session,
            is_done: false,
        })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.is_done {
            self.session.close_on_drop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_takes_longer_is_asked_less_often_within_limits() {
        let millis = Duration::from_millis;
        assert_eq!(SINGLE.after(millis(1)), millis(4));
        assert_eq!(SINGLE.after(millis(900)), millis(20));
        assert_eq!(STREAM.after(millis(0)), millis(8));
        assert_eq!(STREAM.after(millis(1)), millis(16));
    }

    #[test]
    fn what_does_not_come_in_time_is_asked_for_in_ever_smaller_parts() {
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
