//! Pipelines, and what reads the things that they deliver.

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tide_catalog::{
    inboxes::inbox_create,
    outboxes::{outbox_create, outbox_status},
    pipelines::pipeline_set,
};
use tide_sandbox::{
    brokers::StreamReader,
    envelope::Delivery,
    files::FileReader,
    http::Receiver,
    inbox::InboxReader,
    kafka::{MockKafka, TopicReader},
};

use super::Fleet;

/// What reads the deliveries of a pipeline.
#[derive(Debug, Clone)]
pub enum Tap {
    /// A file.
    File(FileReader),
    /// Files of several shards: each key is in one of them.
    Files(Vec<FileReader>),
    /// A path of an endpoint.
    Webhook(Arc<Receiver>, String),
    /// A topic.
    Kafka(Arc<TopicReader>, String),
    /// A stream of JetStream.
    Nats(StreamReader),
    /// An inbox.
    Inbox(InboxReader),
    /// First the one, and after a change the other.
    Then(Box<Tap>, Box<Tap>),
    /// Nothing: the pipeline is not judged.
    Nothing,
}

/// A pipeline of the fleet.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// The outbox it reads.
    pub outbox: String,
    /// Its configuration.
    pub config: Value,
    /// What reads its deliveries.
    pub tap: Tap,
}

impl Tap {
    /// Everything that arrived, in the order of arrival.
    pub fn deliveries(&self) -> Result<Vec<Delivery>> {
        Ok(match self {
            Self::File(file) => file.records()?,
            Self::Files(files) => {
                let parts = files.iter().map(FileReader::records);
                parts.collect::<Result<Vec<_>, _>>()?.concat()
            }
            Self::Webhook(receiver, path) => receiver.deliveries(path),
            Self::Kafka(reader, topic) => reader.records_of(topic)?,
            Self::Nats(stream) => stream.records()?,
            Self::Inbox(inbox) => inbox.records()?,
            Self::Then(before, after) => {
                let mut deliveries = before.deliveries()?;
                deliveries.extend(after.deliveries()?);
                deliveries
            }
            Self::Nothing => Vec::new(),
        })
    }
}

impl Fleet {
    /// The file of a pipeline.
    pub fn file(&self, pipeline: &str) -> PathBuf {
        self.scratch.path().join(format!("{pipeline}.jsonl"))
    }

    /// Adds `file-1` to `file-N`, each with a file of its own, on two outboxes in turn.
    pub async fn add_file_pipelines(&mut self, count: usize) -> Result<()> {
        self.add_file_pipelines_from(1, count).await
    }

    /// Adds `count` more of them, the first with this number.
    ///
    /// Those that are added under load read their outbox from its beginning, as all do.
    pub async fn add_file_pipelines_from(&mut self, first: usize, count: usize) -> Result<()> {
        for number in first..first + count {
            let outbox = ["events_a", "events_b"][number % 2];
            self.add_file_pipeline(&format!("file-{number}"), outbox)
                .await?;
        }
        Ok(())
    }

    /// Adds `null-1` to `null-N`, which discard what they read and are not judged.
    pub async fn add_null_pipelines(&mut self, count: i32, outbox: &str) -> Result<()> {
        let mut connection = self.connection().await?;
        outbox_create(&mut connection, outbox, None).await?;
        sqlx::query(
            "SELECT tide.relay_set_outbox('null-' || number, $2, '{\"sink_type\": \"null\"}')
             FROM generate_series(1, $1) number",
        )
        .bind(count)
        .bind(outbox)
        .execute(&mut *connection)
        .await?;
        Ok(())
    }

    /// Adds a pipeline that writes to a file.
    pub async fn add_file_pipeline(&mut self, name: &str, outbox: &str) -> Result<()> {
        let path = self.file(name);
        // Small batches: a disturbance then finds something half done.
        let config = json!({"sink_type": "file", "path": path, "batch_size": 20});
        self.add(name, outbox, config, Tap::File(FileReader::new(path)))
            .await
    }

    /// Adds a pipeline that posts to the path of its name.
    pub async fn add_webhook_pipeline(
        &mut self,
        name: &str,
        outbox: &str,
        receiver: &Arc<Receiver>,
        more: Value,
    ) -> Result<()> {
        let path = format!("/{name}");
        let mut config = json!({
            "sink_type": "webhook",
            "url": receiver.url(&path),
            "allow_networks": ["127.0.0.1"],
        });
        merge(&mut config, more);
        let tap = Tap::Webhook(Arc::clone(receiver), path);
        self.add(name, outbox, config, tap).await
    }

    /// Adds a pipeline that produces to the topic of its name, which must exist.
    pub async fn add_kafka_pipeline(
        &mut self,
        name: &str,
        outbox: &str,
        kafka: &MockKafka,
    ) -> Result<()> {
        let reader = TopicReader::start(&kafka.bootstrap(), &[name]).await?;
        let config = json!({"sink_type": "kafka", "brokers": kafka.bootstrap(), "topic": name});
        let tap = Tap::Kafka(Arc::new(reader), name.to_owned());
        self.add(name, outbox, config, tap).await
    }

    /// Adds a pipeline that writes to the inbox of its name, which is made there: `url` is where,
    /// and `more` what the pipeline is told about that.
    pub async fn add_inbox_pipeline(
        &mut self,
        name: &str,
        outbox: &str,
        url: &str,
        more: Value,
    ) -> Result<()> {
        let mut there = PgConnection::connect(url).await?;
        inbox_create(&mut there, name, None).await?;
        let mut config = json!({"sink_type": "pg-inbox", "inbox": name, "batch_size": 20});
        merge(&mut config, more);
        let tap = Tap::Inbox(InboxReader::new(url, name));
        self.add(name, outbox, config, tap).await
    }

    /// Adds a pipeline, and its outbox if that is missing.
    pub async fn add(&mut self, name: &str, outbox: &str, config: Value, tap: Tap) -> Result<()> {
        let mut connection = self.connection().await?;
        if outbox_status(&mut connection, Some(outbox))
            .await?
            .is_empty()
        {
            outbox_create(&mut connection, outbox, None).await?;
        }
        pipeline_set(&mut connection, name, outbox, &config).await?;
        self.pipelines.push(Pipeline {
            name: name.to_owned(),
            outbox: outbox.to_owned(),
            config,
            tap,
        });
        Ok(())
    }

    /// Changes a pipeline's configuration: these keys are set, those with null are taken out.
    pub async fn reconfigure(&mut self, name: &str, change: Value) -> Result<()> {
        let pipeline = self.pipeline_mut(name);
        merge(&mut pipeline.config, change);
        let Pipeline { outbox, config, .. } = pipeline.clone();
        let mut connection = self.connection().await?;
        Ok(pipeline_set(&mut connection, name, &outbox, &config).await?)
    }

    /// Says where a pipeline delivers after a change of its configuration.
    pub fn continues_in(&mut self, name: &str, tap: Tap) {
        let pipeline = self.pipeline_mut(name);
        let before = std::mem::replace(&mut pipeline.tap, Tap::Nothing);
        pipeline.tap = Tap::Then(Box::new(before), Box::new(tap));
    }

    /// Leaves a pipeline out of the judgement.
    pub fn disregard(&mut self, name: &str) {
        self.pipeline_mut(name).tap = Tap::Nothing;
    }

    /// A pipeline that was added.
    ///
    /// # Panics
    /// If it was not.
    pub fn pipeline(&self, name: &str) -> &Pipeline {
        self.pipelines
            .iter()
            .find(|pipeline| pipeline.name == name)
            .unwrap_or_else(|| panic!("no pipeline {name}"))
    }

    /// What a pipeline has delivered so far.
    pub fn deliveries(&self, name: &str) -> Result<Vec<Delivery>> {
        self.pipeline(name).tap.deliveries()
    }

    fn pipeline_mut(&mut self, name: &str) -> &mut Pipeline {
        self.pipelines
            .iter_mut()
            .find(|pipeline| pipeline.name == name)
            .unwrap_or_else(|| panic!("no pipeline {name}"))
    }
}

fn merge(config: &mut Value, change: Value) {
    if let (Some(config), Value::Object(change)) = (config.as_object_mut(), change) {
        for (key, value) in change {
            if value.is_null() {
                config.remove(&key);
            } else {
                config.insert(key, value);
            }
        }
    }
}
