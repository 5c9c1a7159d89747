//! Files.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};
use tide_sandbox::{envelope::Delivery, files::FileReader, leftovers::Scratch};

use super::{bench::Bench, contract};

struct FileBench(PathBuf);

impl FileBench {
    fn path(&self, place: &str) -> PathBuf {
        self.0.join(place).join("out.jsonl")
    }
}

impl Bench for FileBench {
    const KIND: &'static str = "file";

    async fn start(scratch: &Scratch) -> Result<Self> {
        Ok(Self(scratch.path().to_owned()))
    }

    fn config(&self, place: &str) -> Value {
        json!({"path": self.path(place)})
    }

    async fn create(&mut self, place: &str) -> Result<()> {
        Ok(std::fs::create_dir(self.0.join(place))?)
    }

    async fn spoil(&mut self, _: &str) -> Result<&'static str> {
        Ok("No such file or directory")
    }

    async fn deliveries(&mut self, place: &str) -> Result<Vec<Delivery>> {
        Ok(FileReader::new(self.path(place)).records()?)
    }
}

async fn bench() -> Result<(FileBench, Scratch)> {
    let scratch = Scratch::create("files").await?;
    Ok((FileBench::start(&scratch).await?, scratch))
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
async fn names_the_missing_directory_and_heals() -> Result<()> {
    contract::names_what_is_missing_and_heals(&mut bench().await?.0).await
}
