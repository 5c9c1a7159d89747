//! Strict order: a message that is refused for good parks its key, and later messages of the key
//! follow it into the dead letters, unsent and in order, until an operator has seen to them.
//!
//! Which keys are parked is the catalog's to say: a key is, as long as a letter of it is. What is
//! kept here is a hint that spares a look. It knows every parked key of the unit, because nobody but
//! the owner parks any; a key that was opened meanwhile, by a replay or a discard, is found out when
//! its next message is about to be put aside and the catalog says that there is nothing to wait for.
//!
//! **Order of things.** The position is stored before a key is parked: a successor that began before
//! would read the key's messages again, delivered ones too, and put them behind the refused one.
//! Letters that follow are written before the position passes them, like deliveries.
//!
//! **When there are too many**, nothing is written and the pipeline waits, in state `paused` with the
//! reason, for operators to have some delivered again (which goes on meanwhile) or discarded.

use std::{collections::BTreeSet, future::Future, pin::Pin};

use metrics::{Counter, Gauge, counter, gauge};
use tide_catalog::{
    CatalogError,
    messages::Message,
    parking::{Parked, Refusal, keys_of_unit, letters_park},
};
use tide_daemon::backoff::Backoff;
use tide_model::{ParkingLimits, PipelineState, Policy};
use tokio::time::sleep;

use super::{
    Context, Interrupt, LOOK_AGAIN, Meters, RETRY, Sink, debug,
    deliver::{Delivery, Load},
    info, warn,
};
use crate::metrics as names;

/// What one worker knows of parked keys.
pub(super) struct Parking {
    /// None if messages are put aside alone.
    limits: Option<ParkingLimits>,
    /// Keys that are parked, or were.
    keys: BTreeSet<String>,
    /// Messages of the page at hand that are letters already.
    aside: BTreeSet<i64>,
    /// Keys of which a letter at hand was refused again: those behind it have to wait.
    held: BTreeSet<String>,
    parked_keys: Gauge,
    parked_messages: Counter,
}

impl Parking {
    pub(super) fn new(policy: &Policy, context: &Context) -> Self {
        let label = context.pipeline.to_string();
        let parking = Self {
            limits: policy.parking,
            keys: BTreeSet::new(),
            aside: BTreeSet::new(),
            held: BTreeSet::new(),
            parked_keys: gauge!(names::PARKED_KEYS, "pipeline" => label.clone()),
            parked_messages: counter!(names::MESSAGES_PARKED, "pipeline" => label),
        };
        parking.show();
        parking
    }

    /// Letters are at hand of which none was refused yet.
    pub(super) fn begin_letters(&mut self) {
        self.held.clear();
    }

    /// A letter was refused again.
    pub(super) fn hold_back(&mut self, load: Load<'_>, index: usize) {
        if let Load::Letters(letters, messages) = load
            && letters[index].parked
            && let Some(key) = &messages[index].key
        {
            self.held.insert(key.clone());
        }
    }

    /// Whether a message has to wait behind others of its key.
    fn waits(&self, load: Load<'_>, index: usize) -> bool {
        let keys = match load {
            Load::Page(_) => &self.keys,
            Load::Letters(letters, _) if letters[index].parked => &self.held,
            Load::Letters(..) => return false,
        };
        is_among(keys, &load.messages()[index])
    }

    /// How many messages from `from` on may be sent, up to the first that has to wait.
    pub(super) fn free(&self, load: Load<'_>, from: usize) -> usize {
        let end = load.messages().len();
        if self.keys.is_empty() && self.held.is_empty() {
            return end - from;
        }
        (from..end)
            .find(|index| self.waits(load, *index))
            .unwrap_or(end)
            - from
    }

    fn show(&self) {
        self.parked_keys.set(self.keys.len() as f64);
    }
}

impl Drop for Parking {
    /// Whoever owns the pipeline next shows its own.
    fn drop(&mut self) {
        self.parked_keys.set(0.0);
    }
}

impl<S: Sink> Delivery<'_, S> {
    /// Learns which keys are parked, before anything is delivered.
    pub(super) async fn look_up_parked(&mut self) -> Result<(), Interrupt> {
        if self.parking.limits.is_none() {
            return Ok(());
        }
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match self.parked_keys().await {
                Ok(keys) => {
                    self.parking.keys = keys.into_iter().collect();
                    self.parking.show();
                    return Ok(());
                }
                Err(error) => self.database_failed(&error, &mut backoff).await?,
            }
        }
    }

    async fn parked_keys(&self) -> Result<Vec<String>, CatalogError> {
        let mut connection =
            self.services
                .pool
                .acquire()
                .await
                .map_err(|source| CatalogError::Database {
                    doing: "parking keys",
                    source,
                })?;
        let Context {
            group, pipeline, ..
        } = self.context;
        keys_of_unit(&mut connection, group, pipeline).await
    }

    /// Puts messages aside that have to wait, and returns how many from `from` on are done so.
    pub(super) async fn step_aside(
        &mut self,
        load: Load<'_>,
        from: usize,
        meters: &Meters,
    ) -> Result<usize, Interrupt> {
        if from == 0 {
            self.parking.aside.clear();
        }
        while self.parking.waits(load, from) {
            let Load::Page(page) = load else {
                // They stay letters.
                return Ok(self.waiting(load, from, |_, _| true));
            };
            if !self.parking.aside.contains(&page.messages[from].id) {
                // All of the page at once: one statement instead of one for each.
                let following: Vec<&Message> = (from..page.messages.len())
                    .filter(|index| self.parking.waits(load, *index))
                    .map(|index| &page.messages[index])
                    .collect();
                let opened = self.put_aside(load, from, &following, None, meters).await?;
                for key in &opened {
                    self.parking.keys.remove(key);
                }
                self.parking.show();
                let parked = following
                    .iter()
                    .filter(|message| is_among(&self.parking.keys, message))
                    .map(|message| message.id);
                let parked: Vec<i64> = parked.collect();
                self.parking.parked_messages.increment(parked.len() as u64);
                debug!(pipeline.id = %self.context.pipeline, messages = parked.len(), "messages wait behind refused ones");
                self.parking.aside.extend(parked);
                continue;
            }
            return Ok(self.waiting(load, from, |aside, message| aside.contains(&message.id)));
        }
        Ok(0)
    }

    /// How many messages from `from` on wait, one behind the other.
    fn waiting(
        &mut self,
        load: Load<'_>,
        from: usize,
        done: impl Fn(&BTreeSet<i64>, &Message) -> bool,
    ) -> usize {
        let messages = load.messages();
        let end = (from..messages.len())
            .find(|index| {
                !self.parking.waits(load, *index) || !done(&self.parking.aside, &messages[*index])
            })
            .unwrap_or(messages.len());
        if let Load::Letters(letters, _) = load {
            for letter in &letters[from..end] {
                self.replaying.keep(letter.id);
            }
        }
        end - from
    }

    /// Parks the key of a message that was refused, if that is what the pipeline asks for; false if
    /// the message is to be put aside alone.
    pub(super) async fn park(
        &mut self,
        load: Load<'_>,
        index: usize,
        refusal: Refusal<'_>,
        meters: &Meters,
    ) -> Result<bool, Interrupt> {
        let (Load::Page(page), Some(_)) = (load, self.parking.limits) else {
            return Ok(false);
        };
        let message = &page.messages[index];
        let Some(key) = &message.key else {
            return Ok(false);
        };
        self.settle(load, index).await?;
        tokio::select! {
            biased;
            () = self.status.trust.revoked() => return Err(Interrupt::Revoked),
            flushed = self.status.positions.flushed() => flushed?,
        }
        self.put_aside(load, index, &[message], Some(refusal), meters)
            .await?;
        self.parking.keys.insert(key.clone());
        self.parking.show();
        info!(
            pipeline.id = %self.context.pipeline, message = message.id, reason = refusal.error,
            "message is in the dead letters and its key is parked"
        );
        Ok(true)
    }

    /// Writes letters, however long the database takes, and whoever has to make room. Returns the
    /// keys that are not parked any more: nothing was written of them.
    async fn put_aside(
        &mut self,
        load: Load<'_>,
        from: usize,
        messages: &[&Message],
        refusal: Option<Refusal<'_>>,
        meters: &Meters,
    ) -> Result<Vec<String>, Interrupt> {
        let Some(limits) = self.parking.limits else {
            return Ok(Vec::new());
        };
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut waited = false;
        loop {
            self.status.trust.opened().await?;
            match self.write_parked(messages, refusal, limits).await {
                Ok(Parked::Aside { opened }) => {
                    if waited {
                        self.status.recovered(self.context);
                    }
                    return Ok(opened);
                }
                Ok(Parked::Fenced) => {
                    names::fenced_write();
                    return Err(Interrupt::Fenced);
                }
                Ok(Parked::Full) => {
                    waited = true;
                    // It may last, and what is delivered is delivered.
                    self.settle(load, from).await?;
                    self.wait_for_room(limits, meters).await?;
                }
                Err(error) => self.database_failed(&error, &mut backoff).await?,
            }
        }
    }

    /// Waits until there may be room among the parked.
    async fn wait_for_room(
        &mut self,
        limits: ParkingLimits,
        meters: &Meters,
    ) -> Result<(), Interrupt> {
        let pipeline = &self.context.pipeline;
        let reason = format!(
            "no further message can be parked (max_parked_keys {}, max_parked_messages {}): replay or discard some, see tidectl dlq keys --pipeline {}",
            limits.keys,
            limits.messages,
            pipeline.pipeline_str()
        );
        if self
            .status
            .gauge
            .set_state(PipelineState::Paused, Some(&reason))
        {
            warn!(pipeline.id = %pipeline, reason, "on hold");
            self.status
                .positions
                .set_state(PipelineState::Paused, Some(reason));
        }
        let mut orders = self.status.orders.clone();
        tokio::select! {
            biased;
            interrupt = self.status.interrupted() => return Err(interrupt),
            () = orders.changed() => {}
            () = self.replaying.due(self.status.orders.replay()) => {}
            () = sleep(LOOK_AGAIN) => {}
        }
        self.replay_meanwhile(meters).await
    }

    /// Letters that operators ask for are delivered, although a page waits for room. Boxed, because
    /// it is a delivery in the middle of one.
    fn replay_meanwhile<'b>(
        &'b mut self,
        meters: &'b Meters,
    ) -> Pin<Box<dyn Future<Output = Result<(), Interrupt>> + Send + 'b>> {
        Box::pin(self.replay(meters))
    }

    async fn write_parked(
        &self,
        messages: &[&Message],
        refusal: Option<Refusal<'_>>,
        limits: ParkingLimits,
    ) -> Result<Parked, CatalogError> {
        let mut connection =
            self.services
                .pool
                .acquire()
                .await
                .map_err(|source| CatalogError::Database {
                    doing: "parking keys",
                    source,
                })?;
        let Context {
            group,
            pipeline,
            epoch,
            ..
        } = self.context;
        letters_park(
            &mut connection,
            group,
            pipeline,
            *epoch,
            messages,
            refusal,
            limits,
        )
        .await
    }
}

fn is_among(keys: &BTreeSet<String>, message: &Message) -> bool {
    let key = message.key.as_ref();
    !keys.is_empty() && key.is_some_and(|key| keys.contains(key))
}
