use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn agent(name: &str, weight: u32, admits: Admits) -> Candidate {
    Candidate {
        name: name.parse().unwrap(),
        weight,
        admits,
    }
}

fn fleet(names: &[&str]) -> Vec<Candidate> {
    names
        .iter()
        .map(|name| agent(name, 1, Admits::All))
        .collect()
}

fn bundle(index: usize, owner: Option<&str>) -> Bundle {
    Bundle {
        pipelines: vec![format!("p{index:03}").parse().unwrap()],
        weight: 1,
        owner: owner.map(|name| name.parse().unwrap()),
        placement: None,
        stays: None,
        unfit: BTreeSet::new(),
    }
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<AgentName> {
    names
        .into_iter()
        .map(|name| name.parse().unwrap())
        .collect()
}

/// A bundle whose sink these agents do not reach.
fn beyond(index: usize, owner: Option<&str>, unfit: &[&str]) -> Bundle {
    Bundle {
        unfit: names(unfit.iter().copied()),
        ..bundle(index, owner)
    }
}

/// The fleet after everything moved where it was assigned.
fn applied(bundles: &[Bundle], assigned: &BTreeMap<UnitName, Assignment>) -> Vec<Bundle> {
    bundles
        .iter()
        .map(|bundle| Bundle {
            owner: assigned
                .get(&bundle.pipelines[0])
                .map(|assignment| assignment.agent.clone()),
            ..bundle.clone()
        })
        .collect()
}

fn moves(bundles: &[Bundle], assigned: &BTreeMap<UnitName, Assignment>) -> usize {
    bundles
        .iter()
        .filter(|bundle| {
            assigned.get(&bundle.pipelines[0]).map(|a| &a.agent) != bundle.owner.as_ref()
        })
        .count()
}

fn loads(assigned: &BTreeMap<UnitName, Assignment>) -> BTreeMap<&str, usize> {
    assigned
        .values()
        .fold(BTreeMap::new(), |mut loads, assignment| {
            *loads.entry(assignment.agent.as_str()).or_default() += 1;
            loads
        })
}

#[test]
fn a_joining_agent_takes_exactly_its_share() {
    let bundles: Vec<_> = (0..12)
        .map(|i| bundle(i, Some(if i % 2 == 0 { "a" } else { "b" })))
        .collect();
    let assigned = assign(&bundles, &fleet(&["a", "b", "c"]));
    assert_eq!(
        loads(&assigned),
        BTreeMap::from([("a", 4), ("b", 4), ("c", 4)])
    );
    assert_eq!(moves(&bundles, &assigned), 4);
}

#[test]
fn a_leaving_agent_s_pipelines_are_all_that_moves() {
    let bundles: Vec<_> = (0..12)
        .map(|i| bundle(i, Some(["a", "b", "c"][i % 3])))
        .collect();
    let assigned = assign(&bundles, &fleet(&["a", "b"]));
    assert_eq!(loads(&assigned), BTreeMap::from([("a", 6), ("b", 6)]));
    assert_eq!(moves(&bundles, &assigned), 4);
}

#[test]
fn a_drained_agent_gets_nothing_and_a_cordoned_one_keeps_what_it_has() {
    let bundles: Vec<_> = (0..6)
        .map(|i| bundle(i, Some(["a", "b", "c"][i % 3])))
        .chain([bundle(9, None)])
        .collect();
    let agents = [
        agent("a", 1, Admits::Nothing),
        agent("b", 1, Admits::OnlyItsOwn),
        agent("c", 1, Admits::All),
    ];
    let assigned = assign(&bundles, &agents);
    assert_eq!(loads(&assigned), BTreeMap::from([("b", 2), ("c", 5)]));
}

#[test]
fn a_standby_works_only_when_nobody_else_can() {
    let bundles = [bundle(0, None), bundle(1, Some("a"))];
    let agents = [agent("a", 1, Admits::All), agent("s", 0, Admits::All)];
    assert_eq!(
        loads(&assign(&bundles, &agents)),
        BTreeMap::from([("a", 2)])
    );
    assert_eq!(
        loads(&assign(&bundles, &agents[1..])),
        BTreeMap::from([("s", 2)])
    );
}

#[test]
fn a_placement_wins_over_balance_and_is_ignored_without_its_agent() {
    let mut bundles: Vec<_> = (0..4).map(|i| bundle(i, Some("a"))).collect();
    for bundle in &mut bundles {
        bundle.placement = Some("b".parse().unwrap());
    }
    assert_eq!(
        loads(&assign(&bundles, &fleet(&["a", "b"]))),
        BTreeMap::from([("b", 4)])
    );
    assert_eq!(
        loads(&assign(&bundles, &fleet(&["a", "c"]))),
        BTreeMap::from([("a", 2), ("c", 2)])
    );
}

#[test]
fn nobody_eligible_leaves_everything_unassigned() {
    assert!(assign(&[bundle(0, Some("a"))], &[agent("a", 1, Admits::Nothing)]).is_empty());
    assert!(assign(&[bundle(0, None)], &[]).is_empty());
}

#[test]
fn pipelines_of_one_lock_stay_together() {
    let shared = Bundle {
        pipelines: vec!["x".parse().unwrap(), "y".parse().unwrap()],
        weight: 2,
        owner: None,
        placement: None,
        stays: None,
        unfit: BTreeSet::new(),
    };
    let assigned = assign(
        &[shared, bundle(0, None), bundle(1, None)],
        &fleet(&["a", "b"]),
    );
    assert_eq!(
        assigned[&"x".parse().unwrap()].agent,
        assigned[&"y".parse().unwrap()].agent
    );
    assert_eq!(loads(&assigned), BTreeMap::from([("a", 2), ("b", 2)]));
}

#[test]
fn what_is_pinned_or_frozen_is_moved_only_from_who_cannot_run_it() {
    let stays = |index, owner, stays| Bundle {
        stays: Some(stays),
        ..bundle(index, owner)
    };
    let at_b = || Stays::At("b".parse().unwrap());
    let to_a = |bundle: Bundle| Bundle {
        placement: Some("a".parse().unwrap()),
        ..bundle
    };
    let cordoned = |admits| vec![agent("a", 1, Admits::All), agent("b", 1, admits)];
    for (what, bundle, agents, expected) in [
        (
            "a pin calls",
            stays(0, Some("a"), at_b()),
            fleet(&["a", "b"]),
            ("b", Reason::Pinned),
        ),
        (
            "a pin keeps",
            stays(0, Some("b"), at_b()),
            cordoned(Admits::OnlyItsOwn),
            ("b", Reason::Pinned),
        ),
        (
            "a cordon is stricter",
            stays(0, Some("a"), at_b()),
            cordoned(Admits::OnlyItsOwn),
            ("a", Reason::Kept),
        ),
        (
            "a drain is stricter",
            stays(0, Some("b"), at_b()),
            cordoned(Admits::Nothing),
            ("a", Reason::Unowned),
        ),
        (
            "its agent is gone",
            stays(0, None, at_b()),
            fleet(&["a"]),
            ("a", Reason::Unowned),
        ),
        (
            "a pin beats a placement",
            to_a(stays(0, Some("a"), at_b())),
            fleet(&["a", "b"]),
            ("b", Reason::Pinned),
        ),
        (
            "a freeze beats a placement",
            to_a(stays(0, Some("b"), Stays::Put)),
            fleet(&["a", "b"]),
            ("b", Reason::Frozen),
        ),
        (
            "a frozen one is taken over",
            stays(0, None, Stays::Put),
            fleet(&["a"]),
            ("a", Reason::Unowned),
        ),
    ] {
        let assigned = assign(&[bundle], &agents);
        let place = assigned.values().next().unwrap();
        assert_eq!((place.agent.as_str(), place.reason), expected, "{what}");
    }
    // Four on one agent, and another one that is empty: what stays does, the rest evens out.
    let mut bundles: Vec<Bundle> = (0..4).map(|index| bundle(index, Some("a"))).collect();
    bundles[0].stays = Some(Stays::Put);
    bundles[1].stays = Some(Stays::At("a".parse().unwrap()));
    let assigned = assign(&bundles, &fleet(&["a", "b"]));
    for (index, agent) in ["a", "a", "b", "b"].into_iter().enumerate() {
        assert_eq!(
            assigned[&bundles[index].pipelines[0]].agent.as_str(),
            agent,
            "{index}"
        );
    }
}

#[test]
fn a_pipeline_goes_where_its_sink_can_be_reached() {
    let placed = |to: &str, bundle| Bundle {
        placement: Some(to.parse().unwrap()),
        ..bundle
    };
    let stays = |stays, bundle| Bundle {
        stays: Some(stays),
        ..bundle
    };
    let at_a = || Stays::At("a".parse().unwrap());
    let admitting = |a, b| vec![agent("a", 1, a), agent("b", 1, b)];
    let [all, own, nothing] = [Admits::All, Admits::OnlyItsOwn, Admits::Nothing];
    for (what, bundle, agents, expected) in [
        (
            "its owner gives it up",
            beyond(0, Some("a"), &["a"]),
            admitting(all, all),
            ("b", Reason::Reachable),
        ),
        (
            "a cordoned owner too",
            beyond(0, Some("a"), &["a"]),
            admitting(own, all),
            ("b", Reason::Reachable),
        ),
        (
            "nobody else could have it",
            beyond(0, Some("a"), &["a"]),
            admitting(all, own),
            ("a", Reason::Unreachable),
        ),
        (
            "nobody reaches it",
            beyond(0, Some("b"), &["a", "b"]),
            admitting(all, all),
            ("b", Reason::Unreachable),
        ),
        (
            "nobody reaches it and nobody has it",
            beyond(0, None, &["a", "b"]),
            admitting(all, all),
            ("a", Reason::Unowned),
        ),
        (
            "nobody has it",
            beyond(0, None, &["a"]),
            admitting(all, all),
            ("b", Reason::Unowned),
        ),
        (
            "a drain does not wait for it",
            beyond(0, Some("a"), &["b"]),
            admitting(nothing, all),
            ("b", Reason::Unowned),
        ),
        (
            "an operator placed it there",
            placed("a", beyond(0, Some("b"), &["a"])),
            admitting(all, all),
            ("a", Reason::Placed),
        ),
        (
            "it is pinned there",
            stays(at_a(), beyond(0, Some("b"), &["a"])),
            admitting(all, all),
            ("a", Reason::Pinned),
        ),
        (
            "it is frozen",
            stays(Stays::Put, beyond(0, Some("a"), &["a"])),
            admitting(all, all),
            ("a", Reason::Frozen),
        ),
        (
            "one that is not there is nobody",
            beyond(0, Some("a"), &["c"]),
            admitting(all, all),
            ("a", Reason::Kept),
        ),
    ] {
        let assigned = assign(&[bundle], &agents);
        let place = assigned.values().next().unwrap();
        assert_eq!((place.agent.as_str(), place.reason), expected, "{what}");
    }
}

#[test]
fn what_one_agent_does_not_reach_is_evened_out_among_the_others() {
    // All of a's sinks are out of its reach; b and c take them in equal parts and a keeps nothing.
    let bundles: Vec<_> = (0..8).map(|i| beyond(i, Some("a"), &["a"])).collect();
    let assigned = assign(&bundles, &fleet(&["a", "b", "c"]));
    assert_eq!(loads(&assigned), BTreeMap::from([("b", 4), ("c", 4)]));
    // The emptiest agent may have none of what is too much elsewhere; the next one may.
    let bundles: Vec<_> = (0..6).map(|i| beyond(i, Some("a"), &["b"])).collect();
    let assigned = assign(&bundles, &fleet(&["a", "b", "c"]));
    assert_eq!(loads(&assigned), BTreeMap::from([("a", 3), ("c", 3)]));
    assert_eq!(moves(&bundles, &assigned), 3);
}

#[test]
fn a_sink_that_nobody_reaches_moves_nothing_whatever_the_load() {
    let everybody = ["a", "b", "c"];
    let bundles: Vec<_> = (0..9).map(|i| beyond(i, Some("a"), &everybody)).collect();
    assert_eq!(moves(&bundles, &assign(&bundles, &fleet(&everybody))), 0);
}

fn any_fleet() -> impl Strategy<Value = (Vec<Bundle>, Vec<Candidate>)> {
    let name = || proptest::sample::select(vec!["a", "b", "c", "d", "e"]);
    let bundles = proptest::collection::vec(
        (
            1u32..4,
            proptest::option::of(name()),
            proptest::option::weighted(0.1, name()),
            proptest::option::weighted(0.1, proptest::option::of(name())),
            prop_oneof![
                3 => Just(BTreeSet::new()),
                1 => proptest::collection::btree_set(name(), 1..6),
            ],
        ),
        0..40,
    );
    let agents = proptest::collection::btree_map(name(), (0u32..4, 0u8..10), 0..5);
    (bundles, agents).prop_map(|(bundles, agents)| {
        let bundles = bundles
            .into_iter()
            .enumerate()
            .map(|(i, (weight, owner, placement, stays, unfit))| Bundle {
                weight,
                placement: placement.map(|name| name.parse().unwrap()),
                stays: stays.map(|at| match at {
                    Some(name) => Stays::At(name.parse().unwrap()),
                    None => Stays::Put,
                }),
                unfit: names(unfit),
                ..bundle(i, owner)
            })
            .collect();
        let agents = agents
            .into_iter()
            .map(|(name, (weight, admits))| {
                let admits = match admits {
                    0 => Admits::Nothing,
                    1 => Admits::OnlyItsOwn,
                    _ => Admits::All,
                };
                agent(name, weight, admits)
            })
            .collect();
        (bundles, agents)
    })
}

proptest! {
    #[test]
    fn assigning_again_changes_nothing((bundles, agents) in any_fleet()) {
        let assigned = assign(&bundles, &agents);
        let again = applied(&bundles, &assigned);
        prop_assert_eq!(moves(&again, &assign(&again, &agents)), 0);
    }

    #[test]
    fn the_order_of_the_input_does_not_matter((bundles, agents) in any_fleet()) {
        let backwards: Vec<_> = bundles.iter().rev().cloned().collect();
        let agents_backwards: Vec<_> = agents.iter().rev().cloned().collect();
        prop_assert_eq!(assign(&bundles, &agents), assign(&backwards, &agents_backwards));
    }

    #[test]
    fn everything_is_assigned_when_somebody_may_take_it((bundles, agents) in any_fleet()) {
        let assigned = assign(&bundles, &agents);
        if agents.iter().any(|agent| agent.admits == Admits::All) {
            prop_assert_eq!(assigned.len(), bundles.len());
        }
        let refusing: BTreeSet<_> = agents.iter().filter(|a| a.admits == Admits::Nothing).map(|a| &a.name).collect();
        prop_assert!(assigned.values().all(|assignment| !refusing.contains(&assignment.agent)));
    }

    #[test]
    fn nobody_gets_what_it_does_not_reach_while_somebody_else_does((bundles, agents) in any_fleet()) {
        let assigned = assign(&bundles, &agents);
        let weighted = agents.iter().any(|agent| agent.weight > 0 && agent.admits == Admits::All);
        for bundle in &bundles {
            let Some(place) = assigned.get(&bundle.pipelines[0]) else { continue };
            let ordered = matches!(place.reason, Reason::Placed | Reason::Pinned | Reason::Frozen);
            let could = |agent: &&Candidate| {
                (agent.weight > 0 || !weighted)
                    && (agent.admits == Admits::All
                        || agent.admits == Admits::OnlyItsOwn && bundle.owner.as_ref() == Some(&agent.name))
            };
            let fit = agents.iter().filter(could).any(|agent| !bundle.unfit.contains(&agent.name));
            prop_assert!(ordered || !fit || !bundle.unfit.contains(&place.agent), "{bundle:?} {place:?}");
            if place.reason == Reason::Unreachable {
                prop_assert!(!fit && bundle.owner.as_ref() == Some(&place.agent));
            }
        }
    }

    #[test]
    fn what_strangers_do_not_reach_concerns_nobody((bundles, agents) in any_fleet()) {
        let without = |unfit: &BTreeSet<AgentName>| bundles.iter().map(|bundle| Bundle {
            unfit: unfit.clone(),
            ..bundle.clone()
        }).collect::<Vec<_>>();
        let (none, strangers) = (without(&BTreeSet::new()), without(&names(["x", "y"])));
        let kept = |assigned: BTreeMap<UnitName, Assignment>| {
            assigned.into_iter().map(|(name, place)| (name, place.agent)).collect::<Vec<_>>()
        };
        prop_assert_eq!(kept(assign(&none, &agents)), kept(assign(&strangers, &agents)));
    }

    #[test]
    fn equal_weights_end_within_one_of_each_other(count in 0usize..60, owners in proptest::collection::vec(proptest::option::of(0usize..7), 60)) {
        let names = ["a", "b", "c", "d", "e"];
        let bundles: Vec<_> = (0..count).map(|i| bundle(i, owners[i].and_then(|o| names.get(o).copied()))).collect();
        let assigned = assign(&bundles, &fleet(&names));
        let loads = loads(&assigned);
        let of = |name: &&str| loads.get(*name).copied().unwrap_or(0);
        let most = names.iter().map(of).max().unwrap();
        prop_assert!(most - names.iter().map(of).min().unwrap() <= 1);
        // No fewer moves could do: every agent above its share gives the excess, every orphan moves once.
        let held: BTreeMap<&str, usize> = bundles.iter().filter_map(|u| u.owner.as_ref()).fold(BTreeMap::new(), |mut held, o| { *held.entry(o.as_str()).or_default() += 1; held });
        let orphans = bundles.iter().filter(|u| u.owner.as_ref().is_none_or(|o| !names.contains(&o.as_str()))).count();
        let (share, larger) = (count / 5, count % 5);
        let mut kept: Vec<usize> = names.iter().map(|n| held.get(n).copied().unwrap_or(0)).collect();
        kept.sort_unstable_by_key(|k| std::cmp::Reverse(*k));
        let excess: usize = kept.iter().enumerate().map(|(i, k)| k.saturating_sub(share + usize::from(i < larger))).sum();
        prop_assert_eq!(moves(&bundles, &assigned), orphans + excess);
    }
}

proptest! {
    #[test]
    fn a_backup_is_whom_the_survivors_would_choose(
        owners in prop::collection::vec(prop::option::of(0..4_usize), 0..24),
        weights in prop::collection::vec(0..3_u32, 4),
        unfit in prop::collection::vec(prop::collection::btree_set(0..4_usize, 0..3), 24),
    ) {
        let names = ["a", "b", "c", "d"];
        let bundles: Vec<Bundle> = owners
            .iter()
            .enumerate()
            .map(|(index, owner)| {
                let unfit: Vec<&str> = unfit[index].iter().map(|agent| names[*agent]).collect();
                beyond(index, owner.map(|owner| names[owner]), &unfit)
            })
            .collect();
        let fleet: Vec<Candidate> = names
            .iter()
            .zip(&weights)
            .map(|(name, weight)| agent(name, *weight, Admits::All))
            .collect();
        let backups: BTreeMap<&str, BTreeSet<UnitName>> = names
            .iter()
            .map(|name| (*name, backups(&bundles, &fleet, &name.parse().unwrap())))
            .collect();
        for dead in names {
            let orphaned: Vec<Bundle> = bundles
                .iter()
                .map(|bundle| Bundle {
                    owner: bundle.owner.clone().filter(|owner| owner.as_str() != dead),
                    ..bundle.clone()
                })
                .collect();
            let survivors: Vec<Candidate> = fleet
                .iter()
                .filter(|agent| agent.name.as_str() != dead)
                .cloned()
                .collect();
            let assigned = assign(&orphaned, &survivors);
            for bundle in bundles.iter().filter(|bundle| bundle.owner.as_ref().is_some_and(|owner| owner.as_str() == dead)) {
                let name = &bundle.pipelines[0];
                let ready: Vec<&str> = backups
                    .iter()
                    .filter(|(_, ready)| ready.contains(name))
                    .map(|(agent, _)| *agent)
                    .collect();
                prop_assert_eq!(ready, [assigned[name].agent.as_str()]);
            }
        }
    }
}
