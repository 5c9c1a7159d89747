//! RabbitMQ, against rabbitmq-server. It takes seconds to start, so one serves several facts.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tide_sandbox::{brokers::RabbitMq, envelope::Delivery, leftovers::Scratch};

use super::{bench::Bench, contract};

pub(super) struct RabbitmqBench(pub(super) RabbitMq);

impl Bench for RabbitmqBench {
    const KIND: &'static str = "rabbitmq";

    async fn start(scratch: &Scratch) -> Result<Self> {
        Ok(Self(
            RabbitMq::start(scratch, "max_message_size = 1100000").await?,
        ))
    }

    fn config(&self, place: &str) -> Value {
        json!({"url": self.0.url(), "queue": place})
    }

    async fn create(&mut self, place: &str) -> Result<()> {
        Ok(self.0.declare_queue(place).await?)
    }

    async fn spoil(&mut self, _: &str) -> Result<&'static str> {
        Ok("312 NO_ROUTE: declare queue \"missing\"")
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
        ensure!(bytes == 1_100_000, "the broker takes another size");
        self.create(place).await?;
        Ok("max size 1100000")
    }
}

async fn bench() -> Result<(RabbitmqBench, Scratch)> {
    let scratch = Scratch::create("rabbitmq").await?;
    Ok((RabbitmqBench::start(&scratch).await?, scratch))
}

#[tokio::test]
async fn keeps_order_repeats_ids_and_puts_aside() -> Result<()> {
    let (mut bench, _scratch) = bench().await?;
    contract::keeps_the_order_of_every_key(&mut bench).await?;
    contract::repeats_ids_after_a_crash(&mut bench).await?;
    contract::puts_aside_what_is_refused(&mut bench).await
}

#[tokio::test]
async fn survives_a_restart_and_a_freeze() -> Result<()> {
    let (mut bench, _scratch) = bench().await?;
    contract::loses_nothing_to_a_restart(&mut bench).await?;
    contract::stops_in_time_though_the_sink_is_frozen(&mut bench).await
}

#[tokio::test]
async fn names_what_is_missing_and_who_is_not_admitted() -> Result<()> {
    let (mut bench, _scratch) = bench().await?;
    contract::names_what_is_missing_and_heals(&mut bench).await?;
    let wrong = json!({"username": "guest", "password": "0pen-sesame"});
    contract::says_that_it_cannot_log_in(&mut bench, wrong, "0pen-sesame", "check username")
        .await?;
    // An exchange that does not exist, and a queue that is not bound to one that does.
    let exchange = json!({"queue": null, "exchange": "shop", "routing_key": "order"});
    let server = &bench.0;
    let steps = async |step: usize| match step {
        0 => Ok("declare exchange \"shop\""),
        1 => {
            server.declare_exchange("shop").await?;
            Ok("bind a queue to exchange \"shop\" for routing key \"order\"")
        }
        _ => {
            server.declare_queue("orders").await?;
            server.bind("orders", "shop", "order").await?;
            Ok("")
        }
    };
    let config = json!({"url": server.url(), "queue": "unused"});
    contract::heals_step_by_step::<RabbitmqBench>(config, exchange, steps).await?;
    ensure!(bench.deliveries("orders").await?.len() == 5);
    Ok(())
}
