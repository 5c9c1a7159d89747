//! A steady publisher in many transaction shapes, and an exact account of what it committed.
//!
//! Several writers publish through `tide.outbox_publish` as applications do: short transactions,
//! long ones, bulk, rollbacks, savepoints, two-phase commits. The shapes are drawn from a seeded
//! generator; the seed is in the [`Ledger`], so that a failure can be told and tried again (the
//! interleaving of writers remains the machine's).
//!
//! # The order oracle
//! Each key of each outbox has a counter row in `sandbox.key_counter`. A transaction locks the
//! rows of its keys (in one global order, so that no two deadlock), takes the next numbers and
//! publishes them in the payload, `{"key": …, "sequence": …}`. The row lock is held until the
//! transaction ends, so the numbers of a key are exactly its commit order. Messages without a key
//! have no place in any order; their transactions take no lock, and so draw an outbox id before
//! they have a transaction id, which is the hard case for a reader.
//!
//! # What was committed
//! Each transaction marks itself in `sandbox.mark` as its last write. When a connection dies in
//! the middle of a commit, its outcome is unknown until [`Publisher::settle`] has asked: it inserts
//! the same mark, which waits for a commit still under way, and either fails (the transaction is
//! committed) or makes sure that it never will be.
//!
//! Publishers survive restarts of the server: a failed transaction is given up and the next begun
//! on a new connection.

mod ledger;
mod plan;
mod script;
mod sql;
mod writer;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{ledger::Book, writer::Writer};
use crate::wait::{self, TimedOut};

pub use self::{
    ledger::{Entry, KeyPosition, Ledger},
    plan::{PublishPlan, Shape},
};

/// How much of a delay writers may make up for by publishing faster.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Why a publisher could not be started, or its account not be closed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The plan asks for nothing, or for the impossible.
    #[error("the plan cannot be carried out: {0}")]
    Plan(&'static str),
    /// The publisher's own tables could not be made.
    #[error("could not make the publisher's tables")]
    Prepare(#[source] sqlx::Error),
    /// A statement that had to work was refused: publishing is broken, not merely interrupted.
    #[error("could not publish: {0}")]
    Refused(String),
    /// Writers did not come to an end in time.
    #[error("the writers did not end within {0:?}")]
    Stuck(Duration),
    /// The outcome of some commits could not be found out in time.
    #[error("commits of unknown outcome remain")]
    Unsettled(#[source] TimedOut),
}

/// Writers at work; dropping it ends them where they are.
#[derive(Debug)]
pub struct Publisher {
    options: PgConnectOptions,
    shared: Arc<Shared>,
    writers: JoinSet<()>,
}

/// What all writers hold.
#[derive(Debug)]
struct Shared {
    plan: PublishPlan,
    book: watch::Sender<Book>,
    stopping: CancellationToken,
    due: Mutex<Instant>,
}

impl Publisher {
    /// Makes the publisher's tables, if absent, and starts to publish.
    ///
    /// The outboxes must exist. The pool is only used to make the tables and to learn where the
    /// database is: each writer opens a connection of its own.
    pub async fn start(pool: &PgPool, plan: PublishPlan) -> Result<Self, PublishError> {
        plan.check().map_err(PublishError::Plan)?;
        sql::prepare(pool, &plan)
            .await
            .map_err(PublishError::Prepare)?;
        let shared = Arc::new(Shared {
            book: watch::Sender::new(Book::default()),
            stopping: CancellationToken::new(),
            due: Mutex::new(Instant::now()),
            plan,
        });
        let options = PgConnectOptions::clone(&pool.connect_options());
        let mut writers = JoinSet::new();
        for number in 0..shared.plan.writers {
            let seed = shared.plan.seed.wrapping_add(number as u64);
            let random = StdRng::seed_from_u64(seed);
            let writer = Writer::new(number, random, options.clone(), Arc::clone(&shared));
            writers.spawn(writer.run());
        }
        Ok(Self {
            options,
            shared,
            writers,
        })
    }

    /// How many messages are known to be committed.
    pub fn committed(&self) -> usize {
        self.shared.book.borrow().committed.len()
    }

    /// What is known to be committed now.
    pub fn ledger(&self) -> Ledger {
        self.shared.book.borrow().ledger(self.shared.plan.seed)
    }

    /// Waits until so many messages are committed, since the start.
    pub async fn wait_for_committed(&self, count: usize, within: Duration) -> Result<(), TimedOut> {
        let mut book = self.shared.book.subscribe();
        let enough = |book: &Book| book.committed.len() >= count || book.refusal.is_some();
        let waited = timeout(within, book.wait_for(enough)).await.is_ok();
        let (committed, refusal) = {
            let book = self.shared.book.borrow();
            (book.committed.len(), book.refusal.clone())
        };
        if waited && committed >= count {
            return Ok(());
        }
        let last = match refusal {
            Some(refusal) => format!("{committed}; publishing is refused: {refusal}"),
            None => committed.to_string(),
        };
        Err(TimedOut {
            what: format!("{count} committed messages"),
            within,
            last,
        })
    }

    /// Finds out what became of every commit that was not answered, as far as there are any now.
    ///
    /// Commits that are merely under way are waited for. Writers settle their own doubts too; this
    /// is for the moment when the account must be complete.
    pub async fn settle(&self, within: Duration) -> Result<(), PublishError> {
        let settled = wait::eventually(within, "unknown commits to be settled", async || {
            let first = self
                .shared
                .book
                .borrow()
                .unknown
                .first()
                .map(|unknown| unknown.mark);
            let Some(mark) = first else {
                return Ok::<_, sqlx::Error>(Some(()));
            };
            let verdict = sql::settle(&self.options, mark).await?;
            self.shared
                .book
                .send_modify(|book| book.resolve(mark.id, verdict));
            Ok(None)
        });
        settled.await.map_err(PublishError::Unsettled)
    }

    /// Lets every writer finish its transaction, settles what is unknown, and returns the account.
    pub async fn stop(mut self, within: Duration) -> Result<Ledger, PublishError> {
        let deadline = Instant::now() + within;
        self.shared.stopping.cancel();
        let ended = timeout_at(deadline, async {
            while self.writers.join_next().await.is_some() {}
        });
        ended.await.map_err(|_| PublishError::Stuck(within))?;
        if let Some(refusal) = self.shared.book.borrow().refusal.clone() {
            return Err(PublishError::Refused(refusal));
        }
        self.settle(deadline.saturating_duration_since(Instant::now()))
            .await?;
        Ok(self.ledger())
    }
}

impl Shared {
    /// Waits for the turn of so many messages; false if it is time to stop.
    ///
    /// Writers that were held up catch up on a second's worth of messages, no more.
    async fn turn(&self, messages: usize) -> bool {
        let now = Instant::now();
        let at = self.plan.rate.map_or(now, |rate| {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let at = now
                .checked_sub(CATCH_UP)
                .map_or(*due, |earliest| earliest.max(*due));
            *due = at + Duration::from_secs_f64(messages as f64 / rate);
            at
        });
        self.pause_until(at).await;
        !self.stopping.is_cancelled()
    }

    /// Waits until then, or until it is time to stop.
    async fn pause_until(&self, then: Instant) {
        let _ = self.stopping.run_until_cancelled(sleep_until(then)).await;
    }
}
