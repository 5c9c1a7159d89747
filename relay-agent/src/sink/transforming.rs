//! Delivers what the pipeline's transforms make of each message.
//!
//! A message that they keep from the sink is done when everything before it is: no position passes
//! it earlier, and none waits for it. The messages themselves stay as they are in the outbox, so a
//! redelivery transforms them again, and a dead letter is the message that was published.

use std::borrow::Cow;

use tide_catalog::messages::Message;
use tide_model::{Transforms, transform::Outcome};

use super::{Batch, Context, Sink, SinkError, envelope, routing};

/// After so many messages others have their turn, and whoever wants to drop the delivery.
const TURN: usize = 64;

/// Delivers a batch, through the pipeline's transforms if it has some.
pub(crate) async fn deliver<S: Sink>(
    sink: &mut S,
    context: &Context,
    batch: &Batch<'_>,
) -> Result<(), SinkError> {
    let Some(transforms) = &context.transforms else {
        return routing::deliver(sink, context, batch).await;
    };
    // Boxed, so that the others' futures are not larger for it.
    Box::pin(deliver_transformed(sink, context, batch, transforms)).await
}

/// A message that the transforms fail on is refused when its turn has come: what is before it is
/// delivered first.
async fn deliver_transformed<S: Sink>(
    sink: &mut S,
    context: &Context,
    batch: &Batch<'_>,
    transforms: &Transforms,
) -> Result<(), SinkError> {
    let mut kept = Vec::with_capacity(batch.messages.len());
    let mut done = Vec::with_capacity(batch.messages.len() + 1);
    let mut refused = None;
    for (index, message) in batch.messages.iter().enumerate() {
        if index % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        match transforms.apply(&envelope::event(message), &context.outbox) {
            Ok(Outcome::Kept { payload, headers }) => {
                kept.push(changed(message, payload, headers));
                done.push(index);
            }
            Ok(Outcome::FilteredOut) => {}
            Err(problem) => {
                refused = Some((index, SinkError::rejected(problem)));
                break;
            }
        }
    }
    let end = refused
        .as_ref()
        .map_or(batch.messages.len(), |(index, _)| *index);
    done.push(end);
    batch.progress.leaves_out(done);
    if !kept.is_empty() {
        let part = Batch {
            messages: &kept,
            ..*batch
        };
        routing::deliver(sink, context, &part)
            .await
            .map_err(|error| {
                let delivered = error.delivered();
                error.after(batch.progress.done_after(delivered) - delivered)
            })?;
    }
    refused.map_or(Ok(()), |(index, error)| Err(error.after(index)))
}

fn changed(message: &Message, payload: Cow<'_, str>, headers: Cow<'_, str>) -> Message {
    Message {
        id: message.id,
        event_id: message.event_id,
        key: message.key.clone(),
        payload: payload.into_owned(),
        headers: headers.into_owned(),
        created_at: message.created_at,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;
    use tide_model::PipelineSpec;

    use super::*;
    use crate::sink::Progress;

    /// Takes so many messages, says how far it is, and refuses or fails.
    struct Counting {
        got: Vec<String>,
        most: usize,
    }

    impl Sink for Counting {
        const KIND: &'static str = "counting";
        type Settings = ();

        async fn open((): &(), _: &Context) -> Result<Self, SinkError> {
            Err(SinkError::misconfigured("never opened"))
        }

        async fn deliver(&mut self, _: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
            for (index, message) in batch.messages.iter().enumerate() {
                if self.got.len() == self.most {
                    return Err(SinkError::transient("full").after(index));
                }
                self.got.push(message.payload.clone());
                batch.progress.reached(index + 1);
            }
            Ok(())
        }
    }

    fn context() -> Context {
        let config = json!({"sink_type": "null", "transforms": [
            {"filter": "payload.keep"},
            {"drop": ["payload.keep"]},
        ]});
        let spec = PipelineSpec::parse("p".parse().unwrap(), "o".to_owned(), &config).unwrap();
        Context {
            transforms: spec.transforms.map(Arc::new),
            ..Context::example("orders")
        }
    }

    /// What is known after a batch: `k`ept, `f`iltered out, or a message that the filter `x` fails on.
    struct Known {
        got: Vec<String>,
        outcome: Result<(), SinkError>,
        progress: Progress,
    }

    fn delivered(messages: &str, most: usize) -> Known {
        let messages: Vec<Message> = (1..)
            .zip(messages.chars())
            .map(|(id, kind)| Message {
                id,
                event_id: uuid::Uuid::nil(),
                key: None,
                payload: match kind {
                    'k' => format!(r#"{{"id": {id}, "keep": true}}"#),
                    'f' => r#"{"keep": false}"#.to_owned(),
                    _ => "{}".to_owned(),
                },
                headers: "{}".to_owned(),
                created_at: time::OffsetDateTime::UNIX_EPOCH,
            })
            .collect();
        let progress = Progress::default();
        let batch = Batch {
            messages: &messages,
            routes: &[],
            progress: &progress,
            place: None,
        };
        let mut sink = Counting {
            got: Vec::new(),
            most,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let outcome = runtime.block_on(deliver(&mut sink, &context(), &batch));
        Known {
            got: sink.got,
            outcome,
            progress,
        }
    }

    #[test]
    fn the_sink_gets_what_is_kept_as_it_was_made() {
        let known = delivered("fkfkf", 9);
        assert_eq!(known.outcome, Ok(()));
        assert_eq!(known.got, [r#"{"id": 2}"#, r#"{"id": 4}"#]);
        assert_eq!(known.progress.delivered(), 5);
        assert_eq!((known.progress.sent(5), known.progress.spared(5)), (2, 3));
    }

    #[test]
    fn what_fails_is_refused_after_what_is_before_it() {
        let known = delivered("fkxk", 9);
        let Err(SinkError::Rejected {
            delivered: 2,
            reason,
        }) = &known.outcome
        else {
            panic!("{:?}", known.outcome);
        };
        assert!(
            reason.starts_with("transforms[0].filter: keep is missing"),
            "{reason}"
        );
        assert_eq!((known.got.len(), known.progress.delivered()), (1, 2));
        // First of all, the sink is not asked.
        let known = delivered("ffx", 0);
        assert!(matches!(
            known.outcome,
            Err(SinkError::Rejected { delivered: 2, .. })
        ));
        // And a failure before it comes first.
        let known = delivered("kfx", 0);
        assert!(matches!(
            known.outcome,
            Err(SinkError::Transient { delivered: 0, .. })
        ));
    }

    #[test]
    fn nothing_for_the_sink_is_nothing_to_ask_it() {
        let known = delivered("fff", 0);
        assert_eq!(known.outcome, Ok(()));
        assert_eq!((known.progress.sent(3), known.progress.spared(3)), (0, 3));
    }

    proptest! {
        /// The first message that is not done is one that the sink did not take, or that failed.
        #[test]
        fn positions_are_those_of_the_outbox(messages in "[kfx]{1,150}", most in 0..100_usize) {
            let Known { got, outcome, progress } = delivered(&messages, most);
            let done = outcome.as_ref().map_or_else(SinkError::delivered, |()| messages.len());
            let kinds: Vec<char> = messages.chars().collect();
            let kept = kinds[..done].iter().filter(|kind| **kind == 'k').count();
            prop_assert_eq!(got.len(), kept);
            prop_assert_eq!(progress.sent(done), kept);
            prop_assert!(!kinds[..done].contains(&'x'));
            match &outcome {
                Ok(()) => prop_assert_eq!(done, kinds.len()),
                Err(SinkError::Rejected { .. }) => prop_assert_eq!(kinds[done], 'x'),
                Err(_) => prop_assert!(kinds[done] == 'k' && kept == most),
            }
            // A delivery that is dropped at its end would know the same.
            prop_assert_eq!(progress.delivered(), done);
        }
    }
}
