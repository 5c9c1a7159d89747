//! Many pipelines, many agents, unequal agents: who gets what, what it moves, and what it costs.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tide_model::{GroupName, PipelineState, fleet::DatabaseView};
use tide_sandbox::{publisher::PublishPlan, wait::eventually};
use tide_tests::{
    Fleet, FleetOptions,
    fleet::{Owner, owners},
    lookout::Lookout,
    proof,
};

/// How long a large fleet may take for anything, in a debug build on two busy processors.
const LONG: Duration = Duration::from_mins(2);

/// Whether every pipeline runs where it should, each live agent with its weighted share, to within
/// one.
fn fairly_shared(view: &DatabaseView) -> Result<(), String> {
    let mut loads: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for agent in view.agents.iter().filter(|agent| agent.alive) {
        loads.insert(agent.name.as_str(), (0, i64::from(agent.weight)));
    }
    let mut waiting = 0;
    for row in &view.pipelines {
        let owner = row
            .owner
            .as_ref()
            .and_then(|owner| loads.get_mut(owner.as_str()));
        match owner {
            Some((load, _)) if row.state == Some(PipelineState::Running) => *load += 1,
            _ => waiting += 1,
        }
    }
    let weights: i64 = loads.values().map(|(_, weight)| weight).sum();
    let pipelines = view.pipelines.len() as i64;
    // In whole numbers: |load − pipelines × weight / weights| ≤ 1.
    let fair = loads
        .values()
        .all(|(load, weight)| (load * weights - pipelines * weight).abs() <= weights);
    // Whoever computes who should own what finds nothing to move any more.
    let assignments = view.assignments();
    let misplaced = view.pipelines.iter().filter(|row| {
        let assigned = assignments.get(&row.name).map(|assigned| &assigned.agent);
        assigned != row.owner.as_ref()
    });
    let misplaced = misplaced.count();
    if waiting == 0 && misplaced == 0 && fair {
        return Ok(());
    }
    Err(format!(
        "{waiting} do not run, {misplaced} are to move; loads and weights {loads:?}"
    ))
}

/// Waits for it among so many live agents, looking no deeper than ownership.
async fn wait_until_shared(fleet: &Fleet, agents: usize) -> Result<BTreeMap<String, Owner>> {
    let group = fleet.group().clone();
    let what = format!("the pipelines to be shared by {agents}");
    let view = eventually(LONG, what, async || {
        let view = fleet.view_of(&group).await?;
        let alive = view.agents.iter().filter(|agent| agent.alive).count();
        ensure!(alive == agents, "{alive} agents are alive");
        fairly_shared(&view).map_err(anyhow::Error::msg)?;
        anyhow::Ok(Some(view))
    })
    .await?;
    Ok(owners(&view))
}

/// Compares what a change moved with what it had to move: so many pipelines, each claimed once
/// and however shortly held, and none that a remaining agent had.
async fn moved_no_more_than(
    needed: usize,
    fleet: &Fleet,
    (claimed, before): (i64, &BTreeMap<String, Owner>),
    after: &BTreeMap<String, Owner>,
) -> Result<()> {
    let moved: Vec<_> = after
        .iter()
        .filter(|(name, is)| before.get(*name) != Some(is))
        .map(|(name, is)| (name, &before[name], is))
        .collect();
    let claims = claims_of(fleet).await? - claimed;
    ensure!(
        moved.len() == needed && claims == needed as i64,
        "{} moved with {claims} claims, where {needed} had to: {moved:?}",
        moved.len(),
    );
    Ok(())
}

fn load_of(owners: &BTreeMap<String, Owner>, agent: &str) -> usize {
    owners.values().filter(|owner| owner.agent == agent).count()
}

/// Every claim that there was, however shortly the pipeline was held.
async fn claims_of(fleet: &Fleet) -> Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM tide.events WHERE kind = 'ownership.gained'")
        .fetch_one(fleet.pool())
        .await
        .context("counting the claims")
}

#[tokio::test]
async fn a_join_a_leave_and_a_crash_move_as_little_of_500_pipelines_as_they_must() -> Result<()> {
    // GIVEN 500 pipelines on four agents, some of them under load
    let mut fleet = Fleet::start(FleetOptions::agents(4)).await?;
    let mut lookout = Lookout::start(&fleet.url()).await?;
    fleet.add_file_pipelines(10).await?;
    fleet.add_null_pipelines(490, "quiet").await?;
    let shared = wait_until_shared(&fleet, 4).await?;
    ensure!(shared.len() == 500);
    fleet
        .publish_as(|plan| PublishPlan {
            outboxes: vec!["events_a".to_owned(), "events_b".to_owned()],
            ..plan
        })
        .await?;

    // WHEN a fifth joins THEN it gets its hundred, and nothing else is touched
    let claims = claims_of(&fleet).await?;
    fleet.start_agent("relay-5").await?;
    let joined = wait_until_shared(&fleet, 5).await?;
    moved_no_more_than(100, &fleet, (claims, &shared), &joined).await?;
    ensure!(load_of(&joined, "relay-5") == 100);

    // WHEN one leaves THEN its hundred are shared out, and nothing else is touched
    let claims = claims_of(&fleet).await?;
    fleet.agent("relay-2").stop().await?;
    let left = wait_until_shared(&fleet, 4).await?;
    moved_no_more_than(100, &fleet, (claims, &joined), &left)
        .await
        .with_context(|| fleet.agent("relay-2").whole_log())?;

    // WHEN one is killed THEN its share is shared out, and nothing else is touched
    let claims = claims_of(&fleet).await?;
    fleet.crash("relay-3").await?;
    let crashed = wait_until_shared(&fleet, 3).await?;
    let orphans = load_of(&left, "relay-3");
    moved_no_more_than(orphans, &fleet, (claims, &left), &crashed).await?;

    // No transaction of theirs kept the vacuum from its work, and none had many sessions.
    let mut seen = lookout.seen()?;
    ensure!(seen.horizon < Duration::from_secs(2), "{seen:?}");
    // Whoever is the janitor has that session too.
    let janitor = seen.sessions.remove("tide-agent/janitor").unwrap_or(0);
    ensure!(seen.sessions.len() == 5, "{seen:?}");
    ensure!(
        seen.sessions.values().all(|count| count + janitor <= 8),
        "{seen:?}"
    );
    fleet.publish_more(50).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn fifty_agents_may_join_and_leave_at_once() -> Result<()> {
    // GIVEN one agent with everything, under load
    let mut options = FleetOptions::agents(1);
    options.postgres.max_connections = 600;
    let mut fleet = Fleet::start(options).await?;
    fleet.add_file_pipelines(10).await?;
    fleet.add_null_pipelines(90, "quiet").await?;
    wait_until_shared(&fleet, 1).await?;
    fleet
        .publish_as(|plan| PublishPlan {
            outboxes: vec!["events_a".to_owned(), "events_b".to_owned()],
            rate: Some(20.0),
            ..plan
        })
        .await?;
    // WHEN 49 more join at once
    let names: Vec<String> = (2..=50).map(|number| format!("relay-{number}")).collect();
    fleet.start_agents(&names).await?;
    // THEN each has two pipelines, and each pipeline one owner
    let shared = wait_until_shared(&fleet, 50).await?;
    ensure!(shared.len() == 100);
    // WHEN all of them but two leave at once THEN these two have everything
    for name in &names[1..] {
        fleet.agent(name).terminate()?;
    }
    for name in &names[1..] {
        let status = fleet.agent(name).ended().await?;
        ensure!(status.code() == Some(0), "{name} ended with {status}");
    }
    wait_until_shared(&fleet, 2).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn three_neighbours_in_the_ring_may_die_at_once() -> Result<()> {
    // GIVEN five agents, each watching the next by name
    let mut fleet = Fleet::start(FleetOptions::agents(5)).await?;
    fleet.add_file_pipelines(10).await?;
    wait_until_shared(&fleet, 5).await?;
    // Two each: within one of a fair share is not enough to know how many become orphans.
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    fleet.publish_more(50).await?;
    // WHEN three in a row are killed at once: of their watchers only one is left
    let orphans = fleet
        .crash_together(&["relay-2", "relay-3", "relay-4"])
        .await?;
    // THEN the two others share everything. They see the three go one after another, so one that
    // took more than its share at first may give away any of its own; at no cost.
    ensure!(orphans.len() == 6, "{orphans:?}");
    wait_until_shared(&fleet, 2).await?;
    fleet.publish_more(50).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

/// Agents `relay-1`, `relay-2`, … of these weights.
async fn weighted(weights: &[u32]) -> Result<Fleet> {
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    for (number, weight) in (1..).zip(weights) {
        let spec = fleet.spec(&format!("relay-{number}"));
        fleet
            .start_as(spec.with("--weight", &weight.to_string()))
            .await?;
    }
    Ok(fleet)
}

#[tokio::test]
async fn shares_follow_weights_and_so_does_what_a_dead_agent_leaves() -> Result<()> {
    // GIVEN agents of weights 1, 2 and 4
    let mut fleet = weighted(&[1, 2, 4]).await?;
    fleet.add_file_pipelines(14).await?;
    let shared = wait_until_shared(&fleet, 3).await?;
    let load = |agent| load_of(&shared, agent);
    ensure!([load("relay-1"), load("relay-2"), load("relay-3")] == [2, 4, 8]);
    fleet.publish().await?;
    fleet.publish_more(50).await?;
    // WHEN the heaviest is killed
    let orphans = fleet.crash("relay-3").await?;
    // THEN the others share its pipelines by their weights, and keep what they have
    let after = wait_until_shared(&fleet, 2).await?;
    ensure!(load_of(&after, "relay-1") <= load_of(&after, "relay-2") / 2 + 1);
    let orphans: Vec<&str> = orphans.iter().map(String::as_str).collect();
    proof::unchanged(&shared, &after, &orphans)?;
    fleet.publish_more(50).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_standby_takes_over_from_the_dead_and_gives_back_to_the_living() -> Result<()> {
    // GIVEN an active agent, and a standby of weight 0
    let mut fleet = weighted(&[1, 0]).await?;
    fleet.add_file_pipelines(6).await?;
    let active = wait_until_shared(&fleet, 2).await?;
    ensure!(load_of(&active, "relay-1") == 6);
    fleet.publish().await?;
    fleet.publish_more(50).await?;
    // WHEN the active one is killed THEN the standby has everything
    fleet.crash("relay-1").await?;
    fleet
        .wait_until("the standby to run everything", |view| {
            let owners = owners(view);
            owners.len() == 6 && owners.values().all(|owner| owner.agent == "relay-2")
        })
        .await?;
    fleet.publish_more(50).await?;
    // WHEN it comes back THEN it has everything again
    fleet.start_agent("relay-1").await?;
    let back = wait_until_shared(&fleet, 2).await?;
    ensure!(load_of(&back, "relay-1") == 6);
    fleet.publish_more(50).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn what_happens_in_one_group_moves_nothing_in_another() -> Result<()> {
    // GIVEN two agents of one group, and two of another that own the same pipelines
    let mut fleet = Fleet::start(FleetOptions::agents(2)).await?;
    fleet.add_null_pipelines(24, "quiet").await?;
    for name in ["green-1", "green-2"] {
        let spec = fleet.spec(name).with("--relay-group-id", "green");
        fleet.start_as(spec).await?;
    }
    let green: GroupName = "green".parse()?;
    wait_until_shared(&fleet, 2).await?;
    let before = eventually(LONG, "the other group to share them", async || {
        let view = fleet.view_of(&green).await?;
        fairly_shared(&view).map_err(anyhow::Error::msg)?;
        anyhow::Ok(Some(owners(&view)))
    })
    .await?;
    ensure!(load_of(&before, "green-1") == 12, "{before:?}");
    // WHEN an agent of the one group is killed, and one more joins it
    fleet.crash("relay-1").await?;
    fleet.start_agent("relay-3").await?;
    wait_until_shared(&fleet, 2).await?;
    // THEN nothing of the other has moved
    ensure!(owners(&fleet.view_of(&green).await?) == before);
    Ok(())
}
