//! Deletes what nobody needs any more: delivered messages past their retention, old history.
//!
//! ```text
//! every agent ──▶ election ──▶ one of them, every interval:
//!                               outbox by outbox: look at a page, delete, rest as long, next page
//!                               inbox by inbox: what was processed long ago, batch by batch
//!                               dead letters that their pipelines keep no longer, batch by batch
//!                               holds, plans, operations, events: batch by batch
//!                               how far each unit has come since the last round
//!                               what agents said of sinks, and counts no longer
//! ```
//!
//! Agents do this, not the control plane, because messages pile up without one too. What may go is
//! decided in the catalog, in the statement that deletes it; see `tide.outbox_sweep`. Every
//! statement is fenced by the janitor's epoch. When this fails: what stays is deleted in a later
//! round; nothing else waits for it.

use std::{error::Error, time::Duration};

use metrics::{counter, gauge};
use tide_catalog::{
    CatalogError, PgConnection, PgPool,
    connection::Server,
    inboxes::{inbox_names, inbox_sweep},
    janitor::{
        History, costs_sample, dead_letter_sweep, history_purge, outbox_names, outbox_sweep,
    },
    leader::{LeaderConfig, LeaderElection, LeaderRole},
    reach::unreachable_sweep,
};
use tide_model::{Epoch, NodeId};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{config::Housekeeping, metrics as names};

/// Nobody waits for the janitor, so a hundred standbys may ask seldom.
const LEASE: Duration = Duration::from_secs(15);
/// An agent that has just started takes pipelines over, and is not to be kept from it.
const SETTLING: Duration = Duration::from_secs(2);
/// Messages that one statement looks at, and history that it deletes.
const BATCH: u32 = 5_000;
/// The first look at an outbox: in most rounds its oldest messages are still young, and then that
/// is all.
const FIRST_LOOK: u32 = 200;
/// A statement must be done within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// The shortest rest between two statements; it is as long as the statement took otherwise.
const REST: Duration = Duration::from_millis(10);

/// One agent's part in the housekeeping.
pub(crate) struct Janitor {
    server: Server,
    election: LeaderElection,
    housekeeping: Housekeeping,
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    /// Somebody else is the janitor by now.
    #[error("another janitor is in office")]
    Deposed,
    /// A statement failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Janitor {
    /// Contends with the agents of every group: outboxes belong to none.
    pub(crate) fn new(
        server: &Server,
        pool: PgPool,
        node: NodeId,
        housekeeping: Housekeeping,
    ) -> Self {
        let settings = [
            // The server ends what we have given up waiting for.
            ("statement_timeout", PATIENCE.as_millis().to_string()),
            // What a crash of the server brings back is deleted again.
            ("synchronous_commit", "off".to_owned()),
        ];
        let config = LeaderConfig::with_lease(LEASE);
        Self {
            server: server
                .with_application("tide-agent/janitor")
                .with_settings(&settings),
            election: LeaderElection::new(pool, node, LeaderRole::Janitor, config),
            housekeeping,
        }
    }

    /// Runs until the token is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        if stop.run_until_cancelled(sleep(SETTLING)).await.is_none() {
            return;
        }
        let stopped = async {
            stop.cancelled().await;
            self.election.stop();
        };
        tokio::join!(
            self.election.run(),
            stop.run_until_cancelled(self.work()),
            stopped
        );
        gauge!(names::JANITOR_ACTIVE).set(0.0);
    }

    async fn work(&self) {
        let mut terms = self.election.terms();
        let mut failing = false;
        loop {
            let began = Instant::now();
            let epoch = self.election.epoch();
            gauge!(names::JANITOR_ACTIVE).set(f64::from(u8::from(epoch.is_some())));
            terms.mark_unchanged();
            if let Some(epoch) = epoch {
                failing = account(self.round(epoch).await, failing);
            }
            tokio::select! {
                // A new term begins with a round.
                changed = terms.changed() => if changed.is_err() { return },
                () = sleep_until(began + self.housekeeping.interval) => {}
            }
        }
    }

    /// Goes through everything once. What fails for one outbox does not keep it from the others;
    /// the last error is returned.
    async fn round(&self, epoch: Epoch) -> Result<(), Interrupted> {
        let mut connection = self.server.connect().await?;
        // First, as what follows may take long: rates are measured over equal times.
        let mut result = match fenced(answer(costs_sample(&mut connection, epoch)).await) {
            Ok(sampled) => {
                debug!(sampled, "measured what pipelines cost");
                Ok(())
            }
            Err(Interrupted::Deposed) => return Err(Interrupted::Deposed),
            Err(error) => {
                connection = self.server.connect().await?;
                Err(error)
            }
        };
        for outbox in answer(outbox_names(&mut connection)).await? {
            match self.sweep(&mut connection, &outbox, epoch).await {
                Ok(()) => {}
                Err(Interrupted::Deposed) => return Err(Interrupted::Deposed),
                Err(error) => {
                    result = Err(error);
                    // After a timeout the session is still busy with it.
                    connection = self.server.connect().await?;
                }
            }
        }
        for inbox in answer(inbox_names(&mut connection)).await? {
            match self.sweep_inbox(&mut connection, &inbox, epoch).await {
                Ok(()) => {}
                Err(Interrupted::Deposed) => return Err(Interrupted::Deposed),
                Err(error) => {
                    result = Err(error);
                    connection = self.server.connect().await?;
                }
            }
        }
        self.sweep_letters(&mut connection, epoch).await?;
        let swept = fenced(answer(unreachable_sweep(&mut connection, epoch)).await)?;
        debug!(swept, "forgot which sinks were out of reach");
        for history in History::ALL {
            self.purge(&mut connection, history, epoch).await?;
        }
        result
    }

    async fn sweep(
        &self,
        connection: &mut PgConnection,
        outbox: &str,
        epoch: Epoch,
    ) -> Result<(), Interrupted> {
        let (mut after, mut deleted) = (0, 0);
        loop {
            let began = Instant::now();
            let batch = if after == 0 { FIRST_LOOK } else { BATCH };
            let step = outbox_sweep(connection, outbox, epoch, after, batch);
            let step = fenced(answer(step).await)?;
            deleted += step.deleted;
            counter!(names::JANITOR_MESSAGES_DELETED, "outbox" => outbox.to_owned())
                .increment(step.deleted as u64);
            if !step.more {
                break;
            }
            self.still_leads()?;
            after = step.last_id;
            rest(began).await;
        }
        if deleted > 0 {
            info!(
                outbox,
                deleted, "deleted delivered messages past their retention"
            );
        } else {
            debug!(outbox, "nothing to delete");
        }
        Ok(())
    }

    async fn sweep_inbox(
        &self,
        connection: &mut PgConnection,
        inbox: &str,
        epoch: Epoch,
    ) -> Result<(), Interrupted> {
        let mut deleted = 0;
        loop {
            let began = Instant::now();
            let purged = fenced(answer(inbox_sweep(connection, inbox, epoch, BATCH)).await)?;
            deleted += purged;
            counter!(names::JANITOR_INBOX_DELETED, "inbox" => inbox.to_owned()).increment(purged);
            if purged < u64::from(BATCH) {
                break;
            }
            self.still_leads()?;
            rest(began).await;
        }
        if deleted > 0 {
            info!(
                inbox,
                deleted, "deleted processed messages past their retention"
            );
        }
        Ok(())
    }

    async fn sweep_letters(
        &self,
        connection: &mut PgConnection,
        epoch: Epoch,
    ) -> Result<(), Interrupted> {
        loop {
            let began = Instant::now();
            let swept = dead_letter_sweep(connection, epoch, BATCH);
            let swept = fenced(answer(swept).await)?;
            for (pipeline, deleted) in &swept {
                counter!(names::JANITOR_LETTERS_DELETED, "pipeline" => pipeline.clone())
                    .increment(*deleted);
                info!(pipeline.id = %pipeline, deleted, "deleted dead letters past their retention");
            }
            let deleted: u64 = swept.iter().map(|(_, deleted)| deleted).sum();
            if deleted < u64::from(BATCH) {
                return Ok(());
            }
            self.still_leads()?;
            rest(began).await;
        }
    }

    async fn purge(
        &self,
        connection: &mut PgConnection,
        history: History,
        epoch: Epoch,
    ) -> Result<(), Interrupted> {
        loop {
            let began = Instant::now();
            let keep = self.housekeeping.history_retention;
            let purged = history_purge(connection, epoch, history, keep, BATCH);
            let purged = fenced(answer(purged).await)?;
            counter!(names::JANITOR_HISTORY_DELETED, "kind" => history.as_str()).increment(purged);
            if purged > 0 {
                info!(
                    kind = history.as_str(),
                    deleted = purged,
                    "deleted old history"
                );
            }
            if purged < u64::from(BATCH) {
                return Ok(());
            }
            self.still_leads()?;
            rest(began).await;
        }
    }

    /// Gives up as soon as the lead is in doubt, before the catalog has to say so.
    fn still_leads(&self) -> Result<(), Interrupted> {
        if self.election.is_leader() {
            Ok(())
        } else {
            Err(Interrupted::Deposed)
        }
    }
}

/// Tells a term that is over from a failure.
fn fenced<T>(answer: Result<T, CatalogError>) -> Result<T, Interrupted> {
    match answer {
        Err(error) if error.is_fenced() => Err(Interrupted::Deposed),
        other => Ok(other?),
    }
}

/// Says how a round went, once per change, and whether it failed.
fn account(round: Result<(), Interrupted>, failing: bool) -> bool {
    match round {
        Ok(()) => {
            let now = OffsetDateTime::now_utc().unix_timestamp();
            gauge!(names::JANITOR_LAST_RUN).set(now as f64);
            if failing {
                info!("housekeeping goes on");
            }
            false
        }
        Err(Interrupted::Deposed) => {
            info!("another janitor is in office; leaving the rest to it");
            false
        }
        Err(Interrupted::Catalog(error)) => {
            counter!(names::JANITOR_ERRORS).increment(1);
            if !failing {
                let error: &dyn Error = &error;
                warn!(error, "housekeeping failed; trying again in the next round");
            }
            true
        }
    }
}

/// Leaves at least half of the time to others.
async fn rest(began: Instant) {
    sleep(began.elapsed().max(REST)).await;
}

async fn answer<T>(
    statement: impl Future<Output = Result<T, CatalogError>>,
) -> Result<T, CatalogError> {
    timeout(PATIENCE, statement)
        .await
        .unwrap_or(Err(CatalogError::Timeout(PATIENCE)))
}
