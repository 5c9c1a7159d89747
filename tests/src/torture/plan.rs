//! What a run does and when. Pure, and the same when it is read back.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What it was drawn from; also seeds the publishers.
    pub seed: u64,
    /// How long publishers and faults go on.
    pub seconds: u64,
    /// Messages a second.
    pub rate: u32,
    /// How many agents there are: `relay-1`, `relay-2`, …
    pub agents: usize,
    /// The pipelines from the beginning.
    pub pipelines: Vec<PipelinePlan>,
    /// In the order of their times.
    pub steps: Vec<Step>,
}

/// A pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelinePlan {
    /// Its name.
    pub name: String,
    /// The outbox it reads.
    pub outbox: String,
    /// Where it delivers.
    pub sink: SinkKind,
    /// Messages in a batch at most.
    pub batch_size: usize,
}

/// Where a pipeline delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// A file of its own.
    File,
    /// A request for each message.
    Webhook,
    /// A request for each batch.
    WebhookBatch,
    /// A topic with one partition.
    Topic,
    /// A topic with several.
    PartitionedTopic,
    /// A stream of JetStream.
    Stream,
    /// An inbox in another database.
    Inbox,
}

/// One operation and when it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Milliseconds after the start.
    pub at: u64,
    /// What is done.
    #[serde(flatten)]
    pub operation: Operation,
}

/// How PostgreSQL is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Clients are told.
    Fast,
    /// They are not, and it recovers from its log.
    Immediate,
    /// The postmaster is killed.
    Kill,
}

/// Something that is done to the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields name whom it is done to")]
pub enum Operation {
    /// SIGKILL.
    Crash { agent: String },
    /// Starts a dead agent again, once it has ended.
    Start { agent: String },
    /// SIGSTOP.
    Freeze { agent: String },
    /// SIGCONT.
    Thaw { agent: String },
    /// Cuts it off from PostgreSQL, silently; its sinks stay in reach.
    Cut { agent: String },
    /// Ends a cut; what was held back arrives.
    Heal { agent: String },
    /// Makes its way to PostgreSQL this long, in each direction. No excuse for anything.
    Distance { agent: String, millis: u64 },
    /// Ends its lock session in the server.
    EndLockSession { agent: String },
    /// SIGTERM. Planned: no excuse for anything.
    Terminate { agent: String },
    /// Asks it to give everything away.
    Drain { agent: String },
    /// Lets it work again.
    Undrain { agent: String },
    /// Brings a pipeline to an agent.
    Move { pipeline: String, agent: String },
    /// Evens out the load with `tidectl`, through the control plane if it answers.
    Rebalance,
    /// Brings PostgreSQL down and up.
    RestartPostgres { how: Restart },
    /// Stops PostgreSQL in its tracks for so long.
    StallPostgres { millis: u64 },
    /// SIGKILL to the control plane.
    KillControlPlane,
    /// Starts it again.
    StartControlPlane,
    /// Adds a pipeline, which begins with the first message of its outbox.
    Add { pipeline: PipelinePlan },
    /// Changes a pipeline's configuration.
    Change { pipeline: String, batch_size: usize },
    /// Splits a pipeline into so many shards, or joins it again.
    Reshard { pipeline: String, shards: u16 },
    /// Stops a pipeline.
    Disable { pipeline: String },
    /// Lets it go on.
    Enable { pipeline: String },
    /// Deletes it for good.
    Delete { pipeline: String },
    /// Makes its receiver answer so late; 0 for at once.
    AnswerLate { pipeline: String, millis: u64 },
    /// Makes its receiver refuse so many requests for now.
    Refuse { pipeline: String, times: usize },
    /// Makes its receiver accept so many requests and never say so.
    Sever { pipeline: String, times: usize },
    /// Makes its receiver accept the next request only when it is released.
    Hang { pipeline: String },
    /// Ends every hang.
    Release,
    /// The brokers go away.
    BrokersDown,
    /// They come back.
    BrokersUp,
    /// SIGKILL to the server of the streams.
    KillStreams,
    /// Starts it again.
    StartStreams,
    /// So often: a message with a lower id commits after one with a higher id, and its transaction
    /// is above every completed one when that is read.
    Overtake { outbox: String, times: usize },
    /// A transaction of so many messages stays open for so long.
    LateBulk {
        outbox: String,
        messages: usize,
        millis: u64,
    },
}

impl Plan {
    /// The plan as it is written to a file.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plan holds nothing that JSON does not know")
    }

    /// Reads a plan back.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As it stands in the plan, without quotes: `crash agent=relay-1`.
        let value = serde_json::to_value(self).map_err(|_| fmt::Error)?;
        formatter.write_str(value["do"].as_str().unwrap_or_default())?;
        for (name, value) in value.as_object().into_iter().flatten() {
            if name != "do" {
                let text = value.to_string();
                write!(formatter, " {name}={}", text.trim_matches('"'))?;
            }
        }
        Ok(())
    }
}
