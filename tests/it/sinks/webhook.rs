//! HTTP, against an endpoint that answers as it is told.

use anyhow::Result;
use serde_json::{Value, json};
use tide_sandbox::{
    envelope::Delivery,
    http::{Behaviour, Receiver},
    leftovers::Scratch,
};

use super::{bench::Bench, contract};

struct WebhookBench(Receiver);

fn path(place: &str) -> String {
    format!("/{place}")
}

impl Bench for WebhookBench {
    const KIND: &'static str = "webhook";

    async fn start(_: &Scratch) -> Result<Self> {
        Ok(Self(Receiver::start().await?))
    }

    fn config(&self, place: &str) -> Value {
        json!({"url": self.0.url(&path(place)), "allow_networks": ["127.0.0.1"]})
    }

    async fn create(&mut self, place: &str) -> Result<()> {
        self.0.by_default(&path(place), Behaviour::Respond(200));
        Ok(())
    }

    async fn spoil(&mut self, place: &str) -> Result<&'static str> {
        self.0.by_default(&path(place), Behaviour::Respond(404));
        Ok("HTTP 404")
    }

    async fn deliveries(&mut self, place: &str) -> Result<Vec<Delivery>> {
        Ok(self.0.deliveries(&path(place)))
    }

    /// The answers of three requests get lost, each after it was accepted.
    async fn restart(&mut self) -> Result<()> {
        self.0.script("/restarted", [Behaviour::FailAfterAccept; 3]);
        Ok(())
    }

    async fn freeze(&mut self) -> Result<()> {
        self.0.by_default("/frozen", Behaviour::Hang);
        Ok(())
    }

    async fn thaw(&mut self) -> Result<()> {
        self.0.by_default("/frozen", Behaviour::Respond(200));
        self.0.release();
        Ok(())
    }

    async fn refuse_larger(&mut self, place: &str, _: usize, index: usize) -> Result<&'static str> {
        let answers = std::iter::repeat_n(200, index).chain([413]);
        self.0.script(&path(place), answers.map(Behaviour::Respond));
        Ok("HTTP 413")
    }
}

async fn bench() -> Result<(WebhookBench, Scratch)> {
    let scratch = Scratch::create("webhook").await?;
    Ok((WebhookBench::start(&scratch).await?, scratch))
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
async fn puts_aside_what_the_receiver_refuses() -> Result<()> {
    contract::puts_aside_what_is_refused(&mut bench().await?.0).await
}

#[tokio::test]
async fn loses_nothing_when_answers_get_lost() -> Result<()> {
    contract::loses_nothing_to_a_restart(&mut bench().await?.0).await
}

#[tokio::test]
async fn stops_in_time_though_the_receiver_hangs() -> Result<()> {
    contract::stops_in_time_though_the_sink_is_frozen(&mut bench().await?.0).await
}

#[tokio::test]
async fn names_the_missing_page_and_heals() -> Result<()> {
    contract::names_what_is_missing_and_heals(&mut bench().await?.0).await
}
