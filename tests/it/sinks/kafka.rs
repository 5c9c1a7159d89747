//! Kafka, against librdkafka's mock broker: no real one can be had.

use anyhow::Result;
use serde_json::{Value, json};
use tide_sandbox::{
    envelope::Delivery,
    kafka::{MockKafka, Topic, TopicReader},
    leftovers::Scratch,
};

use super::{bench::Bench, contract};

struct KafkaBench {
    kafka: MockKafka,
    reader: TopicReader,
}

const TOPICS: [&str; 5] = ["ordered", "crashed", "restarted", "frozen", "missing"];

impl Bench for KafkaBench {
    const KIND: &'static str = "kafka";

    async fn start(_: &Scratch) -> Result<Self> {
        let topics = TOPICS.map(|name| Topic::new(name, 4));
        let kafka = MockKafka::start(&topics)?;
        // The mock forgets what it had long ago: read from the beginning.
        let reader = TopicReader::start(&kafka.bootstrap(), &TOPICS).await?;
        Ok(Self { kafka, reader })
    }

    fn config(&self, place: &str) -> Value {
        json!({"brokers": self.kafka.bootstrap(), "topic": place})
    }

    async fn create(&mut self, place: &str) -> Result<()> {
        Ok(self.kafka.hide(place, false)?)
    }

    async fn spoil(&mut self, place: &str) -> Result<&'static str> {
        self.kafka.hide(place, true)?;
        Ok("Unknown topic or partition")
    }

    async fn deliveries(&mut self, place: &str) -> Result<Vec<Delivery>> {
        Ok(self.reader.records_of(place)?)
    }

    async fn restart(&mut self) -> Result<()> {
        self.kafka.down()?;
        Ok(self.kafka.up()?)
    }

    async fn freeze(&mut self) -> Result<()> {
        Ok(self.kafka.down()?)
    }

    async fn thaw(&mut self) -> Result<()> {
        Ok(self.kafka.up()?)
    }
}

async fn bench() -> Result<(KafkaBench, Scratch)> {
    let scratch = Scratch::create("kafka").await?;
    Ok((KafkaBench::start(&scratch).await?, scratch))
}

#[tokio::test]
async fn keeps_the_order_of_every_key() -> Result<()> {
    contract::keeps_the_order_of_every_key(&mut bench().await?.0).await
}

#[tokio::test]
async fn repeats_ids_after_a_crash() -> Result<()> {
    contract::repeats_ids_after_a_crash(&mut bench().await?.0).await
}

#[tokio::test]
async fn loses_nothing_to_a_restart() -> Result<()> {
    contract::loses_nothing_to_a_restart(&mut bench().await?.0).await
}

#[tokio::test]
async fn stops_in_time_though_no_broker_answers() -> Result<()> {
    contract::stops_in_time_though_the_sink_is_frozen(&mut bench().await?.0).await
}

#[tokio::test]
async fn names_the_missing_topic_and_heals() -> Result<()> {
    contract::names_what_is_missing_and_heals(&mut bench().await?.0).await
}
