use proptest::prelude::*;
use time::{Duration, OffsetDateTime};

use super::*;
use crate::{
    HoldId, Incarnation,
    fleet::{AgentRow, Hold, HoldKind, Unreached},
    hold::HoldTarget,
};

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

pub(super) fn agent(name: &str, weight: u32) -> AgentRow {
    AgentRow {
        name: name.parse().unwrap(),
        incarnation: Incarnation(uuid::Uuid::nil()),
        alive: true,
        version: String::new(),
        hostname: String::new(),
        weight,
        metrics_addr: None,
        started_at: NOW,
        last_seen_at: NOW,
        backend_pid: None,
        lease_ends_at: None,
        stopped_at: None,
    }
}

fn pipeline(number: i64, owner: Option<&str>) -> PipelineRow {
    PipelineRow {
        name: format!("p{number:03}").parse().unwrap(),
        outbox: "events".to_owned(),
        sink: "null".to_owned(),
        enabled: true,
        revision: 1,
        weight: 1,
        lock_key: number,
        owner: owner.map(|owner| owner.parse().unwrap()),
        owner_pid: None,
        epoch: None,
        last_change_id: 0,
        lag_rows: 0,
        lag: Duration::ZERO,
        state: None,
        state_reason: None,
        state_since: None,
        retry_at: None,
        reshard_to: None,
        settled: true,
    }
}

pub(super) fn view(owners: &[Option<&str>], agents: Vec<AgentRow>) -> DatabaseView {
    DatabaseView {
        pipelines: (0..)
            .zip(owners)
            .map(|(number, owner)| pipeline(number, *owner))
            .collect(),
        agents,
        ..DatabaseView::empty("default".parse().unwrap(), NOW)
    }
}

/// `a` has four, `b` nothing.
fn uneven() -> DatabaseView {
    view(&[Some("a"); 4], vec![agent("a", 1), agent("b", 1)])
}

fn hold(target: HoldTarget, kind: HoldKind, to: Option<&str>) -> Hold {
    Hold {
        id: HoldId(uuid::Uuid::nil()),
        name: "ana".to_owned(),
        target,
        to: to.map(|name| name.parse().unwrap()),
        drain: None,
        kind,
        actor: "ana".to_owned(),
        reason: "audit".to_owned(),
        operation: None,
        is_running: false,
        deadline_at: None,
        created_at: NOW,
        expires_at: None,
    }
}

fn on_pipeline(number: i64, kind: HoldKind, to: Option<&str>) -> Hold {
    let target = HoldTarget::Pipeline(format!("p{number:03}").parse().unwrap());
    hold(target, kind, to)
}

pub(super) fn rates(rates: &[f64]) -> Costs {
    let cost = |(number, rate): (usize, &f64)| {
        let cost = UnitCost {
            rate: *rate,
            configured: false,
        };
        (format!("p{number:03}").parse().unwrap(), cost)
    };
    rates.iter().enumerate().map(cost).collect()
}

/// The fleet after everything moved where the plan says, with the plan's weights in force.
pub(super) fn applied(view: &DatabaseView, plan: &RebalancePlan) -> DatabaseView {
    let mut after = view.clone();
    after.placements.clear();
    for row in &mut after.pipelines {
        if let Some(planned) = plan.moves.iter().find(|it| it.pipeline == row.name) {
            row.owner = Some(planned.to.clone());
        }
        if let Some(weight) = plan.weights.iter().find(|it| it.pipeline == row.name) {
            row.weight = weight.after;
        }
    }
    after
}

#[test]
fn nothing_is_planned_to_where_its_sink_is_out_of_reach() {
    // b is empty, and reaches the sink of one of a's four alone; a does not reach that of another.
    let mut view = uneven();
    let out_of_reach = |agents: &[&str]| -> Vec<Unreached> {
        let said = agents.iter().map(|agent| Unreached {
            agent: agent.parse().unwrap(),
            reason: "refused".to_owned(),
            owned: false,
            since: NOW,
            until: NOW,
        });
        said.collect()
    };
    let planned = |view: &DatabaseView| RebalancePlan::of(view, By::Weight, &Costs::new());
    let before = planned(&view);
    for (name, agents) in [
        ("p000", &["b"][..]),
        ("p001", &["b"]),
        ("p002", &["a"]),
        ("p003", &["a", "b"]),
    ] {
        let said = out_of_reach(agents);
        view.unreached.insert(name.parse().unwrap(), said);
    }
    let plan = planned(&view);
    let moves: Vec<(&str, &str)> = plan
        .moves
        .iter()
        .map(|it| (it.pipeline.as_str(), it.reason.as_str()))
        .collect();
    assert_eq!(moves, [("p002", "a cannot reach its sink")]);
    let stays = plan.stays.iter().map(|it| it.reason.as_str());
    assert_eq!(
        stays.collect::<Vec<_>>(),
        [
            "kept: moving it would not even out the load",
            "kept: moving it would not even out the load",
            "kept: no agent that may have it can reach its sink",
        ]
    );
    // A plan that was made before anybody knew has nothing left to do.
    let names = before.moves.iter().map(|it| it.pipeline.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["p000", "p001"]);
    assert_ne!(plan.hash, before.hash);
    assert!(admit(&before, &view, &Costs::new()).is_err());
}

#[test]
fn every_pipeline_moves_or_stays_for_a_reason_in_words() {
    let mut view = uneven();
    view.pipelines.push(pipeline(4, None));
    view.pipelines.push(pipeline(5, Some("b")));
    view.pipelines[5].enabled = false;
    view.holds = vec![
        on_pipeline(0, HoldKind::Pin, Some("a")),
        on_pipeline(1, HoldKind::Freeze, None),
        on_pipeline(2, HoldKind::Pin, Some("z")),
    ];
    let plan = RebalancePlan::of(&view, By::Weight, &Costs::new());
    let moves: Vec<String> = plan
        .moves
        .iter()
        .map(|it| format!("{} > {}: {}", it.pipeline, it.to, it.reason))
        .collect();
    assert_eq!(
        moves,
        [
            "p002 > b: evens out the load of a",
            "p004 > b: nobody owns it"
        ]
    );
    let stays: Vec<String> = plan
        .stays
        .iter()
        .map(|it| format!("{}: {}", it.pipeline, it.reason))
        .collect();
    assert_eq!(
        stays,
        [
            "p000: pinned by ana: audit",
            "p001: frozen by ana: audit",
            "p003: kept: moving it would not even out the load",
        ]
    );
    let told: Vec<_> = plan
        .agents
        .iter()
        .map(|it| (it.agent.as_str(), it.before.load, it.after.load))
        .collect();
    assert_eq!(told, [("a", 4, 3), ("b", 0, 2)]);
}

#[test]
fn what_nobody_can_take_stays_and_says_so() {
    let mut view = uneven();
    for row in &mut view.agents {
        row.stopped_at = Some(NOW);
    }
    let plan = RebalancePlan::of(&view, By::Weight, &Costs::new());
    assert!(plan.moves.is_empty());
    assert_eq!(plan.stays.len(), 4);
    assert_eq!(plan.stays[0].reason, "no live agent may take it");
}

#[test]
fn measured_load_is_evened_out_where_counting_pipelines_finds_nothing_to_do() {
    let owners = [Some("a"), Some("a"), Some("b"), Some("b")];
    let view = view(&owners, vec![agent("a", 1), agent("b", 1)]);
    let costs = rates(&[1_000.0, 1_000.0, 5.0, 0.0]);
    assert!(RebalancePlan::of(&view, By::Weight, &costs).is_empty());

    let plan = RebalancePlan::of(&view, By::Load, &costs);
    let loads: Vec<u64> = plan.agents.iter().map(|it| it.after.load).collect();
    // One of the busy ones, and one of the idle ones in return.
    assert_eq!(plan.moves.len(), 2, "{plan:?}");
    assert_eq!(loads, [129, 129], "{plan:?}");
    let (before, after) = plan.imbalance();
    assert!(before > 1.9 && after < 1.1, "{before} {after}");
    // A weight that somebody wrote down counts, whatever is measured.
    let mut costs = costs;
    for cost in costs.values_mut() {
        cost.configured = true;
    }
    assert!(RebalancePlan::of(&view, By::Load, &costs).is_empty());
}

#[test]
fn balance_is_measured_by_the_weight_of_agents_and_without_standbys() {
    let owners = [Some("a"), Some("a"), Some("b"), None];
    let agents = vec![agent("a", 2), agent("b", 1), agent("s", 0)];
    let plan = RebalancePlan::of(&view(&owners, agents), By::Weight, &Costs::new());
    assert!((plan.imbalance().0 - 1.0).abs() < 1e-9, "{plan:?}");
    let nobody = RebalancePlan::of(&view(&owners, Vec::new()), By::Weight, &Costs::new());
    assert_eq!(format!("{:?}", nobody.imbalance()), "(1.0, 1.0)");
}

/// Each change since the plan, and what is left of its two moves, or why nothing is.
type Row = (
    &'static str,
    fn(&mut DatabaseView),
    Result<[usize; 2], &'static str>,
);

const ROWS: &[Row] = &[
    ("nothing", |_| {}, Ok([2, 0])),
    (
        "time and lags",
        |view| {
            view.taken_at += Duration::DAY;
            view.pipelines[0].lag_rows = 7;
        },
        Ok([2, 0]),
    ),
    (
        "one went elsewhere",
        |view| moved(view, "p000", "b"),
        Ok([1, 1]),
    ),
    (
        "one is deleted and one is new",
        |view| {
            view.pipelines.remove(0);
            view.pipelines.push(pipeline(9, Some("a")));
        },
        Ok([1, 1]),
    ),
    (
        "one is frozen",
        |view| view.holds.push(on_pipeline(0, HoldKind::Freeze, None)),
        Ok([1, 1]),
    ),
    (
        "both went elsewhere",
        |view| {
            moved(view, "p000", "b");
            moved(view, "p001", "b");
        },
        Err("p000 cannot move from a to b any more, p001 cannot move from a to b any more"),
    ),
    (
        "an agent is gone",
        |view| view.agents[1].alive = false,
        Err("agent b is gone"),
    ),
    (
        "an agent joined",
        |view| view.agents.push(agent("c", 1)),
        Err("agent c has joined"),
    ),
    (
        "an agent is cordoned",
        |view| {
            let target = HoldTarget::Agent("b".parse().unwrap());
            view.holds.push(hold(target, HoldKind::Cordon, None));
        },
        Err("agent b takes nothing more now"),
    ),
    (
        "an agent weighs more",
        |view| view.agents[0].weight = 3,
        Err("agent a has weight 3 and had 1"),
    ),
    (
        "a pipeline weighs more",
        |view| view.pipelines[3].weight = 8,
        Err("pipeline p003 weighs 8 and weighed 1"),
    ),
];

fn moved(view: &mut DatabaseView, pipeline: &str, to: &str) {
    let rows = view.pipelines.iter_mut();
    for row in rows.filter(|row| row.name.as_str() == pipeline) {
        row.owner = Some(to.parse().unwrap());
    }
}

#[test]
fn a_plan_is_applied_while_it_is_the_plan_that_was_agreed_to() {
    let plan = RebalancePlan::of(&uneven(), By::Weight, &Costs::new());
    let moved: Vec<&str> = plan.moves.iter().map(|it| it.pipeline.as_str()).collect();
    assert_eq!(moved, ["p000", "p001"]);
    for (what, change, expected) in ROWS {
        let mut view = uneven();
        change(&mut view);
        let admitted = admit(&plan, &view, &Costs::new());
        let told = admitted.map(|it| [it.moves.len(), it.skipped.len()]);
        let told = told.map_err(|outdated| outdated.0.join(", "));
        assert_eq!(told, expected.map_err(str::to_owned), "{what}");
    }
}

#[test]
fn a_weight_that_was_configured_since_makes_a_plan_by_load_stale() {
    let view = uneven();
    let mut costs = rates(&[500.0, 0.0, 0.0, 0.0]);
    let plan = RebalancePlan::of(&view, By::Load, &costs);
    assert!(admit(&plan, &view, &costs).is_ok());
    // What is measured meanwhile is no reason to plan anew.
    costs.get_mut(&view.pipelines[0].name).unwrap().rate = 9_000.0;
    assert!(admit(&plan, &view, &costs).is_ok());
    costs.get_mut(&view.pipelines[0].name).unwrap().configured = true;
    let outdated = admit(&plan, &view, &costs).unwrap_err();
    assert_eq!(
        outdated.to_string(),
        "the plan is stale: pipeline p000 has a weight in its configuration now"
    );
}

#[test]
fn a_plan_survives_the_store() {
    let plan = RebalancePlan::of(&uneven(), By::Load, &rates(&[500.0]));
    let stored = serde_json::to_value(&plan).unwrap();
    let read: RebalancePlan = serde_json::from_value(stored).unwrap();
    assert_eq!(read, plan);
}

fn any_view() -> impl Strategy<Value = (DatabaseView, Costs)> {
    let name = || proptest::sample::select(vec!["a", "b", "c", "d"]);
    let row = (
        proptest::option::of(name()),
        prop_oneof![Just(0.0), 0.0..50.0, 0.0..20_000.0_f64],
        1..6_u32,
        0..12_u8,
    );
    let agents = proptest::collection::btree_map(name(), (0..4_u32, 0..8_u8), 0..5);
    (proptest::collection::vec(row, 0..24), agents).prop_map(|(rows, agents)| {
        let owners: Vec<Option<&str>> = rows.iter().map(|row| row.0).collect();
        let fleet = agents
            .iter()
            .map(|(name, (weight, _))| agent(name, *weight));
        let mut view = view(&owners, fleet.collect());
        for (name, (_, hold_drawn)) in &agents {
            let target = HoldTarget::Agent(name.parse().unwrap());
            match hold_drawn {
                0 => view.holds.push(hold(target, HoldKind::Cordon, None)),
                1 => view.holds.push(hold(target, HoldKind::Drain, None)),
                _ => {}
            }
        }
        for (number, (_, _, weight, kind)) in (0..).zip(&rows) {
            view.pipelines[number as usize].weight = *weight;
            match kind {
                0 => view.holds.push(on_pipeline(number, HoldKind::Freeze, None)),
                1 => view
                    .holds
                    .push(on_pipeline(number, HoldKind::Pin, Some("b"))),
                2 => {
                    let unit = format!("p{number:03}").parse().unwrap();
                    view.placements.insert(unit, "a".parse().unwrap());
                }
                3 => view.pipelines[number as usize].enabled = false,
                _ => {}
            }
        }
        let measured: Vec<f64> = rows.iter().map(|row| row.1).collect();
        (view, rates(&measured))
    })
}

proptest! {
    #[test]
    fn planning_twice_gives_one_plan((view, costs) in any_view(), load in any::<bool>()) {
        let by = if load { By::Load } else { By::Weight };
        let plan = RebalancePlan::of(&view, by, &costs);
        let mut later = view.clone();
        later.taken_at += Duration::HOUR;
        later.pipelines.iter_mut().for_each(|row| row.lag_rows += 1);
        later.agents.reverse();
        prop_assert_eq!(&RebalancePlan::of(&later, by, &costs).hash, &plan.hash);
        prop_assert_eq!(RebalancePlan::of(&view, by, &costs), plan);
    }

    #[test]
    fn after_a_plan_there_is_nothing_left_to_do((view, costs) in any_view(), load in any::<bool>(), noise in 0.75..1.33_f64) {
        let by = if load { By::Load } else { By::Weight };
        let plan = RebalancePlan::of(&view, by, &costs);
        let after = applied(&view, &plan);
        let again = RebalancePlan::of(&after, by, &costs);
        prop_assert!(again.is_empty(), "{again:?}");
        // Nor is there if every weight was just chosen and the load wavers by a third.
        let mut fresh = view;
        fresh.pipelines.iter_mut().for_each(|row| row.weight = MAX_WEIGHT);
        let plan = RebalancePlan::of(&fresh, By::Load, &costs);
        let mut wavering = costs.clone();
        for cost in wavering.values_mut().filter(|cost| cost.rate < 4_000.0) {
            cost.rate *= noise;
        }
        prop_assert!(RebalancePlan::of(&applied(&fresh, &plan), By::Load, &wavering).is_empty());
    }

    /// What agents compute from the placements and weights that a plan leaves is the plan: nobody
    /// moves anything else, neither while it is carried out nor after.
    #[test]
    fn agents_agree_with_a_plan_that_was_applied((view, costs) in any_view(), arrived in any::<u32>()) {
        let plan = RebalancePlan::of(&view, By::Load, &costs);
        let mut under_way = applied(&view, &plan);
        for (index, planned) in plan.moves.iter().enumerate() {
            under_way.placements.insert(planned.pipeline.clone(), planned.to.clone());
            if arrived >> (index % 32) & 1 == 0 {
                let rows = under_way.pipelines.iter_mut();
                rows.filter(|row| row.name == planned.pipeline).for_each(|row| row.owner = planned.from.clone());
            }
        }
        for (row, to) in under_way.pipelines.iter().zip(under_way.moves()) {
            let planned = plan.moves.iter().find(|planned| planned.pipeline == row.name);
            let left = planned.filter(|planned| row.owner.as_ref() != Some(&planned.to));
            prop_assert_eq!(to.as_ref(), left.map(|planned| &planned.to), "{}", row.name);
        }
    }

    #[test]
    fn every_enabled_pipeline_is_in_a_plan_once((view, costs) in any_view()) {
        let plan = RebalancePlan::of(&view, By::Load, &costs);
        let moves = plan.moves.iter().map(|planned| &planned.pipeline);
        let mut told: Vec<_> = moves.chain(plan.stays.iter().map(|stay| &stay.pipeline)).collect();
        told.sort();
        let enabled: Vec<_> = view.pipelines.iter().filter(|row| row.enabled).map(|row| &row.name).collect();
        prop_assert_eq!(told, enabled);
        prop_assert!(plan.stays.iter().all(|stay| !stay.reason.is_empty()));
    }

    #[test]
    fn no_fewer_moves_could_even_out_equal_weights(count in 0_usize..40, owners in proptest::collection::vec(0_usize..3, 40)) {
        let names = ["a", "b", "c"];
        let owners: Vec<Option<&str>> = owners[..count].iter().map(|owner| Some(names[*owner])).collect();
        let view = view(&owners, names.map(|name| agent(name, 1)).to_vec());
        let plan = RebalancePlan::of(&view, By::Weight, &Costs::new());
        let mut held = names.map(|name| owners.iter().filter(|owner| **owner == Some(name)).count());
        held.sort_unstable_by_key(|held| std::cmp::Reverse(*held));
        let excess: usize = (0..3).map(|index| held[index].saturating_sub(count / 3 + usize::from(index < count % 3))).sum();
        prop_assert_eq!(plan.moves.len(), excess);
    }
}
