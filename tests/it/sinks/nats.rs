//! NATS JetStream, against nats-server.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tide_sandbox::{brokers::Nats, envelope::Delivery, leftovers::Scratch};

use super::{bench::Bench, contract};

pub(super) struct NatsBench(pub(super) Nats);

impl Bench for NatsBench {
    const KIND: &'static str = "nats";
    const KNOWS_DUPLICATES: bool = true;

    async fn start(scratch: &Scratch) -> Result<Self> {
        // The server's own limit is larger than what a stream is made to refuse.
        Ok(Self(
            Nats::start_with(scratch, None, "max_payload: 8MB").await?,
        ))
    }

    fn config(&self, place: &str) -> Value {
        json!({"url": self.0.url(), "subject": place})
    }

    async fn create(&mut self, place: &str) -> Result<()> {
        Ok(self.0.create_stream(place).await?)
    }

    async fn spoil(&mut self, _: &str) -> Result<&'static str> {
        Ok("no stream takes subject missing; create one: nats stream add")
    }

    async fn deliveries(&mut self, place: &str) -> Result<Vec<Delivery>> {
        Ok(self.0.deliveries(place).await?)
    }

    async fn restart(&mut self) -> Result<()> {
        Ok(self.0.restart().await?)
    }

    async fn freeze(&mut self) -> Result<()> {
        Ok(self.0.broker().process().freeze()?)
    }

    async fn thaw(&mut self) -> Result<()> {
        Ok(self.0.broker().process().thaw()?)
    }

    async fn refuse_larger(&mut self, place: &str, bytes: usize, _: usize) -> Result<&'static str> {
        self.0.create_stream_with(place, bytes as i32).await?;
        Ok("max_msg_size")
    }
}

async fn bench() -> Result<(NatsBench, Scratch)> {
    let scratch = Scratch::create("nats").await?;
    Ok((NatsBench::start(&scratch).await?, scratch))
}

#[tokio::test]
async fn keeps_the_order_of_every_key() -> Result<()> {
    contract::keeps_the_order_of_every_key(&mut bench().await?.0).await
}

#[tokio::test]
async fn drops_what_it_has_after_a_crash() -> Result<()> {
    contract::repeats_ids_after_a_crash(&mut bench().await?.0).await
}

#[tokio::test]
async fn puts_aside_what_is_larger_than_the_stream_takes() -> Result<()> {
    contract::puts_aside_what_is_refused(&mut bench().await?.0).await
}

#[tokio::test]
async fn loses_nothing_to_a_restart() -> Result<()> {
    contract::loses_nothing_to_a_restart(&mut bench().await?.0).await
}

#[tokio::test]
async fn stops_in_time_though_the_server_is_frozen() -> Result<()> {
    contract::stops_in_time_though_the_sink_is_frozen(&mut bench().await?.0).await
}

#[tokio::test]
async fn names_the_missing_stream_and_heals() -> Result<()> {
    contract::names_what_is_missing_and_heals(&mut bench().await?.0).await
}

#[tokio::test]
async fn says_that_it_cannot_log_in_and_logs_in() -> Result<()> {
    let scratch = Scratch::create("nats").await?;
    let server = Nats::start_with(&scratch, Some(("tide", "s3cret")), "").await?;
    let mut bench = NatsBench(server);
    let wrong = json!({"username": "tide", "password": "0pen-sesame"});
    contract::says_that_it_cannot_log_in(&mut bench, wrong, "0pen-sesame", "check username")
        .await?;
    bench.create("denied").await?;
    let right = json!({"username": "tide", "password": "s3cret"});
    contract::logs_in(&mut bench, right).await
}

#[tokio::test]
async fn two_pipelines_into_one_stream_do_not_take_each_other_for_duplicates() -> Result<()> {
    let (mut bench, _scratch) = bench().await?;
    bench.create("shared").await?;
    let arrived = contract::two_pipelines_into_one_place(&mut bench, "shared").await?;
    let of = |pipeline| {
        let theirs = arrived
            .iter()
            .filter(move |delivery| delivery.envelope.pipeline() == Some(pipeline));
        theirs.count()
    };
    ensure!((of("first"), of("second")) == (10, 10), "{arrived:?}");
    Ok(())
}
