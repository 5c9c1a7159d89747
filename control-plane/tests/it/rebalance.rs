//! Plans: what they say, how long they hold, and what becomes of them.

use anyhow::{Context as _, Result, ensure};
use tide_model::{
    operation::OperationState,
    rebalance::{By, Proposal},
};
use tide_proto::fleet::v1::{
    ApplyRebalanceRequest, GetRebalancePlanRequest, PlanRebalanceRequest, RebalanceBy,
};
use tonic::{Code, Status};

use crate::{
    operations::{operation, planned, rebalance, two_agents},
    world::{Locks, World, hint},
};

async fn plan(world: &World, by: RebalanceBy) -> Result<Proposal> {
    let request = PlanRebalanceRequest {
        by: by.into(),
        actor: "ana".to_owned(),
        validate_only: false,
    };
    let answered = world.operations().plan_rebalance(request).await?;
    Ok(answered.into_inner().plan.context("no plan")?.try_into()?)
}

fn applying(proposal: &Proposal) -> ApplyRebalanceRequest {
    let record = proposal.record.as_ref();
    ApplyRebalanceRequest {
        plan_id: record.map(|it| it.id.to_string()).unwrap_or_default(),
        reason: "too much on one".to_owned(),
        ..rebalance(Vec::new())
    }
}

async fn refused(world: &World, proposal: &Proposal) -> Status {
    let mut client = world.operations();
    let applied = client.apply_rebalance(applying(proposal)).await;
    applied.expect_err("it is refused")
}

async fn execute(world: &World, sql: &'static str) -> Result<()> {
    sqlx::raw_sql(sql)
        .execute(&mut world.connection().await?)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_plan_is_carried_out_and_its_stale_moves_are_named() -> Result<()> {
    let world = World::start().await?;
    let (_one, _two) = two_agents(&world).await?;
    let plan = world
        .operations()
        .plan_rebalance(PlanRebalanceRequest::default())
        .await?
        .into_inner();
    ensure!(
        plan.moves.len() == 1,
        "one of two pipelines evens it out: {plan:?}"
    );
    ensure!(
        plan.moves[0].from == "relay-1" && plan.moves[0].to == "relay-2",
        "{plan:?}"
    );

    let stale = planned("audit", "relay-2", "relay-1");
    let gone = planned("deleted", "relay-1", "relay-2");
    let only_stale = rebalance(vec![stale.clone(), gone.clone()]);
    let status = world
        .operations()
        .apply_rebalance(only_stale)
        .await
        .unwrap_err();
    ensure!(status.code() == Code::Aborted, "{status}");
    ensure!(
        status.message().contains("audit") && status.message().contains("deleted"),
        "{status}"
    );
    ensure!(
        hint(&status).contains("tidectl rebalance plan"),
        "{status:?}"
    );

    let fresh = planned("orders", "relay-1", "relay-2");
    let mixed = rebalance(vec![stale.clone(), fresh.clone()]);
    let applied = world
        .operations()
        .apply_rebalance(mixed)
        .await?
        .into_inner();
    ensure!(applied.skipped == [stale], "{:?}", applied.skipped);
    let begun = operation(applied.operation)?;
    ensure!(begun.state == OperationState::Running && begun.moves.len() == 1);
    Ok(())
}

#[tokio::test]
async fn a_plan_says_why_of_everything_is_kept_and_becomes_one_operation() -> Result<()> {
    let world = World::start().await?;
    let (_one, _two) = two_agents(&world).await?;
    let proposal = plan(&world, RebalanceBy::Unspecified).await?;
    let record = proposal.record.clone().context("it is not kept")?;
    ensure!(record.actor == "ana" && record.operation.is_none());
    ensure!(proposal.plan.by == By::Weight && proposal.plan.moves.len() == 1);
    ensure!(
        proposal.plan.stays.len() == 1 && proposal.plan.stays[0].reason.starts_with("kept: "),
        "{proposal:?}"
    );
    let loads: Vec<(u64, u64)> = proposal
        .plan
        .agents
        .iter()
        .map(|agent| (agent.before.load, agent.after.load))
        .collect();
    ensure!(loads == [(2, 1), (0, 1)], "{loads:?}");

    // Planning again changes nothing, and what is only asked for is not kept.
    ensure!(plan(&world, RebalanceBy::Weight).await? == proposal);
    let request = PlanRebalanceRequest {
        validate_only: true,
        ..PlanRebalanceRequest::default()
    };
    let shown = world.operations().plan_rebalance(request).await?;
    let shown = shown.into_inner().plan.context("no plan")?;
    ensure!(shown.id.is_empty() && shown.hash == proposal.plan.hash);
    let request = GetRebalancePlanRequest {
        id: record.id.to_string(),
    };
    let mut client = world.operations();
    let got = client.get_rebalance_plan(request.clone()).await?;
    let got: Proposal = got.into_inner().plan.context("no plan")?.try_into()?;
    ensure!(got == proposal);

    // WHEN it is applied, twice
    let mut begun = Vec::new();
    for _ in 0..2 {
        let applied = client.apply_rebalance(applying(&proposal)).await?;
        let applied = applied.into_inner();
        ensure!(applied.skipped.is_empty());
        begun.push(operation(applied.operation)?);
    }
    // THEN it is one operation, which the plan names
    ensure!(begun[0].id == begun[1].id, "{begun:?}");
    ensure!(begun[0].state == OperationState::Running && begun[0].moves.len() == 1);
    ensure!(begun[0].moves[0].pipeline == proposal.plan.moves[0].pipeline);
    let got = client.get_rebalance_plan(request).await?.into_inner();
    ensure!(got.plan.context("no plan")?.operation_id == begun[0].id.to_string());
    Ok(())
}

#[tokio::test]
async fn a_plan_for_other_agents_or_of_yesterday_is_refused_and_says_what_changed() -> Result<()> {
    let world = World::start().await?;
    let (_one, _two) = two_agents(&world).await?;
    let proposal = plan(&world, RebalanceBy::Weight).await?;
    let three = Locks::register(&world, "relay-3").await?;
    let status = refused(&world, &proposal).await;
    ensure!(status.code() == Code::Aborted, "{status}");
    ensure!(
        status.message() == "the plan is stale: agent relay-3 has joined",
        "{status}"
    );
    ensure!(
        hint(&status).contains("tidectl rebalance plan"),
        "{status:?}"
    );
    // It is not spent: once the agents are the same again, it may be applied.
    three.stop().await?;
    execute(
        &world,
        "UPDATE tide.rebalance_plans SET expires_at = now() - interval '1 second'",
    )
    .await?;
    let status = refused(&world, &proposal).await;
    ensure!(status.code() == Code::Aborted, "{status}");
    ensure!(status.message().ends_with("its time is over"), "{status}");
    // A plan whose time is over is not found again by planning.
    let fresh = plan(&world, RebalanceBy::Weight).await?;
    ensure!(fresh.plan == proposal.plan && fresh.record != proposal.record);
    execute(&world, "DELETE FROM tide.rebalance_plans").await?;
    let status = refused(&world, &proposal).await;
    ensure!(status.code() == Code::NotFound, "{status}");
    ensure!(
        hint(&status).contains("tidectl rebalance plan"),
        "{status:?}"
    );
    Ok(())
}

#[tokio::test]
async fn one_that_went_elsewhere_is_skipped_and_the_rest_of_the_plan_goes_on() -> Result<()> {
    let world = World::start().await?;
    world.pipelines(&["a", "b", "c", "d"]).await?;
    let mut one = Locks::register(&world, "relay-1").await?;
    one.take(&["a", "b", "c", "d"]).await?;
    let mut two = Locks::register(&world, "relay-2").await?;
    let proposal = plan(&world, RebalanceBy::Weight).await?;
    ensure!(proposal.plan.moves.len() == 2, "{proposal:?}");
    let early = proposal.plan.moves[0].pipeline.clone();
    one.release(&[early.as_str()]).await?;
    two.take(&[early.as_str()]).await?;
    let mut client = world.operations();
    let applied = client.apply_rebalance(applying(&proposal)).await?;
    let applied = applied.into_inner();
    ensure!(
        applied.skipped.len() == 1 && applied.skipped[0].pipeline == early.as_str(),
        "{applied:?}"
    );
    let begun = operation(applied.operation)?;
    ensure!(
        begun.moves.len() == 1 && begun.moves[0].pipeline == proposal.plan.moves[1].pipeline,
        "{begun:?}"
    );
    Ok(())
}

#[tokio::test]
async fn measured_load_counts_from_the_plan_that_is_applied_on() -> Result<()> {
    let world = World::start().await?;
    world.pipelines(&["busy", "hot", "idle", "quiet"]).await?;
    let mut one = Locks::register(&world, "relay-1").await?;
    one.take(&["busy", "hot"]).await?;
    let mut two = Locks::register(&world, "relay-2").await?;
    two.take(&["idle", "quiet"]).await?;
    execute(
        &world,
        "INSERT INTO tide.relay_costs (relay_group_id, name, last_change_id, sampled_at, since, rate)
         VALUES ('default', 'busy', 1, now(), now(), 640), ('default', 'hot', 1, now(), now(), 640)",
    )
    .await?;
    // By weight there is nothing to do, whatever is measured.
    let proposal = plan(&world, RebalanceBy::Weight).await?;
    ensure!(
        proposal.plan.is_empty() && proposal.record.is_none(),
        "{proposal:?}"
    );
    let proposal = plan(&world, RebalanceBy::Load).await?;
    let planned = proposal.plan.moves.iter();
    let moved: Vec<&str> = planned.map(|it| it.pipeline.as_str()).collect();
    ensure!(moved == ["busy", "idle"], "{proposal:?}");
    let view = async || {
        let mut connection = world.connection().await?;
        anyhow::Ok(
            tide_catalog::fleet::consistent_view(&mut connection, &crate::world::group()).await?,
        )
    };
    ensure!(view().await?.pipelines.iter().all(|row| row.weight == 1));

    // WHEN it is applied THEN its weights are in force, and everybody computes its moves.
    let mut client = world.operations();
    client.apply_rebalance(applying(&proposal)).await?;
    let view = view().await?;
    let weights: Vec<u32> = view.pipelines.iter().map(|row| row.weight).collect();
    ensure!(weights == [64, 64, 1, 1], "{weights:?}");
    for (row, to) in view.pipelines.iter().zip(view.moves()) {
        ensure!(
            to.is_some() == moved.contains(&row.name.as_str()),
            "{row:?} {to:?}"
        );
    }
    // A weight in the configuration wins.
    execute(
        &world,
        r#"UPDATE tide.pipelines SET config = config || '{"weight": 5}' WHERE name = 'hot'"#,
    )
    .await?;
    let mut connection = world.connection().await?;
    let group = crate::world::group();
    let view = tide_catalog::fleet::consistent_view(&mut connection, &group).await?;
    ensure!(view.pipelines[1].weight == 5, "{:?}", view.pipelines[1]);
    Ok(())
}
