//! Reads ahead of the delivery, in a task of its own: while one page is on its way to the sink, the
//! next one is fetched and decoded on another core, and no further, so that memory stays bounded by
//! two pages.

use std::time::Duration;

use tide_catalog::{CatalogError, messages::Page};
use tide_daemon::backoff::Backoff;
use tide_model::Cursor;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{RETRY, read::Reader};

/// A session is kept for a page that is wanted within this.
const SOON: Duration = Duration::from_millis(10);

/// What the reader came upon, in order.
#[derive(Debug)]
pub(super) enum Found {
    /// Messages, or a step of a pass that had none.
    Page(Page),
    /// Nothing; where a shard stands that stepped over others' messages, if that is to be stored.
    Nothing(Option<Cursor>),
    /// The outbox could not be read; it is tried again.
    Failure(CatalogError),
}

/// The delivery's end. Dropping it ends the reading.
#[derive(Debug)]
pub(super) struct ReadAhead {
    found: mpsc::Receiver<Found>,
    task: JoinSet<()>,
}

impl ReadAhead {
    /// Begins to read.
    pub(super) fn start(reader: Reader) -> Self {
        // One page waits here or is being read while another one is delivered.
        let (tell, found) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(read(reader, tell));
        Self { found, task }
    }

    /// What comes next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Found {
        match self.found.recv().await {
            Some(found) => found,
            // The task never ends on its own, so it panicked: so do we, and the worker is replaced.
            None => match self.task.join_next().await {
                Some(Err(error)) if error.is_panic() => {
                    std::panic::resume_unwind(error.into_panic())
                }
                _ => std::future::pending().await,
            },
        }
    }
}

async fn read(mut reader: Reader, tell: mpsc::Sender<Found>) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    // Room first: what is read is what fits.
    while let Some(room) = room(&tell, &mut reader).await {
        match reader.page().await {
            Ok(page) => {
                backoff.reset();
                let more = page.more;
                if more || !page.messages.is_empty() {
                    room.send(Found::Page(page));
                } else {
                    room.send(Found::Nothing(reader.stepped_over()));
                }
                if !more {
                    // Whatever comes now moves a sequence or ends a transaction: the probe knows
                    // before another read would.
                    reader.idle().await;
                }
            }
            Err(error) => {
                room.send(Found::Failure(error));
                sleep(backoff.next()).await;
            }
        }
    }
}

/// Waits until there is room; none once nobody wants to know. Who waits for long keeps no session.
async fn room<'a>(
    tell: &'a mpsc::Sender<Found>,
    reader: &mut Reader,
) -> Option<mpsc::Permit<'a, Found>> {
    if let Ok(room) = timeout(SOON, tell.reserve()).await {
        return room.ok();
    }
    reader.rest();
    tell.reserve().await.ok()
}
