//! Whatever is drawn makes sense.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What an agent cannot do at a moment of a plan.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Condition {
    down: bool,
    frozen: bool,
    cut: bool,
}

fn sound(plan: &Plan) -> Result<(), TestCaseError> {
    let names = plan.pipelines.iter().map(|one| one.name.clone());
    let mut enabled: BTreeMap<String, bool> = names.map(|name| (name, true)).collect();
    let mut agents: BTreeMap<String, Condition> = BTreeMap::new();
    let mut last = 0;
    for step in &plan.steps {
        prop_assert!(last <= step.at && step.at < plan.seconds * 1_000);
        last = step.at;
        match &step.operation {
            Operation::Crash { agent } | Operation::Terminate { agent } => {
                let agent = agents.entry(agent.clone()).or_default();
                prop_assert_eq!(&*agent, &Condition::default());
                agent.down = true;
            }
            Operation::Start { agent } => {
                let agent = agents.entry(agent.clone()).or_default();
                prop_assert!(std::mem::take(&mut agent.down));
            }
            Operation::Freeze { agent } => {
                let agent = agents.entry(agent.clone()).or_default();
                prop_assert_eq!(&*agent, &Condition::default());
                agent.frozen = true;
            }
            Operation::Thaw { agent } => {
                let agent = agents.entry(agent.clone()).or_default();
                prop_assert!(std::mem::take(&mut agent.frozen));
            }
            Operation::Cut { agent } => {
                let agent = agents.entry(agent.clone()).or_default();
                prop_assert!(!agent.down && !agent.cut);
                agent.cut = true;
            }
            Operation::Heal { agent } => {
                let agent = agents.entry(agent.clone()).or_default();
                prop_assert!(std::mem::take(&mut agent.cut));
            }
            Operation::Add { pipeline } => {
                prop_assert!(!pipeline.name.is_empty());
                prop_assert!(enabled.insert(pipeline.name.clone(), true).is_none());
            }
            Operation::Delete { pipeline } => {
                prop_assert_eq!(enabled.remove(pipeline), Some(true));
            }
            Operation::Disable { pipeline } => {
                prop_assert_eq!(enabled.insert(pipeline.clone(), false), Some(true));
            }
            Operation::Enable { pipeline } => {
                prop_assert_eq!(enabled.insert(pipeline.clone(), true), Some(false));
            }
            Operation::AnswerLate { pipeline, .. }
            | Operation::Refuse { pipeline, .. }
            | Operation::Sever { pipeline, .. }
            | Operation::Hang { pipeline } => prop_assert!(enabled.contains_key(pipeline)),
            _ => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_plan_makes_sense(seed in any::<u64>(), seconds in 5..400_u64) {
        sound(&generate(seed, seconds))?;
        sound(&generate_soak(seed, seconds, 2_000))?;
    }

    #[test]
    fn a_plan_that_was_written_is_read_back_as_it_was(seed in any::<u64>()) {
        let plan = generate(seed, 60);
        prop_assert_eq!(Plan::parse(&plan.to_text()).unwrap(), plan);
    }
}

#[test]
fn the_same_seed_draws_the_same_plan() {
    assert_eq!(generate(7, 120), generate(7, 120));
    assert_ne!(generate(7, 120).steps, generate(8, 120).steps);
}

#[test]
fn a_long_plan_does_everything() {
    assert_eq!(kinds(&generate(7, 1_000)).len(), 32);
    let kinds = kinds(&generate_soak(7, 1_000, 2_000));
    for kind in [
        "crash",
        "restart_postgres",
        "answer_late",
        "refuse",
        "brokers_down",
        "kill_streams",
    ] {
        assert!(kinds.contains(kind), "{kind}: {kinds:?}");
    }
}

fn kinds(plan: &Plan) -> BTreeSet<String> {
    plan.steps
        .iter()
        .map(|step| step.operation.to_string())
        .filter_map(|text| text.split(' ').next().map(ToOwned::to_owned))
        .collect()
}
