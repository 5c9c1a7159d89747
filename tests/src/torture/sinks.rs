//! What the pipelines deliver to, and how it misbehaves.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tide_sandbox::{
    brokers::Nats,
    history::{Cause, Disturbance, Reach},
    http::{Behaviour, Outcome, Receiver, Request},
    kafka::{MockKafka, Topic},
    leftovers::Scratch,
};

use super::plan::{Plan, SinkKind};

/// How many partitions a partitioned topic has.
const PARTITIONS: u16 = 4;
/// Even at its best a receiver takes some time, so that there is something on the wire.
const AT_BEST: Duration = Duration::from_millis(4);

/// Everything that is delivered to and is not a file.
#[derive(Debug)]
pub(super) struct Sinks {
    pub(super) receiver: Arc<Receiver>,
    pub(super) kafka: MockKafka,
    /// If the plan has streams.
    nats: Option<Nats>,
}

impl Sinks {
    pub(super) async fn start(plan: &Plan, scratch: &Scratch) -> Result<Self> {
        let topics = plan.pipelines.iter().filter_map(|pipeline| {
            let partitions = match pipeline.sink {
                SinkKind::Topic => 1,
                SinkKind::PartitionedTopic => PARTITIONS,
                SinkKind::File
                | SinkKind::Webhook
                | SinkKind::WebhookBatch
                | SinkKind::Stream
                | SinkKind::Inbox => return None,
            };
            Some(Topic::new(pipeline.name.clone(), partitions))
        });
        let topics: Vec<Topic> = topics.collect();
        let has_streams = plan
            .pipelines
            .iter()
            .any(|pipeline| pipeline.sink == SinkKind::Stream);
        Ok(Self {
            receiver: Arc::new(Receiver::start().await?),
            kafka: MockKafka::start(&topics)?,
            nats: if has_streams {
                Some(Nats::start(scratch).await?)
            } else {
                None
            },
        })
    }

    /// The server of the streams.
    pub(super) fn streams(&mut self) -> Result<&mut Nats> {
        self.nats.as_mut().context("the plan began without streams")
    }

    /// Answers after so long, or as soon as it can.
    pub(super) fn answer_late(&self, pipeline: &str, millis: u64) {
        let delay = Duration::from_millis(millis).max(AT_BEST);
        self.receiver
            .by_default(&path(pipeline), Behaviour::Delay(delay));
    }

    /// Answers at once: there is a lot to catch up on.
    pub(super) fn hurry(&self, pipeline: &str) {
        self.receiver
            .by_default(&path(pipeline), Behaviour::Respond(200));
    }

    pub(super) fn refuse(&self, pipeline: &str, times: usize) {
        let refusals = std::iter::repeat_n(Behaviour::Respond(503), times);
        self.receiver.script(&path(pipeline), refusals);
    }

    pub(super) fn sever(&self, pipeline: &str, times: usize) {
        let severed = std::iter::repeat_n(Behaviour::FailAfterAccept, times);
        self.receiver.script(&path(pipeline), severed);
    }

    pub(super) fn hang(&self, pipeline: &str) {
        self.receiver.script(&path(pipeline), [Behaviour::Hang]);
    }

    pub(super) fn release(&self) {
        self.receiver.release();
    }

    /// Requests that were accepted without an answer: each excuses its sender for one repetition.
    pub(super) fn severed(&self) -> Vec<Disturbance> {
        let severed = |request: &Request| {
            (request.outcome == Outcome::Severed).then(|| {
                let reach = Reach::only([request.path.trim_start_matches('/')]);
                Disturbance::new(Cause::Retry, reach, request.at, request.at)
            })
        };
        self.receiver
            .inspect(|requests| requests.iter().filter_map(severed).collect())
    }
}

fn path(pipeline: &str) -> String {
    format!("/{pipeline}")
}
