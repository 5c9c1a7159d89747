//! Counts and discards; for measuring everything else.

use super::{Batch, Context, Sink, SinkError};

pub(crate) struct NullSink;

impl Sink for NullSink {
    const KIND: &'static str = "null";
    type Settings = ();

    async fn open((): &(), _: &Context) -> Result<Self, SinkError> {
        Ok(Self)
    }

    async fn deliver(&mut self, context: &Context, _: &Batch<'_>) -> Result<(), SinkError> {
        context.may_publish()
    }
}
