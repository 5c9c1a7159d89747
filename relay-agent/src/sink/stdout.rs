//! JSON lines on standard output. The agent's own log goes to standard error.

use std::io::{self, Write};

use tokio::task::block_in_place;

use super::{Batch, Context, Sink, SinkError, envelope};

#[derive(Default)]
pub(crate) struct StdoutSink {
    buffer: Vec<u8>,
}

impl Sink for StdoutSink {
    const KIND: &'static str = "stdout";
    type Settings = ();

    async fn open((): &(), _: &Context) -> Result<Self, SinkError> {
        Ok(Self::default())
    }

    async fn deliver(&mut self, context: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
        self.buffer.clear();
        for message in batch.messages {
            envelope::write(&mut self.buffer, context, message);
            self.buffer.push(b'\n');
        }
        // Written in place: a write that was handed to another thread could not be taken back.
        block_in_place(|| {
            let mut out = io::stdout().lock();
            context.may_publish()?;
            out.write_all(&self.buffer)
                .and_then(|()| out.flush())
                .map_err(|error| SinkError::transient(format!("standard output: {error}")))
        })
    }
}
