//! Who owned a pipeline under which epoch, from when to when, and what happened to it meanwhile.

use std::collections::{BTreeMap, HashMap};

use time::OffsetDateTime;

use super::{Cause, Disturbance, Explanation, PositionChange, Reach};

/// The time of one owner under one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    /// The agent.
    pub owner: String,
    /// When it claimed the pipeline.
    pub from: OffsetDateTime,
    /// When the next one did, or the pipeline was deleted; `None` if nobody did.
    pub until: Option<OffsetDateTime>,
}

/// What was done to an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excuse {
    /// The last of it.
    pub(super) why: Explanation,
    /// How much of it there was.
    pub(super) times: usize,
    /// Whether there was anything that it could not see coming by its own clock.
    pub(super) surprised: bool,
}

/// Every tenure of every pipeline, and of every shard of one. Epochs are drawn from one sequence, so
/// one names its shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenures(HashMap<String, BTreeMap<i64, Tenure>>);

impl Tenures {
    /// Reads them off the writes of positions: a claim is the first under its epoch.
    pub fn of(changes: &[PositionChange]) -> Self {
        let mut tenures: HashMap<String, BTreeMap<i64, Tenure>> = HashMap::new();
        for change in changes {
            let known = tenures.entry(change.pipeline.clone()).or_default();
            let epoch = change.after.as_ref().map(|position| position.epoch);
            if epoch.is_some_and(|epoch| known.contains_key(&epoch)) {
                continue;
            }
            if let Some(mut last) = known.last_entry() {
                last.get_mut().until.get_or_insert(change.at);
            }
            if let Some(position) = &change.after {
                let tenure = Tenure {
                    owner: position.owner.clone(),
                    from: change.at,
                    until: None,
                };
                known.insert(position.epoch, tenure);
            }
        }
        Self(tenures)
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    fn get(&self, pipeline: &str, epoch: i64) -> Option<&Tenure> {
        let is_part = |unit: &str| {
            unit.strip_prefix(pipeline)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
        };
        self.0
            .iter()
            .filter(|(unit, _)| is_part(unit))
            .find_map(|(_, tenures)| tenures.get(&epoch))
    }

    /// The disturbances that fell into a tenure.
    fn disturbances<'a>(
        &'a self,
        all: &'a [Disturbance],
        pipeline: &'a str,
        epoch: i64,
    ) -> impl Iterator<Item = &'a Disturbance> {
        let tenure = self.get(pipeline, epoch);
        all.iter()
            .filter(move |one| tenure.is_some_and(|tenure| tenure.is_disturbed_by(pipeline, one)))
    }

    /// Why a tenure may have ended otherwise than it should.
    pub(super) fn excuse(&self, all: &[Disturbance], pipeline: &str, epoch: Option<i64>) -> Excuse {
        let found: Vec<&Disturbance> = epoch
            .map(|epoch| self.disturbances(all, pipeline, epoch).collect())
            .unwrap_or_default();
        let why = found.iter().max_by_key(|one| one.from);
        Excuse {
            why: why.map_or(Explanation::Unexplained, |one| {
                Explanation::Because(one.cause)
            }),
            times: found.len(),
            surprised: found.iter().any(|one| one.cause != Cause::Partition),
        }
    }
}

impl Tenure {
    fn is_disturbed_by(&self, pipeline: &str, disturbance: &Disturbance) -> bool {
        let reached = match &disturbance.reach {
            Reach::All => true,
            Reach::Only(pipelines) => pipelines.contains(pipeline),
            Reach::Agent(agent) => *agent == self.owner,
        };
        let began_before_its_end = self.until.is_none_or(|until| disturbance.from <= until);
        reached && began_before_its_end && self.from <= disturbance.until
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;
    use crate::history::Position;

    fn second(number: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::seconds(number)
    }

    fn claim(at: i64, owner: &str, epoch: i64) -> PositionChange {
        PositionChange {
            pipeline: "p".to_owned(),
            at: second(at),
            writer: owner.to_owned(),
            after: Some(Position {
                epoch,
                owner: owner.to_owned(),
                last_change_id: 0,
                horizon: None,
            }),
        }
    }

    fn crash(agent: &str, from: i64, until: i64) -> Disturbance {
        let reach = Reach::Agent(agent.to_owned());
        Disturbance::new(Cause::Crash, reach, second(from), second(until))
    }

    #[test]
    fn a_tenure_ends_where_the_next_begins() {
        let tenures = Tenures::of(&[claim(1, "a", 1), claim(2, "a", 1), claim(5, "b", 2)]);
        let first = tenures.get("p", 1).unwrap();
        assert_eq!((first.from, first.until), (second(1), Some(second(5))));
        assert_eq!(tenures.get("p", 2).unwrap().until, None);
        assert_eq!(tenures.count(), 2);
    }

    #[test]
    fn a_shard_s_tenure_is_one_of_its_pipeline() {
        let shard = |claim: PositionChange, unit: &str| PositionChange {
            pipeline: unit.to_owned(),
            ..claim
        };
        let gone = PositionChange {
            after: None,
            ..shard(claim(4, "a", 1), "p#1/2")
        };
        let tenures = Tenures::of(&[
            shard(claim(1, "a", 1), "p#1/2"),
            shard(claim(1, "b", 2), "p#2/2"),
            gone,
            shard(claim(5, "b", 3), "p#1/3"),
            shard(claim(5, "c", 4), "p2"),
        ]);
        assert_eq!(tenures.get("p", 2).unwrap().owner, "b");
        assert_eq!(tenures.get("p", 4), None, "another pipeline");
        let why = |epoch| tenures.excuse(&[crash("a", 4, 4)], "p", Some(epoch)).why;
        assert_eq!(why(1), Explanation::Because(Cause::Crash));
        assert_eq!(why(2), Explanation::Unexplained, "the other shard's");
        assert_eq!(why(3), Explanation::Unexplained, "the next layout's");
    }

    #[test]
    fn only_the_tenure_that_was_hit_is_explained() {
        let tenures = Tenures::of(&[claim(1, "a", 1), claim(5, "b", 2), claim(9, "a", 3)]);
        let why = |epoch| tenures.excuse(&[crash("a", 4, 4)], "p", Some(epoch)).why;
        assert_eq!(why(1), Explanation::Because(Cause::Crash));
        assert_eq!(why(2), Explanation::Unexplained, "another agent");
        assert_eq!(why(3), Explanation::Unexplained, "later");
        assert_eq!(why(4), Explanation::Unexplained, "never claimed");
    }

    #[test]
    fn a_disturbance_reaches_into_every_tenure_that_it_overlaps() {
        let tenures = Tenures::of(&[claim(1, "a", 1), claim(5, "a", 2)]);
        let long = [crash("a", 2, 7), crash("b", 0, 9)];
        assert_eq!(tenures.excuse(&long, "p", Some(1)).times, 1);
        assert_eq!(tenures.excuse(&long, "p", Some(2)).times, 1);
    }
}
