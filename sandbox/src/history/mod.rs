//! The judge: what was committed against what was delivered, and why anything came twice. Pure.
//!
//! Per pipeline, [`check`] finds
//! - **lost**: committed and never delivered;
//! - **phantom**: delivered and never committed to the pipeline's outbox;
//! - **altered**: delivered with another key, outbox or id than it was committed with, or had before;
//! - **reordered**: a first delivery after one of a later message of its key, or a redelivery that
//!   does not repeat a suffix: after a duplicate of number *s* that key must go on with *s + 1*,
//!   *s + 2*, … (or go back again), never skip;
//! - **duplicates**: deliveries of what was delivered before, each with its cause;
//! - **stale epochs**: deliveries under a lower epoch than one seen before for that key, that is,
//!   by a former owner, each with its cause.
//!
//! A cause is a [`Disturbance`] that reaches the pipeline and whose window holds the arrival; of
//! several, the one that began last. Where the sink keeps no arrival times any disturbance that
//! reaches the pipeline will do. Nothing excuses loss, phantoms or disorder. What a former owner
//! still had on the wire may arrive between the deliveries of the new one: a stale duplicate is
//! counted as stale and as a duplicate, and does not disturb the new owner's order.
//!
//! # Who is to blame
//! In a long run with many disturbances a window explains too much. [`check_by_tenure`] asks who is
//! to blame instead: a message comes again because the one who delivered it *before* did not store
//! that, and comes late because of the one who sends it. The [`Tenures`], read off the stored
//! positions, say when that one was the owner, and only what was done to it in that time is a
//! cause. No arrival times are needed. Causes excuse no more than an owner may have under way: see
//! [`Limits`].
//!
//! [`check_positions`] judges the stored positions themselves.

mod accounts;
mod disturbance;
mod key_order;
mod pipeline;
mod positions;
mod tenure;

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::{envelope::Delivery, publisher::Entry};

pub use self::{
    accounts::{Accounts, Finding, PipelineAccount, Tally, Verdict},
    disturbance::{Cause, Disturbance, Explanation, Reach},
    positions::{Position, PositionChange, PositionFault, PositionOffence, check_positions},
    tenure::{Tenure, Tenures},
};

use self::pipeline::Evidence;

/// What arrived from one pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// The pipeline.
    pub pipeline: String,
    /// The outbox that it reads.
    pub outbox: String,
    /// In the order of arrival.
    pub deliveries: Vec<Delivery>,
    /// What that order means.
    pub arrivals: Arrivals,
    /// Whether everything must have arrived.
    pub end: End,
    /// How much a disturbance may have cost.
    pub limits: Limits,
}

/// What the order of arrival means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// It is the order in which the sink got everything.
    InOrder,
    /// It is only so for messages of one key, as with several partitions.
    InOrderPerKey,
}

/// Whether everything must have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Yes.
    Complete,
    /// No: the pipeline was deleted.
    Open,
}

/// What an owner may have under way, in messages. No bound if absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Delivered, but not stored: what one disturbance of one tenure may deliver again.
    pub unstored: Option<usize>,
    /// On its way to the sink: what a former owner may deliver after its time, unless it was merely
    /// partitioned, and so had time to be silent.
    pub on_the_wire: Option<usize>,
    /// Whether what arrived at the same time counts as one on the wire.
    pub by_request: bool,
}

impl Stream {
    /// What arrived from a pipeline that reads this outbox.
    pub fn new(
        pipeline: impl Into<String>,
        outbox: impl Into<String>,
        deliveries: Vec<Delivery>,
    ) -> Self {
        Self {
            pipeline: pipeline.into(),
            outbox: outbox.into(),
            deliveries,
            arrivals: Arrivals::InOrderPerKey,
            end: End::Complete,
            limits: Limits::default(),
        }
    }
}

/// Sorts what a shared sink got by the pipeline named in its headers.
///
/// Deliveries without that header go under the empty name.
pub fn by_pipeline(deliveries: Vec<Delivery>) -> BTreeMap<String, Vec<Delivery>> {
    deliveries
        .into_iter()
        .fold(BTreeMap::new(), |mut sorted, delivery| {
            let pipeline = delivery.envelope.pipeline().unwrap_or_default().to_owned();
            sorted
                .entry(pipeline)
                .or_insert_with(Vec::new)
                .push(delivery);
            sorted
        })
}

/// Judges every stream against everything that was published.
///
/// Each stream must hold all deliveries of its pipeline since the first published message: the
/// caller takes out of `published` what the pipeline was right not to deliver (dead letters, or
/// what was published before it existed).
pub fn check(published: &[Entry], streams: &[Stream], disturbances: &[Disturbance]) -> Accounts {
    judge(published, streams, disturbances, Evidence::Times)
}

/// As [`check`], but by who is to blame.
pub fn check_by_tenure(
    published: &[Entry],
    streams: &[Stream],
    disturbances: &[Disturbance],
    tenures: &Tenures,
) -> Accounts {
    judge(published, streams, disturbances, Evidence::Tenures(tenures))
}

fn judge(
    published: &[Entry],
    streams: &[Stream],
    disturbances: &[Disturbance],
    evidence: Evidence<'_>,
) -> Accounts {
    let published: HashMap<Uuid, &Entry> = published
        .iter()
        .map(|entry| (entry.event_id, entry))
        .collect();
    let judge = |stream| pipeline::judge(stream, &published, disturbances, evidence);
    Accounts {
        pipelines: streams.iter().map(judge).collect(),
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
