//! Delivers pages in order, whatever the sink does.

use std::convert::Infallible;

use metrics::counter;
use tide_catalog::{
    CatalogError,
    dead_letters::{DeadLetter, Letter, dead_letter_write, letter_refused, letters_delivered},
    gone::relay_gone,
    messages::{Message, Page},
    parking::Refusal,
};
use tide_daemon::backoff::Backoff;
use tide_model::PipelineState;
use tokio::task::yield_now;

use super::{
    Batch, Context, Instant, Interrupt, Meters, Pace, Parking, Place, Progress, RETRY, Replaying,
    Services, Sink, SinkError, Status,
    ahead::{Found, ReadAhead},
    debug, info, warn,
};
use crate::{boot_clock::Moment, metrics as names, sink::deliver};

/// One worker's delivering half.
pub(super) struct Delivery<'a, S> {
    pub(super) context: &'a Context,
    pub(super) services: &'a Services,
    pub(super) status: &'a mut Status,
    pub(super) sink: &'a mut S,
    /// Whether the sink has stored the position after what was delivered last.
    pub(super) stored: bool,
    /// Messages of the page at hand whose position was left to be stored.
    pub(super) told: usize,
    pub(super) pace: Pace,
    pub(super) replaying: Replaying,
    pub(super) parking: Parking,
}

/// What is to be delivered in order.
#[derive(Clone, Copy)]
pub(super) enum Load<'a> {
    /// What follows the position.
    Page(&'a Page),
    /// What was put aside before.
    Letters(&'a [Letter], &'a [Message]),
}

impl<'a> Load<'a> {
    pub(super) fn messages(self) -> &'a [Message] {
        match self {
            Self::Page(page) => &page.messages,
            Self::Letters(_, messages) => messages,
        }
    }

    /// The next messages after `delivered`, at most so many.
    fn batch(self, delivered: usize, most: usize, progress: &'a Progress) -> Batch<'a> {
        let rest = &self.messages()[delivered..];
        let place = match self {
            Self::Page(page) => Some(Place {
                page,
                before: delivered,
            }),
            Self::Letters(..) => None,
        };
        Batch {
            messages: &rest[..most.min(rest.len())],
            routes: &[],
            progress,
            place,
        }
    }
}

/// What the catalog is to know about messages that are no progress of the position.
pub(super) enum Note<'a> {
    /// Refused, and put aside.
    Aside(DeadLetter<'a>),
    /// Refused again: which letter, in which words, after how many attempts.
    Again(i64, &'a str, u32),
    /// Letters that were delivered after all.
    Delivered(&'a [i64]),
    /// The receiver wants no more, in these words.
    Gone(&'a str),
}

/// The trust window closed in the middle of a batch, after so many messages of it.
struct Lapse(usize);

/// How far an interrupted page got.
pub(super) struct Broken {
    pub(super) delivered: usize,
    pub(super) interrupt: Interrupt,
}

impl<S: Sink> Delivery<'_, S> {
    /// Delivers until interrupted.
    pub(super) async fn run(&mut self, ahead: &mut ReadAhead) -> Result<Infallible, Interrupt> {
        let meters = Meters::new::<S>(self.context);
        self.look_up_parked().await?;
        loop {
            let page = self.next_page(ahead, &meters).await?;
            self.told = 0;
            self.status
                .gauge
                .waits_since(page.messages.first().map(|message| message.created_at));
            if let Err(Broken {
                delivered,
                interrupt,
            }) = self.load(Load::Page(&page), &meters).await
            {
                if interrupt == Interrupt::Stop {
                    self.store(&page, delivered).await?;
                }
                return Err(interrupt);
            }
            self.store(&page, page.messages.len()).await?;
            self.status.gauge.waits_since(None);
        }
    }

    /// Leaves the position after the first `delivered` messages to be stored.
    async fn store(&mut self, page: &Page, delivered: usize) -> Result<(), Interrupt> {
        let stored = std::mem::take(&mut self.stored);
        let Some(position) = page.position_after(delivered) else {
            return Ok(());
        };
        self.status.gauge.delivered(position.high);
        let messages = delivered.saturating_sub(std::mem::replace(&mut self.told, delivered));
        if stored {
            return Ok(());
        }
        self.status.positions.advance(position, messages)?;
        self.stored_by_others().await
    }

    /// A sink that stores positions must not race with the committer for the row.
    async fn stored_by_others(&self) -> Result<(), Interrupt> {
        if !self.sink.stores_positions() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = self.status.trust.revoked() => Err(Interrupt::Revoked),
            stored = self.status.positions.flushed() => Ok(stored?),
        }
    }

    /// Waits for a page with messages in it.
    async fn next_page(
        &mut self,
        ahead: &mut ReadAhead,
        meters: &Meters,
    ) -> Result<Page, Interrupt> {
        loop {
            self.status.hold(self.context).await?;
            self.replay(meters).await?;
            let mut orders = self.status.orders.clone();
            let found = tokio::select! {
                biased;
                interrupt = self.status.interrupted() => return Err(interrupt),
                found = ahead.next() => found,
                () = orders.changed() => continue,
                () = self.replaying.due(self.status.orders.replay()) => continue,
            };
            match found {
                Found::Page(page) => {
                    // The reader has room again, and waits on this very thread until we yield.
                    yield_now().await;
                    return Ok(page);
                }
                Found::Nothing(stepped_over) => {
                    self.status.recovered(self.context);
                    if let Some(position) = stepped_over {
                        self.status.gauge.delivered(position.high);
                        self.status.positions.advance(position, 0)?;
                        self.stored_by_others().await?;
                    }
                }
                Found::Failure(error) => self.database_fails(&error),
            }
        }
    }

    /// Says that the database does not answer as it should and waits a little.
    pub(super) async fn database_failed(
        &mut self,
        error: &CatalogError,
        backoff: &mut Backoff,
    ) -> Result<(), Interrupt> {
        self.database_fails(error);
        self.status.pause(backoff.next()).await
    }

    fn database_fails(&mut self, error: &CatalogError) {
        let reason = error.to_string();
        if self
            .status
            .gauge
            .set_state(PipelineState::Retrying, Some(&reason))
        {
            warn!(pipeline.id = %self.context.pipeline, reason, "could not read the outbox; trying again");
            self.status
                .positions
                .set_state(PipelineState::Retrying, Some(reason));
        }
    }

    /// Delivers all of it, in order.
    pub(super) async fn load(&mut self, load: Load<'_>, meters: &Meters) -> Result<(), Broken> {
        let mut delivered = 0;
        let mut attempts = 0;
        let mut begun = false;
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        while delivered < load.messages().len() {
            let broken = |interrupt| Broken {
                delivered,
                interrupt,
            };
            // Between attempts everything may interrupt; within the first one a stop may not,
            // because a batch that is on its way is finished.
            if begun && self.status.stop.is_cancelled() {
                return Err(broken(Interrupt::Stop));
            }
            self.permitted(load, delivered).await.map_err(broken)?;
            let aside = self.step_aside(load, delivered, meters).await;
            let aside = aside.map_err(broken)?;
            if aside > 0 {
                delivered += aside;
                self.stored = false;
                continue;
            }
            let most = match self.pace.permit(self.parking.free(load, delivered)) {
                Ok(most) => most,
                Err(wait) => {
                    self.status.pause(wait).await.map_err(broken)?;
                    continue;
                }
            };
            begun = true;
            attempts += 1;
            let progress = Progress::default();
            let batch = load.batch(delivered, most, &progress);
            let started = Instant::now();
            let outcome = tokio::select! {
                biased;
                () = self.status.trust.lapsed() => Err(Lapse(progress.delivered())),
                () = self.status.positions.fenced() => return Err(broken(Interrupt::Fenced)),
                outcome = deliver(self.sink, self.context, &batch) => self.in_time(outcome),
            };
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(Lapse(done)) => {
                    self.lapsed(&progress, done, meters);
                    delivered += done;
                    continue;
                }
            };
            self.pace.give_back(progress.spared(batch.messages.len()));
            let error = match outcome {
                Ok(()) => {
                    let sent = meters.passed(&progress, batch.messages.len(), started);
                    self.stored = self.sink.stores_positions() && sent > 0;
                    self.pace.delivered(self.context);
                    if sent > 0 {
                        self.status.way.reached();
                    }
                    self.status.recovered(self.context);
                    delivered += batch.messages.len();
                    attempts = 0;
                    backoff.reset();
                    self.reached(load, delivered).await?;
                    continue;
                }
                Err(error) => self.pace.failed(error, self.context),
            };
            meters.failed(&error);
            if error.delivered() > 0 {
                let sent = meters.passed(&progress, error.delivered(), started);
                delivered += error.delivered();
                self.stored = self.sink.stores_positions() && sent > 0;
                attempts = 1;
                backoff.reset();
            }
            let broken = |interrupt| Broken {
                delivered,
                interrupt,
            };
            if let SinkError::Fenced { .. } = &error {
                names::fenced_write();
                return Err(broken(Interrupt::Fenced));
            }
            if let SinkError::Rejected { reason, .. } = &error {
                self.refused(load, delivered, reason, attempts, meters)
                    .await
                    .map_err(broken)?;
                delivered += 1;
                self.stored = false;
                attempts = 0;
                continue;
            }
            let delay = self.status.failed(self.context, &error, &mut backoff);
            if let SinkError::Gone { reason, .. } = &error {
                self.insist(&Note::Gone(reason)).await.map_err(broken)?;
                self.status.on_order(delay).await.map_err(broken)?;
                continue;
            }
            self.status.pause(delay).await.map_err(broken)?;
        }
        Ok(())
    }

    /// Waits until we may deliver what follows the first `delivered` messages.
    async fn permitted(&mut self, load: Load<'_>, delivered: usize) -> Result<(), Interrupt> {
        if self.status.is_on_hold(self.context) {
            // It may last, and what is delivered is delivered.
            self.settle(load, delivered).await?;
            self.status.hold(self.context).await?;
        }
        Ok(self.status.trust.opened().await?)
    }

    /// In the middle of a page that takes its time: what is delivered need not be repeated.
    async fn reached(&mut self, load: Load<'_>, delivered: usize) -> Result<(), Broken> {
        match load {
            Load::Page(page) if delivered < page.messages.len() => {
                let stored = self.store(page, delivered).await;
                stored.map_err(|interrupt| Broken {
                    delivered,
                    interrupt,
                })
            }
            _ => Ok(()),
        }
    }

    /// What came of an attempt, unless it failed when the window was closed already: whatever it says
    /// then, it may have been given up, or not begun, for that alone.
    fn in_time(&self, outcome: Result<(), SinkError>) -> Result<Result<(), SinkError>, Lapse> {
        match outcome {
            Err(SinkError::Fenced { .. }) | Ok(()) => Ok(outcome),
            Err(_) if self.status.trust.is_open(Moment::now()) => Ok(outcome),
            Err(error) => Err(Lapse(error.delivered())),
        }
    }

    /// Says that publishing is paused, after the first `done` messages of a batch.
    fn lapsed(&mut self, progress: &Progress, done: usize, meters: &Meters) {
        counter!(names::TRUST_LAPSES).increment(1);
        let reason = "the server has not confirmed our locks";
        if self
            .status
            .gauge
            .set_state(PipelineState::Paused, Some(reason))
        {
            warn!(pipeline.id = %self.context.pipeline, "publishing paused: {reason}");
        }
        let sent = progress.sent(done);
        self.stored = self.sink.stores_positions() && sent > 0;
        meters.filtered(done - sent);
    }

    /// What is to be known about the first `delivered` messages before we may go.
    pub(super) async fn settle(
        &mut self,
        load: Load<'_>,
        delivered: usize,
    ) -> Result<(), Interrupt> {
        match load {
            Load::Page(page) => self.store(page, delivered).await,
            Load::Letters(letters, _) => {
                let ids = self.replaying.delivered(&letters[..delivered]);
                self.insist(&Note::Delivered(&ids)).await
            }
        }
    }

    /// Puts a refused message aside, or leaves it there.
    async fn refused(
        &mut self,
        load: Load<'_>,
        index: usize,
        reason: &str,
        attempts: u32,
        meters: &Meters,
    ) -> Result<(), Interrupt> {
        self.status.way.reached();
        let refusal = Refusal {
            error: reason,
            attempts,
        };
        if self.park(load, index, refusal, meters).await? {
            meters.dead_lettered.increment(1);
            return Ok(());
        }
        let message = &load.messages()[index];
        let note = match load {
            Load::Page(_) => Note::Aside(DeadLetter {
                message,
                error: reason,
                attempts,
            }),
            Load::Letters(letters, _) => Note::Again(letters[index].id, reason, attempts),
        };
        self.insist(&note).await?;
        info!(
            pipeline.id = %self.context.pipeline, message = message.id, reason,
            "message is in the dead letters"
        );
        match note {
            Note::Again(letter, ..) => {
                self.replaying.keep(letter);
                self.parking.hold_back(load, index);
                meters.replay_refused.increment(1);
            }
            _ => meters.dead_lettered.increment(1),
        }
        Ok(())
    }

    /// Writes a note, however long the database takes.
    async fn insist(&mut self, note: &Note<'_>) -> Result<(), Interrupt> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            self.status.trust.opened().await?;
            match self.write(note).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    names::fenced_write();
                    return Err(Interrupt::Fenced);
                }
                Err(error) => {
                    debug!(
                        error = &error as &dyn std::error::Error,
                        "could not write about dead letters"
                    );
                    self.database_failed(&error, &mut backoff).await?;
                }
            }
        }
    }

    async fn write(&self, note: &Note<'_>) -> Result<bool, CatalogError> {
        let mut connection =
            self.services
                .pool
                .acquire()
                .await
                .map_err(|source| CatalogError::Database {
                    doing: "writing about dead letters",
                    source,
                })?;
        let Context {
            group,
            pipeline,
            epoch,
            ..
        } = self.context;
        match note {
            Note::Aside(letter) => {
                dead_letter_write(&mut connection, group, pipeline, *epoch, letter).await
            }
            Note::Again(letter, reason, attempts) => {
                let refusal = (*reason, *attempts);
                letter_refused(&mut connection, group, pipeline, *epoch, *letter, refusal).await
            }
            Note::Delivered(letters) => {
                letters_delivered(&mut connection, group, pipeline, *epoch, letters).await
            }
            Note::Gone(reason) => {
                relay_gone(&mut connection, group, pipeline, *epoch, reason).await
            }
        }
    }
}
