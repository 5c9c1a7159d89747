//! Random schedules of several agents: whatever is lost, delayed or reordered, no pipeline runs
//! twice, and once it stops every pipeline runs where it should and nothing moves any more.

mod world;

use std::time::Duration;

use proptest::prelude::*;
use tide_model::{UnitName, assignment::Admits};

use self::world::World;
use super::WorkerEnd;

const AGENTS: usize = 4;
const PIPELINES: usize = 7;

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
enum Op {
    Deliver(usize, usize),
    Execute(usize),
    Look(usize),
    Wait(u64),
    EndSession(usize),
    GiveUp(usize),
    OpenSession(usize),
    LoseNotice(usize),
    Hold(usize, Option<Admits>),
    Place(usize, Option<usize>),
    Reach(usize, usize),
    Switch(usize),
    Change(usize),
    BreakOff(usize, usize, WorkerEnd),
    Leave(usize),
    Kill(usize),
    Join(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let agent = || 0..AGENTS;
    let pipeline = || 0..PIPELINES;
    let admits = prop_oneof![
        Just(None),
        Just(Some(Admits::Nothing)),
        Just(Some(Admits::OnlyItsOwn))
    ];
    let end = prop_oneof![Just(WorkerEnd::Failed), Just(WorkerEnd::Fenced)];
    prop_oneof![
        30 => (agent(), 0..8_usize).prop_map(|(agent, which)| Op::Deliver(agent, which)),
        20 => agent().prop_map(Op::Execute),
        15 => agent().prop_map(Op::Look),
        6 => (1..1_500_u64).prop_map(Op::Wait),
        3 => agent().prop_map(Op::EndSession),
        2 => agent().prop_map(Op::GiveUp),
        5 => agent().prop_map(Op::OpenSession),
        3 => agent().prop_map(Op::LoseNotice),
        2 => (agent(), admits).prop_map(|(agent, admits)| Op::Hold(agent, admits)),
        2 => (pipeline(), prop::option::of(agent())).prop_map(|(pipeline, agent)| Op::Place(pipeline, agent)),
        2 => pipeline().prop_map(Op::Switch),
        2 => pipeline().prop_map(Op::Change),
        2 => (agent(), pipeline(), end).prop_map(|(agent, pipeline, end)| Op::BreakOff(agent, pipeline, end)),
        1 => agent().prop_map(Op::Leave),
        1 => agent().prop_map(Op::Kill),
        3 => agent().prop_map(Op::Join),
        2 => (pipeline(), agent()).prop_map(|(pipeline, agent)| Op::Reach(pipeline, agent)),
    ]
}

fn pipeline(number: usize) -> UnitName {
    format!("p-{number}").parse().unwrap()
}

fn apply(world: &mut World, op: Op) {
    match op {
        Op::Deliver(agent, which) => world.deliver(agent, which),
        Op::Execute(agent) => world.execute(agent),
        Op::Look(agent) => world.look(agent),
        Op::Wait(milliseconds) => {
            world.now += Duration::from_millis(milliseconds);
            (0..AGENTS).for_each(|agent| world.tick(agent));
        }
        Op::EndSession(agent) => world.end_session(agent),
        Op::GiveUp(agent) => world.give_up(agent),
        Op::OpenSession(agent) => world.open_session(agent),
        Op::LoseNotice(agent) => world.lose_notice(agent),
        Op::Hold(agent, admits) => {
            let name = world.names[agent].clone();
            match admits {
                Some(admits) => world.holds.insert(name, admits),
                None => world.holds.remove(&name),
            };
        }
        Op::Place(number, agent) => {
            let agent = agent.map(|agent| world.names[agent].clone());
            world
                .pipelines
                .get_mut(&pipeline(number))
                .unwrap()
                .placement = agent;
        }
        Op::Reach(number, agent) => {
            let agent = world.names[agent].clone();
            let row = world.pipelines.get_mut(&pipeline(number)).unwrap();
            if !row.unfit.remove(&agent) {
                row.unfit.insert(agent);
            }
        }
        Op::Switch(number) => {
            let row = world.pipelines.get_mut(&pipeline(number)).unwrap();
            row.enabled = !row.enabled;
        }
        Op::Change(number) => {
            world.pipelines.get_mut(&pipeline(number)).unwrap().revision += 1;
        }
        Op::BreakOff(agent, number, end) => world.worker_ends(agent, &pipeline(number), end),
        Op::Leave(agent) => {
            if let Some(agent) = &mut world.agents[agent] {
                agent.leaving = true;
            }
        }
        Op::Kill(agent) => world.kill(agent),
        Op::Join(agent) => world.join(agent),
    }
    (0..AGENTS).for_each(|agent| world.end_if_left(agent));
    world.check();
}

/// A while without faults: sessions are opened, everybody looks, and all that was sent arrives.
fn calm(world: &mut World) {
    world.now += Duration::from_millis(1_100);
    for agent in 0..AGENTS {
        // What the agent gave up the server ends after the lease.
        let known = world.agents[agent].as_ref().and_then(|agent| agent.session);
        let stands = world
            .server
            .get(&world.names[agent])
            .map(|(session, _)| *session);
        if stands.is_some() && stands != known {
            world.end_session(agent);
        }
        world.open_session(agent);
        world.tick(agent);
        world.look(agent);
    }
    let mut rounds = 0;
    while world.is_busy() {
        for agent in 0..AGENTS {
            world.execute(agent);
            world.deliver(agent, 0);
        }
        rounds += 1;
        assert!(rounds < 1_000, "an answer makes a question, and so on");
    }
    (0..AGENTS).for_each(|agent| world.end_if_left(agent));
}

fn settles(world: &mut World) {
    (0..12).for_each(|_| calm(world));
    world.stirred = 0;
    (0..3).for_each(|_| calm(world));
    assert_eq!(world.stirred, 0, "something goes on moving");
    for name in world.names.clone() {
        for (pipeline, wanted) in world.wanted(&name, false) {
            assert_eq!(
                world.owner(&pipeline),
                wanted.assignee.as_ref(),
                "{pipeline} is not where it should be"
            );
        }
    }
    for agent in world.agents.iter().flatten() {
        let (_, held) = &world.server[&agent.name];
        assert_eq!(
            &agent.workers, held,
            "{} holds what it does not run",
            agent.name
        );
        assert_eq!(agent.machine.owned(), held.len());
        let drained = world.holds.get(&agent.name) == Some(&Admits::Nothing);
        assert!(!drained || held.is_empty(), "{} is drained", agent.name);
        for pipeline in held {
            assert!(world.pipelines[pipeline].enabled, "{pipeline} is disabled");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_fleet_never_runs_a_pipeline_twice_and_settles_when_left_alone(
        ops in prop::collection::vec(op(), 0..400),
    ) {
        let mut world = World::new(AGENTS, PIPELINES);
        for op in ops {
            apply(&mut world, op);
        }
        settles(&mut world);
    }
}
