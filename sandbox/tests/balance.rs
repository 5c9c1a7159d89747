//! What speaks for and against evening out the load with nobody asking, as the catalog has it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tide_catalog::{
    balance::{Suggestion, activity, pause, resume, suggest},
    holds::Breaking,
    intent::Actor,
    rebalance::{applying, plan_store},
    schema,
};
use tide_model::{
    Epoch, GroupName,
    operation::OperationKind,
    rebalance::{By, RebalancePlan},
};
use tide_sandbox::postgres::{Postgres, PostgresOptions};

struct World {
    _postgres: Postgres,
    connection: PgConnection,
}

fn group() -> GroupName {
    "default".parse().expect("a name")
}

fn actor(name: &str, reason: &str) -> Actor {
    Actor {
        name: name.to_owned(),
        reason: reason.to_owned(),
    }
}

impl World {
    async fn start() -> Result<Self> {
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        let url = postgres.create_database("app").await?;
        let mut connection = PgConnection::connect(&url).await?;
        schema::migrate(&mut connection).await?;
        Ok(Self {
            _postgres: postgres,
            connection,
        })
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Kinds of events, in order.
    async fn events(&mut self) -> Result<Vec<String>> {
        let kinds = "SELECT kind FROM tide.events WHERE kind LIKE 'rebalance.%' ORDER BY id";
        Ok(sqlx::query_scalar(kinds)
            .fetch_all(&mut self.connection)
            .await?)
    }

    async fn pause(&mut self, name: &str, lasting: Option<Duration>) -> Result<()> {
        let actor = actor(name, "sale");
        pause(&mut self.connection, &group(), &actor, lasting).await?;
        Ok(())
    }

    /// Makes this session the control plane in office, and whoever was it before a former one.
    async fn elect(&mut self) -> Result<Epoch> {
        self.run("SELECT pg_advisory_unlock_all()").await?;
        self.run(
            "SELECT pg_advisory_lock(tide.leader_lock_class('control_plane'), hashtext('default'))",
        )
        .await?;
        let taken = "SELECT tide.leader_take('control_plane', 'default', 'test', NULL, '1 hour')";
        let taken = sqlx::query_scalar(taken);
        Ok(Epoch(taken.fetch_one(&mut self.connection).await?))
    }
}

#[tokio::test]
async fn a_pause_is_its_owners_and_ends_with_its_time() -> Result<()> {
    let mut world = World::start().await?;
    let hour = Some(Duration::from_hours(1));
    world.pause("ana", hour).await?;
    // Again by the same is the same pause.
    world.pause("ana", None).await?;
    world.pause("tom", hour).await?;
    let paused = activity(&mut world.connection, &group()).await?.pauses;
    let told: Vec<(&str, bool)> = paused
        .iter()
        .map(|pause| (pause.actor.as_str(), pause.until.is_some()))
        .collect();
    ensure!(told == [("ana", false), ("tom", true)], "{paused:?}");
    // Another group is not paused.
    let blue = "blue".parse()?;
    ensure!(
        activity(&mut world.connection, &blue)
            .await?
            .pauses
            .is_empty()
    );
    let others = resume(&mut world.connection, &group(), "eva", Breaking::Never).await;
    let others = others.expect_err("it is not hers");
    ensure!(others.is_precondition(), "{others}");
    ensure!(resume(&mut world.connection, &group(), "ana", Breaking::Never).await? == 1);
    // One whose time is over is none.
    world
        .run("UPDATE tide.rebalance_pauses SET expires_at = now() - interval '1 second'")
        .await?;
    ensure!(
        activity(&mut world.connection, &group())
            .await?
            .pauses
            .is_empty()
    );
    ensure!(resume(&mut world.connection, &group(), "eva", Breaking::Allowed).await? == 0);
    let kinds = world.events().await?;
    let expected = [
        "rebalance.paused",
        "rebalance.paused",
        "rebalance.paused",
        "rebalance.resumed",
    ];
    ensure!(kinds == expected, "{kinds:?}");
    Ok(())
}

#[tokio::test]
async fn what_moved_last_is_anybodys_and_counts_from_its_end() -> Result<()> {
    let mut world = World::start().await?;
    let nothing = activity(&mut world.connection, &group()).await?;
    ensure!(nothing.last.is_none() && nothing.running.is_none());
    world
        .run(
            "INSERT INTO tide.operations (relay_group_id, kind, target, actor, generation, state, created_at, finished_at) VALUES
             ('default', 'move', 'orders', 'ana', 1, 'succeeded', now() - interval '3 hours', now() - interval '1 hour'),
             ('default', 'rebalance', 'fleet', 'tom', 2, 'succeeded', now() - interval '2 hours', now() - interval '2 hours'),
             ('default', 'drain', 'relay-1', 'eva', 3, 'succeeded', now(), now()),
             ('blue', 'move', 'orders', 'eva', 4, 'succeeded', now(), now())",
        )
        .await?;
    let seen = activity(&mut world.connection, &group()).await?;
    ensure!(seen.running.is_none());
    let last = seen.last.context("nothing moved")?;
    ensure!(
        last.actor == "ana" && last.kind == OperationKind::Move,
        "{last:?}"
    );
    world
        .run(
            "INSERT INTO tide.operations (relay_group_id, kind, target, actor, generation) VALUES
             ('default', 'drain', 'relay-2', 'eva', 5)",
        )
        .await?;
    let seen = activity(&mut world.connection, &group()).await?;
    ensure!(seen.running.is_some(), "a drain is under way");
    ensure!(seen.last == Some(last));
    Ok(())
}

#[tokio::test]
async fn a_plan_is_suggested_once_and_by_the_control_plane_in_office() -> Result<()> {
    let mut world = World::start().await?;
    let view = tide_catalog::fleet::consistent_view(&mut world.connection, &group()).await?;
    let plan = RebalancePlan::of(&view, By::Load, &std::collections::BTreeMap::new());
    let kept = plan_store(&mut world.connection, &group(), &plan, "test").await?;
    let (former, current) = (world.elect().await?, world.elect().await?);
    let why = actor("tide-control-plane", "uneven");
    // THEN a former one neither suggests nor applies
    let (connection, group) = (&mut world.connection, group());
    let fenced = suggest(connection, &group, kept.id, &why, former).await;
    ensure!(fenced.is_err_and(|error| error.is_fenced()));
    let fenced = applying(connection, &group, kept.id).await?;
    let fenced = fenced.begin(&[], &why, None, Some(former)).await;
    ensure!(fenced.is_err_and(|error| error.is_fenced()));
    ensure!(activity(connection, &group).await?.suggested.is_none());
    // and the one in office does it once
    for expected in [Suggestion::New, Suggestion::Known] {
        let suggested = suggest(connection, &group, kept.id, &why, current).await?;
        ensure!(suggested == expected, "{suggested:?}");
    }
    let seen = activity(connection, &group).await?.suggested;
    ensure!(seen.context("nothing is suggested")?.plan == kept.id);
    let kinds = world.events().await?;
    ensure!(kinds == ["rebalance.suggested"], "{kinds:?}");
    Ok(())
}

#[tokio::test]
async fn agents_may_look_and_only_operators_may_pause() -> Result<()> {
    let mut world = World::start().await?;
    world
        .run("CREATE ROLE agent LOGIN; GRANT tide_relay TO agent; CREATE ROLE ops LOGIN; GRANT tide_admin TO ops; SET ROLE agent")
        .await?;
    activity(&mut world.connection, &group()).await?;
    let agent = actor("agent", "sale");
    let refused = pause(&mut world.connection, &group(), &agent, None).await;
    ensure!(refused.is_err_and(|error| error.is_permission_denied()));
    world.run("SET ROLE ops").await?;
    world.pause("ops", None).await?;
    ensure!(resume(&mut world.connection, &group(), "ops", Breaking::Never).await? == 1);
    Ok(())
}
