//! What one transaction will do, drawn before it begins. Pure.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt as _, rngs::StdRng};

use super::plan::{Heat, PublishPlan, Shape};

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) shape: Shape,
    pub(super) steps: Vec<Step>,
    pub(super) ending: Ending,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Write something unrelated, which takes a transaction id.
    TakeXid,
    /// Do nothing for so long.
    Hold(Duration),
    /// Lock the counters of all keys of this transaction, in one order for everybody.
    Lock(BTreeSet<CounterKey>),
    Publish(Draft),
    Savepoint,
    RollBackToSavepoint,
    ReleaseSavepoint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Commit,
    RollBack,
    /// Prepare, wait for so long, commit.
    Prepare(Duration),
}

/// A message whose place in its key's order is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) outbox: String,
    pub(super) key: Option<String>,
}

/// Outbox and key.
pub(super) type CounterKey = (String, String);

impl Script {
    /// Draws a transaction.
    pub(super) fn draw(plan: &PublishPlan, random: &mut StdRng) -> Self {
        let shape = plan.draw_shape(random);
        let heat = match shape {
            Shape::LongOpen(_) | Shape::Prepared(_) => Heat::Cold,
            _ => Heat::Hot,
        };
        let drafts = drafts(plan, random, shape, heat);
        let locks: BTreeSet<CounterKey> = drafts.iter().filter_map(Draft::counter).collect();
        let mut steps = Vec::new();
        if let Shape::EarlyXid(hold) = shape {
            steps.extend([Step::TakeXid, Step::Hold(hold)]);
        }
        if !locks.is_empty() {
            steps.push(Step::Lock(locks));
        }
        if shape == Shape::Savepoints {
            with_savepoints(&mut steps, drafts, random);
        } else {
            steps.extend(drafts.into_iter().map(Step::Publish));
        }
        if let Shape::LongOpen(hold) = shape {
            steps.push(Step::Hold(hold));
        }
        let ending = match shape {
            Shape::RolledBack => Ending::RollBack,
            Shape::Prepared(hold) => Ending::Prepare(hold),
            _ => Ending::Commit,
        };
        Self {
            shape,
            steps,
            ending,
        }
    }

    /// How many messages are written, kept or not.
    pub(super) fn messages(&self) -> usize {
        self.steps
            .iter()
            .filter(|step| matches!(step, Step::Publish(_)))
            .count()
    }
}

impl Draft {
    fn counter(&self) -> Option<CounterKey> {
        Some((self.outbox.clone(), self.key.clone()?))
    }
}

fn drafts(plan: &PublishPlan, random: &mut StdRng, shape: Shape, heat: Heat) -> Vec<Draft> {
    let count = match shape {
        Shape::Single | Shape::Keyless => 1,
        Shape::Bulk(count) => usize::from(count),
        Shape::Savepoints => random.random_range(4..=8),
        _ => random.random_range(2..=6),
    };
    let draft = |random: &mut StdRng| Draft {
        outbox: plan.draw_outbox(random),
        key: match shape {
            Shape::Single => Some(plan.draw_key(random, heat)),
            Shape::Keyless => None,
            _ => random
                .random_bool(0.85)
                .then(|| plan.draw_key(random, heat)),
        },
    };
    (0..count).map(|_| draft(random)).collect()
}

/// Two runs of messages inside savepoints, each rolled back or kept by a coin; messages between
/// and after them show that the transaction goes on either way.
fn with_savepoints(steps: &mut Vec<Step>, drafts: Vec<Draft>, random: &mut StdRng) {
    let third = drafts.len() / 3;
    let mut drafts = drafts.into_iter().map(Step::Publish);
    for _ in 0..2 {
        steps.push(Step::Savepoint);
        steps.extend(drafts.by_ref().take(third));
        if random.random_bool(0.5) {
            steps.push(Step::RollBackToSavepoint);
        }
        steps.push(Step::ReleaseSavepoint);
        steps.extend(drafts.by_ref().take(1));
    }
    steps.extend(drafts);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;

    use super::*;

    proptest! {
        #[test]
        fn every_script_is_sound(seed in any::<u64>()) {
            let plan = PublishPlan { seed, ..PublishPlan::mixed(["a", "b"]) };
            let mut random = StdRng::seed_from_u64(seed);
            for _ in 0..50 {
                let script = Script::draw(&plan, &mut random);
                prop_assert!(script.messages() > 0);
                let mut locked = BTreeSet::new();
                let mut depth = 0;
                for step in &script.steps {
                    match step {
                        Step::Lock(keys) => {
                            prop_assert!(locked.is_empty(), "locks are taken once");
                            locked.clone_from(keys);
                        }
                        Step::Publish(draft) => {
                            prop_assert!(draft.counter().is_none_or(|key| locked.contains(&key)));
                        }
                        Step::Savepoint => depth += 1,
                        Step::RollBackToSavepoint => prop_assert_eq!(depth, 1),
                        Step::ReleaseSavepoint => depth -= 1,
                        Step::TakeXid | Step::Hold(_) => {}
                    }
                }
                prop_assert_eq!(depth, 0);
            }
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_scripts() {
        let plan = PublishPlan::mixed(["a", "b"]);
        let draw = || {
            let mut random = StdRng::seed_from_u64(7);
            (0..100)
                .map(|_| Script::draw(&plan, &mut random))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
    }
}
