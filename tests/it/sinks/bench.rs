//! A server under the suite, and what the suite does to it.

use anyhow::{Result, bail};
use serde_json::Value;
use tide_sandbox::{envelope::Delivery, leftovers::Scratch};

/// One kind of sink with a real server behind it. Places (streams, queues, topics, files) are made
/// by name, so that one server serves several facts.
pub(super) trait Bench: Sized {
    /// The word in `sink_type`.
    const KIND: &'static str;
    /// Whether it drops what it has already, so that not even a crash shows.
    const KNOWS_DUPLICATES: bool = false;

    /// Starts a server.
    async fn start(scratch: &Scratch) -> Result<Self>;

    /// What a pipeline to a place is configured with, without `sink_type`.
    fn config(&self, place: &str) -> Value;

    /// Makes a place.
    async fn create(&mut self, place: &str) -> Result<()>;

    /// Makes sure that a place cannot be delivered to until [`create`](Self::create) mends it, and
    /// returns what the pipeline must say about that.
    async fn spoil(&mut self, _place: &str) -> Result<&'static str> {
        bail!("{} has no place that could be missing", Self::KIND)
    }

    /// Everything that a place got, in its order.
    async fn deliveries(&mut self, place: &str) -> Result<Vec<Delivery>>;

    /// Takes the server away without a warning and brings it back with what it had acknowledged.
    async fn restart(&mut self) -> Result<()> {
        bail!("{} has no server", Self::KIND)
    }

    /// Lets the server keep its connections and answer nothing.
    async fn freeze(&mut self) -> Result<()> {
        bail!("{} has no server", Self::KIND)
    }

    /// Lets it go on.
    async fn thaw(&mut self) -> Result<()> {
        bail!("{} has no server", Self::KIND)
    }

    /// Prepares to refuse the message of this index, which is larger than so many bytes, and returns
    /// a word of the reason.
    async fn refuse_larger(&mut self, _: &str, _bytes: usize, _: usize) -> Result<&'static str> {
        bail!("{} refuses nothing", Self::KIND)
    }
}
