//! Pipelines: added, changed, and what is read of them.

use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tide_catalog::schema;
use tide_sandbox::{
    files::FileReader,
    history::{Arrivals, End, Limits, Stream},
};

use super::{
    execute::{Known, Run},
    plan::{PipelinePlan, SinkKind},
};
use crate::fleet::Tap;

/// Batches that an owner may have delivered without having stored that: the one under way, three
/// before a store begins, and those that were delivered while it was on its way.
const UNSTORED_BATCHES: usize = 6;

impl Run<'_> {
    /// Adds a pipeline.
    pub(super) async fn add(&mut self, plan: &PipelinePlan) -> Result<()> {
        let PipelinePlan {
            name,
            outbox,
            sink,
            batch_size,
        } = plan;
        match sink {
            SinkKind::File => {
                let path = self.fleet.file(name);
                let config = json!({"sink_type": "file", "path": path, "batch_size": batch_size});
                let tap = Tap::File(FileReader::new(path));
                self.fleet.add(name, outbox, config, tap).await?;
            }
            SinkKind::Webhook | SinkKind::WebhookBatch => {
                let receiver = Arc::clone(&self.sinks.receiver);
                let batch = *sink == SinkKind::WebhookBatch;
                let more = json!({"batch": batch, "batch_size": batch_size});
                self.sinks.answer_late(name, 0);
                self.fleet
                    .add_webhook_pipeline(name, outbox, &receiver, more)
                    .await?;
            }
            SinkKind::Topic | SinkKind::PartitionedTopic => {
                self.fleet
                    .add_kafka_pipeline(name, outbox, &self.sinks.kafka)
                    .await?;
                let change = json!({"batch_size": batch_size, "timeout_ms": 5_000});
                self.fleet.reconfigure(name, change).await?;
            }
            SinkKind::Stream => {
                let nats = self.sinks.streams()?;
                let config = json!({"sink_type": "nats", "url": nats.url(), "subject": name, "batch_size": batch_size});
                let tap = Tap::Nats(nats.reader(name));
                nats.create_stream(name).await?;
                self.fleet.add(name, outbox, config, tap).await?;
            }
            SinkKind::Inbox => {
                let url = self.fleet.postgres.create_database(name).await?;
                schema::migrate(&mut PgConnection::connect(&url).await?).await?;
                let more = json!({"postgres_url": url, "batch_size": batch_size});
                self.fleet
                    .add_inbox_pipeline(name, outbox, &url, more)
                    .await?;
            }
        }
        let known = Known {
            plan: plan.clone(),
            // The default, for a moment, where the configuration was given in two steps.
            largest_batch: *batch_size,
            sharded: false,
            deleted: false,
        };
        self.pipelines.insert(name.clone(), known);
        Ok(())
    }

    /// Gives a pipeline another batch size.
    pub(super) async fn change(&mut self, pipeline: &str, batch_size: usize) -> Result<()> {
        let change = json!({"batch_size": batch_size});
        self.fleet.reconfigure(pipeline, change).await?;
        let known = self.known(pipeline);
        known.largest_batch = known.largest_batch.max(batch_size);
        Ok(())
    }

    /// Gives a pipeline another number of shards.
    pub(super) async fn reshard(&mut self, pipeline: &str, shards: u16) -> Result<()> {
        // Before the first of them can deliver.
        self.known(pipeline).sharded = true;
        let change = json!({"shards": shards});
        self.fleet.reconfigure(pipeline, change).await
    }

    /// What every pipeline has delivered.
    pub(super) fn streams(&self) -> Result<Vec<Stream>> {
        let stream = |(name, known): (&String, &Known)| {
            let Known {
                plan,
                largest_batch,
                sharded,
                deleted,
            } = known;
            let by_request = matches!(plan.sink, SinkKind::Webhook | SinkKind::WebhookBatch);
            let on_the_wire = if by_request { 1 } else { *largest_batch };
            Ok(Stream {
                arrivals: match plan.sink {
                    SinkKind::PartitionedTopic => Arrivals::InOrderPerKey,
                    _ if *sharded => Arrivals::InOrderPerKey,
                    _ => Arrivals::InOrder,
                },
                end: if *deleted { End::Open } else { End::Complete },
                limits: Limits {
                    unstored: Some(UNSTORED_BATCHES * largest_batch),
                    on_the_wire: Some(on_the_wire),
                    by_request,
                },
                ..Stream::new(name, &plan.outbox, self.fleet.deliveries(name)?)
            })
        };
        self.pipelines.iter().map(stream).collect()
    }
}
