//! Redis Streams, against redis-server.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tide_sandbox::{
    brokers::{Redis, RedisOptions},
    envelope::Delivery,
    leftovers::Scratch,
};

use super::{bench::Bench, contract};

pub(super) struct RedisBench(pub(super) Redis);

impl Bench for RedisBench {
    const KIND: &'static str = "redis";
    const KNOWS_DUPLICATES: bool = true;

    async fn start(scratch: &Scratch) -> Result<Self> {
        // The least that it can be told to take.
        let arguments = ["--proto-max-bulk-len", "1mb"].map(ToOwned::to_owned);
        let options = RedisOptions {
            arguments: arguments.into(),
            ..RedisOptions::default()
        };
        Ok(Self(Redis::start(scratch, options).await?))
    }

    fn config(&self, place: &str) -> Value {
        json!({"url": self.0.url(), "stream": place})
    }

    /// Streams make themselves; what is in their way goes.
    async fn create(&mut self, place: &str) -> Result<()> {
        Ok(self.0.command(&["DEL", place]).await?)
    }

    async fn spoil(&mut self, place: &str) -> Result<&'static str> {
        self.0.command::<()>(&["SET", place, "no stream"]).await?;
        Ok("key missing is no stream: WRONGTYPE the key holds a string")
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

    async fn refuse_larger(&mut self, _: &str, bytes: usize, _: usize) -> Result<&'static str> {
        ensure!(bytes > 1 << 20, "the server takes as much");
        Ok("proto-max-bulk-len, 1048576")
    }
}

async fn bench() -> Result<(RedisBench, Scratch)> {
    let scratch = Scratch::create("redis").await?;
    Ok((RedisBench::start(&scratch).await?, scratch))
}

#[tokio::test]
async fn keeps_the_order_of_every_key() -> Result<()> {
    contract::keeps_the_order_of_every_key(&mut bench().await?.0).await
}

#[tokio::test]
async fn appends_nothing_again_after_a_crash() -> Result<()> {
    contract::repeats_ids_after_a_crash(&mut bench().await?.0).await
}

#[tokio::test]
async fn puts_aside_what_is_larger_than_the_server_takes() -> Result<()> {
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
async fn names_a_key_of_another_type_and_heals() -> Result<()> {
    contract::names_what_is_missing_and_heals(&mut bench().await?.0).await
}

#[tokio::test]
async fn says_that_it_cannot_log_in_and_logs_in() -> Result<()> {
    let scratch = Scratch::create("redis").await?;
    let options = RedisOptions {
        password: Some("s3cret".to_owned()),
        ..RedisOptions::default()
    };
    let mut bench = RedisBench(Redis::start(&scratch, options).await?);
    let wrong = json!({"password": "0pen-sesame"});
    contract::says_that_it_cannot_log_in(&mut bench, wrong, "0pen-sesame", "check username")
        .await?;
    contract::logs_in(&mut bench, json!({"password": "s3cret"})).await
}

#[tokio::test]
async fn two_pipelines_into_one_stream_do_not_take_each_other_for_duplicates() -> Result<()> {
    let (mut bench, _scratch) = bench().await?;
    let arrived = contract::two_pipelines_into_one_place(&mut bench, "shared").await?;
    ensure!(arrived.len() == 20, "{arrived:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_remembered_goes_with_the_stream_and_with_the_window() -> Result<()> {
    // GIVEN a stream that was removed WHEN the same is delivered again THEN it is appended again
    let (mut bench, _scratch) = bench().await?;
    contract::delivers_again_after(&mut bench, json!({}), async |bench, place| {
        bench.create(place).await
    })
    .await?;
    // GIVEN a pipeline that remembers nothing THEN what is delivered again is there twice
    let forgetful = json!({"duplicate_window_ms": 0});
    let arrived =
        contract::delivers_again_after(&mut bench, forgetful, async |_, _| Ok(())).await?;
    ensure!(arrived.len() == 20, "{}", arrived.len());
    Ok(())
}

#[tokio::test]
async fn a_stream_keeps_about_as_many_entries_as_it_may() -> Result<()> {
    // GIVEN a stream of about a hundred entries, which Redis cuts in blocks of as many
    let (mut bench, _scratch) = bench().await?;
    let short = json!({"max_length": 100});
    let arrived = contract::last_of_many(&mut bench, short, 1_000).await?;
    // THEN it holds about that, and the last
    ensure!((100..300).contains(&arrived.len()), "{}", arrived.len());
    ensure!(arrived.last().is_some_and(|last| last.envelope.id == 1_000));
    Ok(())
}
