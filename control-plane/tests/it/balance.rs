//! Load that is evened out with nobody asking.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tide_control_plane::config::{RebalanceMode, Rebalancing};
use tide_model::rebalance::{Mode, RebalanceStatus};
use tide_proto::fleet::v1::{
    GetRebalanceStatusRequest, PauseRebalanceRequest, ResumeRebalanceRequest,
};
use tide_sandbox::wait::eventually;
use tonic::Code;

use crate::world::{Locks, SOON, World, hint};

fn rebalancing(mode: RebalanceMode, cooldown: Duration) -> Rebalancing {
    Rebalancing {
        mode,
        cooldown,
        interval: Duration::from_millis(100),
        ..Rebalancing::default()
    }
}

/// Two agents with two pipelines each, of which the first has both that are busy.
async fn uneven(world: &World) -> Result<(Locks, Locks)> {
    world.pipelines(&["busy", "hot", "idle", "quiet"]).await?;
    let mut one = Locks::register(world, "relay-1").await?;
    one.take(&["busy", "hot"]).await?;
    let mut two = Locks::register(world, "relay-2").await?;
    two.take(&["idle", "quiet"]).await?;
    execute(
        world,
        "INSERT INTO tide.relay_costs (relay_group_id, name, last_change_id, sampled_at, since, rate)
         VALUES ('default', 'busy', 1, now(), now(), 640), ('default', 'hot', 1, now(), now(), 640)",
    )
    .await?;
    Ok((one, two))
}

async fn execute(world: &World, sql: &'static str) -> Result<()> {
    sqlx::raw_sql(sql)
        .execute(&mut world.connection().await?)
        .await?;
    Ok(())
}

async fn count(world: &World, sql: &'static str) -> Result<i64> {
    let mut connection = world.connection().await?;
    Ok(sqlx::query_scalar(sql).fetch_one(&mut connection).await?)
}

/// Waits until there are so many.
async fn counted(world: &World, sql: &'static str, expected: i64) -> Result<()> {
    let waited = eventually(SOON, sql, async || -> Result<_> {
        Ok((count(world, sql).await? == expected).then_some(()))
    });
    Ok(waited.await?)
}

async fn status(world: &World) -> Result<RebalanceStatus> {
    let mut client = world.operations();
    let answered = client
        .get_rebalance_status(GetRebalanceStatusRequest {})
        .await?;
    Ok(answered.into_inner().try_into()?)
}

fn pausing(actor: &str, reason: &str) -> PauseRebalanceRequest {
    PauseRebalanceRequest {
        actor: actor.to_owned(),
        reason: reason.to_owned(),
        lasting: None,
    }
}

fn resuming(actor: &str, breaking: bool) -> ResumeRebalanceRequest {
    ResumeRebalanceRequest {
        actor: actor.to_owned(),
        breaking,
    }
}

const SUGGESTED: &str = "SELECT count(*) FROM tide.events WHERE kind = 'rebalance.suggested'";
const OPERATIONS: &str = "SELECT count(*) FROM tide.operations";

#[tokio::test]
async fn a_suggestion_is_recorded_once_a_plan_and_moves_nothing() -> Result<()> {
    let often = rebalancing(RebalanceMode::Suggest, Duration::from_millis(100));
    let world = World::start_with(|config| config.balance = often).await?;
    let (_one, _two) = uneven(&world).await?;
    counted(&world, SUGGESTED, 1).await?;
    let (actor, reason): (String, String) =
        sqlx::query_as("SELECT actor, reason FROM tide.events WHERE kind = 'rebalance.suggested'")
            .fetch_one(&mut world.connection().await?)
            .await?;
    ensure!(actor == "tide-control-plane", "{actor}");
    ensure!(
        reason == "uneven: the fullest agent has 1.97 times the mean, and would have 1.00",
        "{reason}"
    );
    let first = status(&world).await?;
    ensure!(first.terms.context("no terms")?.mode == Mode::Suggest);
    let suggested = first.activity.suggested.context("nothing is suggested")?;
    // Many looks later there is one more only because there is another plan.
    execute(&world, "UPDATE tide.relay_costs SET rate = 5000").await?;
    let another = eventually(SOON, "another suggestion", async || -> Result<_> {
        let newest = status(&world).await?.activity.suggested;
        Ok(newest.filter(|newest| newest.plan != suggested.plan))
    });
    another.await?;
    ensure!(count(&world, SUGGESTED).await? == 2);
    ensure!(count(&world, OPERATIONS).await? == 0);
    Ok(())
}

#[tokio::test]
async fn suggestions_keep_their_distance_however_the_load_changes() -> Result<()> {
    let seldom = rebalancing(RebalanceMode::Suggest, Duration::from_hours(1));
    let world = World::start_with(|config| config.balance = seldom).await?;
    let (_one, _two) = uneven(&world).await?;
    counted(&world, SUGGESTED, 1).await?;
    execute(&world, "UPDATE tide.relay_costs SET rate = 5000").await?;
    let decision = status(&world).await?.decision.context("no decision")?;
    ensure!(decision.starts_with("suggested plan "), "{decision}");
    // Whoever applies it, or anything else, makes it wait for longer.
    execute(
        &world,
        "INSERT INTO tide.operations (relay_group_id, kind, target, actor, generation, state, finished_at)
         VALUES ('default', 'move', 'busy', 'ana', 1, 'succeeded', now())",
    )
    .await?;
    let decision = status(&world).await?.decision.context("no decision")?;
    ensure!(decision.starts_with("cooling down until "), "{decision}");
    ensure!(count(&world, SUGGESTED).await? == 1);
    Ok(())
}

#[tokio::test]
async fn a_plan_is_applied_by_itself_with_the_figures_as_the_reason() -> Result<()> {
    let auto = rebalancing(RebalanceMode::Auto, Duration::from_hours(1));
    let world = World::start_with(|config| config.balance = auto).await?;
    let (_one, _two) = uneven(&world).await?;
    counted(&world, OPERATIONS, 1).await?;
    let (kind, actor, reason, plan): (String, String, String, bool) = sqlx::query_as(
        "SELECT o.kind, o.actor, o.reason, p.id IS NOT NULL FROM tide.operations o
         LEFT JOIN tide.rebalance_plans p ON p.operation_id = o.id",
    )
    .fetch_one(&mut world.connection().await?)
    .await?;
    ensure!(kind == "rebalance" && actor == "tide-control-plane" && plan);
    ensure!(
        reason == "uneven: the fullest agent has 1.97 times the mean, and would have 1.00",
        "{reason}"
    );
    Ok(())
}

#[tokio::test]
async fn an_agent_that_has_just_come_is_left_to_the_agents() -> Result<()> {
    let auto = rebalancing(RebalanceMode::Auto, Duration::from_hours(1));
    let world = World::start_with(|config| config.balance = auto).await?;
    world.pipelines(&["a", "b", "c", "d"]).await?;
    let mut one = Locks::register(&world, "relay-1").await?;
    one.take(&["a", "b", "c", "d"]).await?;
    let _two = Locks::register(&world, "relay-2").await?;
    let found = status(&world).await?;
    ensure!(found.imbalance == (2.0, 1.0), "{found:?}");
    let decision = found.decision.context("no decision")?;
    ensure!(
        decision == "waits: agents are moving pipelines by themselves (2 to go)",
        "{decision}"
    );
    ensure!(count(&world, OPERATIONS).await? == 0);
    Ok(())
}

#[tokio::test]
async fn it_waits_for_who_is_behind_and_not_for_who_waits_for_an_operator() -> Result<()> {
    let auto = rebalancing(RebalanceMode::Auto, Duration::from_hours(1));
    let world = World::start_with(|config| config.balance = auto).await?;
    let mut client = world.operations();
    client.pause_rebalance(pausing("ana", "set-up")).await?;
    let (_one, _two) = uneven(&world).await?;
    execute(
        &world,
        "SELECT tide.outbox_publish('shop', '{}');
         UPDATE tide.outbox_shop SET created_at = now() - interval '1 hour'",
    )
    .await?;
    client.resume_rebalance(resuming("ana", false)).await?;
    let decision = status(&world).await?.decision.context("no decision")?;
    ensure!(
        decision.starts_with("waits: ") && decision.ends_with("s behind"),
        "{decision}"
    );
    ensure!(count(&world, OPERATIONS).await? == 0);
    execute(
        &world,
        "UPDATE tide.relay_consumer_offsets SET state = 'paused'",
    )
    .await?;
    counted(&world, OPERATIONS, 1).await
}

#[tokio::test]
async fn a_pause_is_recorded_with_its_reason_and_others_need_to_break_it() -> Result<()> {
    let auto = rebalancing(RebalanceMode::Auto, Duration::from_hours(1));
    let world = World::start_with(|config| config.balance = auto).await?;
    let mut client = world.operations();
    let refused = client.pause_rebalance(pausing("ana", "")).await;
    ensure!(refused.is_err_and(|status| status.code() == Code::InvalidArgument));
    client.pause_rebalance(pausing("ana", "sale")).await?;
    let (_one, _two) = uneven(&world).await?;
    let decision = status(&world).await?.decision.context("no decision")?;
    ensure!(decision == "paused by ana: sale", "{decision}");
    ensure!(count(&world, OPERATIONS).await? == 0);
    let refused = client.resume_rebalance(resuming("tom", false)).await;
    let refused = refused.expect_err("it is not his");
    ensure!(refused.code() == Code::FailedPrecondition, "{refused}");
    ensure!(hint(&refused).contains("--break"), "{refused:?}");
    let ended = client.resume_rebalance(resuming("tom", true)).await?;
    ensure!(ended.into_inner().ended == 1);
    counted(&world, OPERATIONS, 1).await?;
    let commands = "SELECT string_agg(kind || ' ' || (detail ->> 'code'), ', ' ORDER BY id) FROM tide.events WHERE kind LIKE 'command.rebalance%'";
    let commands: String = sqlx::query_scalar(commands)
        .fetch_one(&mut world.connection().await?)
        .await?;
    ensure!(
        commands.ends_with("command.rebalance_pause Ok, command.rebalance_resume FailedPrecondition, command.rebalance_resume Ok"),
        "{commands}"
    );
    Ok(())
}
