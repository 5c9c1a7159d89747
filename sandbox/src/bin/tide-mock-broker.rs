//! A mock Kafka broker as a process: `tide-mock-broker orders:4 payments`.
//!
//! Each argument is a topic with its number of partitions. It says `ready <bootstrap>` and stays
//! until SIGTERM or SIGINT.

use anyhow::Context as _;
use tide_sandbox::kafka::{Topic, serve_mock_broker};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let topics: Result<Vec<Topic>, _> = std::env::args().skip(1).map(|text| text.parse()).collect();
    let topics = topics.context("usage: tide-mock-broker [TOPIC[:PARTITIONS]]...")?;
    serve_mock_broker(&topics)
        .await
        .context("mock broker failed")
}
