//! What has arrived at the sinks so far, counted as it arrives.

use std::collections::{BTreeMap, HashMap, HashSet};

use tide_model::UnitName;
use tide_sandbox::envelope::Envelope;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::commands::dev::pipelines::Plan;

/// Everything that arrived so far.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    pipelines: HashMap<UnitName, Seen>,
    /// Why nothing more is seen.
    pub(super) failure: Option<String>,
}

/// What arrived from one pipeline.
#[derive(Debug, Default)]
struct Seen {
    deliveries: usize,
    /// First arrival under each epoch.
    epochs: BTreeMap<i64, OffsetDateTime>,
    messages: HashSet<Uuid>,
    stamps: Vec<OffsetDateTime>,
}

impl Arrivals {
    /// Deliveries of all pipelines, repeated ones included.
    pub(super) fn total(&self) -> usize {
        self.pipelines.values().map(|seen| seen.deliveries).sum()
    }

    /// When a pipeline first delivered under a higher epoch than this.
    pub(super) fn first_after(&self, pipeline: &UnitName, epoch: i64) -> Option<OffsetDateTime> {
        let seen = self.pipelines.get(pipeline)?;
        seen.epochs.range(epoch + 1..).map(|(_, at)| *at).min()
    }

    /// Takes one more delivery into account.
    pub(super) fn note(&mut self, pipeline: &UnitName, envelope: &Envelope, at: OffsetDateTime) {
        if !self.pipelines.contains_key(pipeline) {
            self.pipelines.insert(pipeline.clone(), Seen::default());
        }
        let Some(seen) = self.pipelines.get_mut(pipeline) else {
            return;
        };
        seen.deliveries += 1;
        seen.messages.insert(envelope.event_id);
        seen.stamps.push(at);
        if let Some(epoch) = envelope.epoch() {
            seen.epochs.entry(epoch).or_insert(at);
        }
    }

    /// When each delivery of a pipeline arrived, in the order of arrival.
    pub(super) fn stamps(&self, pipeline: &UnitName) -> &[OffsetDateTime] {
        self.pipelines
            .get(pipeline)
            .map_or(&[], |seen| &seen.stamps)
    }

    /// How many messages each pipeline still lacks; `published` counts those of each outbox.
    pub(super) fn missing(
        &self,
        plans: &[Plan],
        published: &HashMap<String, usize>,
    ) -> Vec<(UnitName, usize)> {
        let readable = plans.iter().filter(|plan| plan.can_be_read_back());
        let lacking = readable.filter_map(|plan| {
            let wanted = published.get(plan.outbox).copied().unwrap_or(0);
            let seen = self.pipelines.get(&plan.name);
            let count = wanted.saturating_sub(seen.map_or(0, |seen| seen.messages.len()));
            (count > 0).then(|| (plan.name.clone(), count))
        });
        lacking.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::commands::dev::pipelines::plans;

    const LINE: &str = r#"{"event_id":"6c1f7c0a-4f5c-4b59-9d57-3a3c9f7f9f10","outbox":"orders","id":1,"key":null,"headers":{"tide-epoch":"7"},"payload":1,"created_at":"2026-11-21T10:00:00Z"}"#;

    #[test]
    fn the_first_arrival_under_a_later_epoch_is_known() {
        let pipeline: UnitName = "orders-to-file".parse().unwrap();
        let envelope = Envelope::parse(LINE.as_bytes()).unwrap();
        let mut arrivals = Arrivals::default();
        let early = OffsetDateTime::UNIX_EPOCH;
        arrivals.note(&pipeline, &envelope, early);
        arrivals.note(&pipeline, &envelope, early + time::Duration::SECOND);
        assert_eq!(arrivals.first_after(&pipeline, 6), Some(early));
        assert_eq!(arrivals.first_after(&pipeline, 7), None);
    }

    #[test]
    fn what_arrived_twice_is_missing_once_more() {
        let plans = plans("", Path::new("/"));
        let plans: Vec<Plan> = plans
            .into_iter()
            .filter(|plan| plan.outbox == "orders")
            .collect();
        let pipeline = &plans[0].name;
        let envelope = Envelope::parse(LINE.as_bytes()).unwrap();
        let mut arrivals = Arrivals::default();
        for _ in 0..2 {
            arrivals.note(pipeline, &envelope, OffsetDateTime::UNIX_EPOCH);
        }
        let published = HashMap::from([("orders".to_owned(), 2)]);
        let missing = arrivals.missing(&plans, &published);
        assert_eq!(missing[0], (pipeline.clone(), 1));
        assert_eq!(missing.len(), plans.len());
    }
}
