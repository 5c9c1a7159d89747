//! Webhooks after the Standard Webhooks specification: what a receiver may rely on, what it may
//! answer, and where nothing is ever sent.

mod answers;
mod authentication;
mod guard;
mod signatures;
mod tls;

use std::sync::Arc;

use anyhow::{Result, ensure};
use tide_model::PipelineState;
use tide_model::fleet::PipelineRow;
use tide_sandbox::http::Receiver;
use tide_tests::{Fleet, FleetOptions, by_hand::publish};
use uuid::Uuid;

const FIRST: &str = "relay-1";

/// A fleet of one agent that knows these variables, and an endpoint.
async fn with_secrets(secrets: &[(&str, &str)]) -> Result<(Fleet, Arc<Receiver>)> {
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    let mut spec = fleet.spec(FIRST);
    for (name, secret) in secrets {
        spec.env.push(((*name).to_owned(), (*secret).to_owned()));
    }
    fleet.start_as(spec).await?;
    Ok((fleet, Arc::new(Receiver::start().await?)))
}

/// Publishes so many messages of one key, each in a transaction of its own, and says their ids.
async fn publish_some(fleet: &mut Fleet, count: usize) -> Result<Vec<Uuid>> {
    let mut connection = fleet.connection().await?;
    let mut ids = Vec::new();
    for _ in 0..count {
        let entry = fleet.drafts.draw("events", "k");
        ids.push(entry.event_id);
        publish(&mut connection, &entry).await?;
    }
    Ok(ids)
}

/// Waits until the pipeline is misconfigured and says this.
async fn wait_for_words(fleet: &Fleet, pipeline: &str, words: &str) -> Result<PipelineRow> {
    let row = fleet
        .wait_for_state(pipeline, PipelineState::Misconfigured)
        .await?;
    let reason = row.state_reason.clone().unwrap_or_default();
    ensure!(reason.contains(words), "{words:?} is not in {reason:?}");
    Ok(row)
}
