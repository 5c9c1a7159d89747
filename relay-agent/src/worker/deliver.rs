//! Delivers pages in order, whatever the sink does.

use std::{convert::Infallible, time::Duration};

use metrics::{Counter, Histogram, counter, histogram};
use tide_catalog::{
    CatalogError,
    dead_letters::{DeadLetter, dead_letter_write},
    messages::Page,
};
use tide_daemon::backoff::Backoff;
use tide_model::PipelineState;

use super::{
    Batch, Context, Instant, Interrupt, Place, Progress, RETRY, Services, Sink, SinkError, Status,
    debug, info, read::Reader, warn,
};
use crate::metrics as names;

/// One worker's delivering half.
pub(super) struct Delivery<'a, S> {
    pub(super) context: &'a Context,
    pub(super) services: &'a Services,
    pub(super) status: &'a mut Status,
    pub(super) sink: &'a mut S,
    /// Whether the sink has stored the position after what was delivered last.
    pub(super) stored: bool,
}

/// How far an interrupted page got.
struct Broken {
    delivered: usize,
    interrupt: Interrupt,
}

impl<S: Sink> Delivery<'_, S> {
    /// Delivers until interrupted.
    pub(super) async fn run(&mut self, reader: &mut Reader) -> Result<Infallible, Interrupt> {
        let meters = Meters::new::<S>(self.context);
        let mut page = self.next_page(reader).await?;
        loop {
            self.status
                .gauge
                .waits_since(page.messages.first().map(|message| message.created_at));
            // The next page is read while this one is delivered, and no further: memory stays
            // bounded by two pages. An empty page means that there is nothing to hurry for.
            let ahead = page.more;
            let (delivered, next) = tokio::join!(self.page(&page, &meters), async {
                if ahead {
                    Some(reader.page().await)
                } else {
                    None
                }
            });
            if let Err(Broken {
                delivered,
                interrupt,
            }) = delivered
            {
                if interrupt == Interrupt::Stop {
                    self.store(&page, delivered).await?;
                }
                return Err(interrupt);
            }
            self.store(&page, page.messages.len()).await?;
            page = match next {
                Some(Ok(next)) => next,
                Some(Err(error)) => {
                    self.database_failed(&error, &mut Backoff::new(RETRY.0, RETRY.1))
                        .await?;
                    reader.rewind(page.cursor.clone());
                    self.next_page(reader).await?
                }
                None => {
                    self.status.gauge.waits_since(None);
                    self.next_page(reader).await?
                }
            };
        }
    }

    /// Leaves the position after the first `delivered` messages to be stored.
    async fn store(&mut self, page: &Page, delivered: usize) -> Result<(), Interrupt> {
        let stored = std::mem::take(&mut self.stored);
        let Some(position) = page.position_after(delivered) else {
            return Ok(());
        };
        self.status.gauge.delivered(position.high);
        if stored {
            return Ok(());
        }
        self.status.positions.advance(position)?;
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
    async fn next_page(&mut self, reader: &mut Reader) -> Result<Page, Interrupt> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let read = tokio::select! {
                biased;
                interrupt = self.status.interrupted() => return Err(interrupt),
                read = reader.page() => read,
            };
            match read {
                Ok(page) if page.messages.is_empty() && !page.more => {
                    self.status.recovered(self.context);
                    if let Some(position) = reader.stepped_over() {
                        self.status.gauge.delivered(position.high);
                        self.status.positions.advance(position)?;
                        self.stored_by_others().await?;
                    }
                    tokio::select! {
                        biased;
                        interrupt = self.status.interrupted() => return Err(interrupt),
                        () = reader.idle() => {}
                    }
                }
                Ok(page) => return Ok(page),
                Err(error) => self.database_failed(&error, &mut backoff).await?,
            }
        }
    }

    /// Says that the outbox could not be read and waits a little.
    async fn database_failed(
        &mut self,
        error: &CatalogError,
        backoff: &mut Backoff,
    ) -> Result<(), Interrupt> {
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
        self.status.pause(backoff.next()).await
    }

    /// Delivers one page, whole and in order.
    async fn page(&mut self, page: &Page, meters: &Meters) -> Result<(), Broken> {
        let mut delivered = 0;
        let mut attempts = 0;
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        while delivered < page.messages.len() {
            let broken = |interrupt| Broken {
                delivered,
                interrupt,
            };
            // Between attempts everything may interrupt; within the first one a stop may not,
            // because a batch that is on its way is finished.
            if attempts > 0 && self.status.stop.is_cancelled() {
                return Err(broken(Interrupt::Stop));
            }
            self.status
                .trust
                .opened()
                .await
                .map_err(|revoked| broken(revoked.into()))?;
            attempts += 1;
            let progress = Progress::default();
            let batch = Batch {
                messages: &page.messages[delivered..],
                progress: &progress,
                place: Some(Place {
                    page,
                    before: delivered,
                }),
            };
            let started = Instant::now();
            let outcome = tokio::select! {
                biased;
                () = self.status.trust.lapsed() => {
                    self.lapsed();
                    delivered += progress.delivered();
                    self.stored = self.sink.stores_positions() && progress.delivered() > 0;
                    continue;
                }
                () = self.status.positions.fenced() => return Err(broken(Interrupt::Fenced)),
                outcome = self.sink.deliver(self.context, &batch) => outcome,
            };
            let error = match outcome {
                Ok(()) => {
                    self.stored = self.sink.stores_positions();
                    meters.delivered(batch.messages.len(), started);
                    self.status.recovered(self.context);
                    return Ok(());
                }
                Err(error) => error,
            };
            meters.failed(&error);
            if error.delivered() > 0 {
                meters.delivered(error.delivered(), started);
                delivered += error.delivered();
                self.stored = self.sink.stores_positions();
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
                let letter = DeadLetter {
                    message: &page.messages[delivered],
                    error: reason,
                    attempts,
                };
                self.dead_letter(&letter, meters).await.map_err(broken)?;
                delivered += 1;
                self.stored = false;
                attempts = 1;
                continue;
            }
            let delay = self.status.failed(self.context, &error, &mut backoff);
            self.status.pause(delay).await.map_err(broken)?;
        }
        Ok(())
    }

    fn lapsed(&mut self) {
        counter!(names::TRUST_LAPSES).increment(1);
        let reason = "the server has not confirmed our locks";
        if self
            .status
            .gauge
            .set_state(PipelineState::Paused, Some(reason))
        {
            warn!(pipeline.id = %self.context.pipeline, "publishing paused: {reason}");
        }
    }

    /// Puts a refused message aside, however long the database takes.
    async fn dead_letter(
        &mut self,
        letter: &DeadLetter<'_>,
        meters: &Meters,
    ) -> Result<(), Interrupt> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            self.status.trust.opened().await?;
            match self.write(letter).await {
                Ok(true) => {
                    info!(
                        pipeline.id = %self.context.pipeline, message = letter.message.id,
                        reason = letter.error, "message moved to the dead letters"
                    );
                    meters.dead_lettered.increment(1);
                    return Ok(());
                }
                Ok(false) => {
                    names::fenced_write();
                    return Err(Interrupt::Fenced);
                }
                Err(error) => {
                    debug!(
                        error = &error as &dyn std::error::Error,
                        "could not write a dead letter"
                    );
                    self.database_failed(&error, &mut backoff).await?;
                }
            }
        }
    }

    async fn write(&self, letter: &DeadLetter<'_>) -> Result<bool, CatalogError> {
        let mut connection =
            self.services
                .pool
                .acquire()
                .await
                .map_err(|source| CatalogError::Database {
                    doing: "writing a dead letter",
                    source,
                })?;
        let Context {
            group,
            pipeline,
            epoch,
            ..
        } = self.context;
        dead_letter_write(&mut connection, group, pipeline, *epoch, letter).await
    }
}

/// Handles to this pipeline's metrics, looked up once.
struct Meters {
    delivered: Counter,
    dead_lettered: Counter,
    failures: [Counter; 3],
    duration: Histogram,
}

impl Meters {
    fn new<S: Sink>(context: &Context) -> Self {
        let pipeline = context.pipeline.to_string();
        let labels = [("pipeline", pipeline.clone()), ("sink", S::KIND.to_owned())];
        let failure = |reason: &'static str| {
            counter!(
                names::DELIVERY_FAILURES, "pipeline" => pipeline.clone(), "sink" => S::KIND, "reason" => reason
            )
        };
        Self {
            delivered: counter!(names::MESSAGES_DELIVERED, &labels),
            dead_lettered: counter!(names::MESSAGES_DEAD_LETTERED, &labels),
            failures: [
                failure("transient"),
                failure("rejected"),
                failure("misconfigured"),
            ],
            duration: histogram!(names::DELIVERY_DURATION, "sink" => S::KIND),
        }
    }

    fn delivered(&self, messages: usize, started: Instant) {
        self.delivered.increment(messages as u64);
        let took: Duration = started.elapsed();
        self.duration.record(took);
    }

    fn failed(&self, error: &SinkError) {
        let index = match error {
            // Counted with the writes that the catalog itself refuses.
            SinkError::Fenced { .. } => return,
            SinkError::Transient { .. } => 0,
            SinkError::Rejected { .. } => 1,
            SinkError::Misconfigured { .. } => 2,
        };
        self.failures[index].increment(1);
    }
}
