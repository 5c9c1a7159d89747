//! Delivers to where each message says, if the pipeline's destination is a template.

use super::{Batch, Context, Sink, SinkError, envelope};

/// Delivers a batch. A message that names no valid destination is refused when its turn has come:
/// what is before it is delivered first.
pub(crate) async fn deliver<S: Sink>(
    sink: &mut S,
    context: &Context,
    batch: &Batch<'_>,
) -> Result<(), SinkError> {
    let Some(route) = &context.route else {
        return sink.deliver(context, batch).await;
    };
    let mut routes = Vec::with_capacity(batch.messages.len());
    let mut refused = None;
    for message in batch.messages {
        match route.resolve(&envelope::event(message), &context.outbox) {
            Ok(destination) => routes.push(destination),
            Err(problem) => {
                refused = Some(SinkError::rejected(problem));
                break;
            }
        }
    }
    if !routes.is_empty() {
        let part = Batch {
            messages: &batch.messages[..routes.len()],
            routes: &routes,
            ..*batch
        };
        sink.deliver(context, &part).await?;
    }
    refused.map_or(Ok(()), |error| Err(error.after(routes.len())))
}

#[cfg(test)]
mod tests {
    use tide_catalog::messages::Message;
    use tide_model::PipelineSpec;

    use super::*;
    use crate::sink::Progress;

    /// Notes what it got where, and takes so many messages.
    struct Noting {
        got: Vec<(String, i64)>,
        most: usize,
    }

    impl Sink for Noting {
        const KIND: &'static str = "noting";
        type Settings = ();

        async fn open((): &(), _: &Context) -> Result<Self, SinkError> {
            Err(SinkError::misconfigured("never opened"))
        }

        async fn deliver(&mut self, _: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
            for (index, message) in batch.messages.iter().enumerate() {
                if self.got.len() == self.most {
                    return Err(SinkError::transient("full").after(index));
                }
                self.got
                    .push((batch.route(index).unwrap_or("fixed").to_owned(), message.id));
            }
            Ok(())
        }
    }

    fn context(topic: &str) -> Context {
        let config = serde_json::json!({"sink_type": "kafka", "brokers": "k", "topic": topic});
        let spec = PipelineSpec::parse("p".parse().unwrap(), "o".to_owned(), &config).unwrap();
        Context {
            route: spec.route,
            ..Context::example("orders")
        }
    }

    async fn delivered(topic: &str, keys: &[&str], most: usize) -> (Noting, Result<(), SinkError>) {
        let messages: Vec<Message> = (1..)
            .zip(keys)
            .map(|(id, key)| Message {
                id,
                event_id: uuid::Uuid::nil(),
                key: (!key.is_empty()).then(|| (*key).to_owned()),
                payload: "1".to_owned(),
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
        let mut sink = Noting {
            got: Vec::new(),
            most,
        };
        let outcome = deliver(&mut sink, &context(topic), &batch).await;
        (sink, outcome)
    }

    #[tokio::test]
    async fn each_message_goes_where_it_says() {
        let (sink, outcome) = delivered("t-{{ key }}", &["a", "b", "a"], 9).await;
        assert_eq!(outcome, Ok(()));
        let got = [("t-a", 1), ("t-b", 2), ("t-a", 3)].map(|(to, id)| (to.to_owned(), id));
        assert_eq!(sink.got, got);
        let (sink, _) = delivered("t", &["a"], 9).await;
        assert_eq!(sink.got, [("fixed".to_owned(), 1)]);
    }

    #[tokio::test]
    async fn what_names_no_destination_is_refused_after_what_is_before_it() {
        let (sink, outcome) = delivered("t-{{ key }}", &["a", "", "b"], 9).await;
        assert_eq!(sink.got.len(), 1);
        assert!(matches!(
            outcome,
            Err(SinkError::Rejected { delivered: 1, reason }) if reason.starts_with("topic: key is missing")
        ));
        // First of all, the sink is not asked.
        let (sink, outcome) = delivered("t-{{ key }}", &["a b", "c"], 9).await;
        assert!(sink.got.is_empty());
        assert!(matches!(
            outcome,
            Err(SinkError::Rejected { delivered: 0, .. })
        ));
    }

    #[tokio::test]
    async fn a_failure_before_it_comes_first() {
        let (_, outcome) = delivered("t-{{ key }}", &["a", "b", ""], 1).await;
        assert!(matches!(
            outcome,
            Err(SinkError::Transient { delivered: 1, .. })
        ));
    }
}
