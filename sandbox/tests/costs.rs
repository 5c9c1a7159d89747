//! What pipelines cost, as the janitor measures it: time passes by dating the last look back.

use anyhow::{Context as _, Result, ensure};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tide_catalog::{
    janitor::{History, costs_sample, history_purge},
    rebalance::{plan_get, plan_store, unit_costs},
    schema,
};
use tide_model::{
    Epoch, GroupName,
    rebalance::{By, RebalancePlan},
};
use tide_sandbox::postgres::{Postgres, PostgresOptions};

struct World {
    postgres: Postgres,
    connection: PgConnection,
    epoch: Epoch,
}

impl World {
    /// A catalog with pipeline `orders`, and a janitor in office.
    async fn start() -> Result<Self> {
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        let url = postgres.create_database("app").await?;
        let mut connection = PgConnection::connect(&url).await?;
        schema::migrate(&mut connection).await?;
        let mut world = Self {
            postgres,
            connection,
            epoch: Epoch(0),
        };
        world.run("SELECT tide.outbox_create('shop')").await?;
        world
            .run(r#"SELECT tide.relay_set_outbox('orders', 'shop', '{"sink_type": "null"}')"#)
            .await?;
        world.elect().await?;
        Ok(world)
    }

    async fn elect(&mut self) -> Result<()> {
        self.run("SELECT pg_advisory_unlock_all()").await?;
        self.run("SELECT pg_advisory_lock(tide.leader_lock_class('janitor'), hashtext(''))")
            .await?;
        let taken =
            sqlx::query_scalar("SELECT tide.leader_take('janitor', '', 'test', NULL, '1 hour')");
        self.epoch = Epoch(taken.fetch_one(&mut self.connection).await?);
        Ok(())
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Stores a unit's position.
    async fn position(&mut self, unit: &str, id: i64) -> Result<()> {
        sqlx::query(
            "INSERT INTO tide.relay_consumer_offsets (relay_group_id, name, last_change_id, system_identifier, epoch)
             VALUES ('default', $1, $2, 1, nextval('tide.epoch'))
             ON CONFLICT (relay_group_id, name) DO UPDATE SET last_change_id = excluded.last_change_id",
        )
        .bind(unit)
        .bind(id)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// Lets so many seconds pass since the last look, and so many since the first.
    async fn pass(&mut self, last: u32, first: u32) -> Result<()> {
        self.run(&format!(
            "UPDATE tide.relay_costs SET sampled_at = clock_timestamp() - interval '{last} seconds',
                    since = clock_timestamp() - interval '{first} seconds'"
        ))
        .await
    }

    async fn sample(&mut self) -> Result<u64> {
        Ok(costs_sample(&mut self.connection, self.epoch).await?)
    }

    async fn rate(&mut self, unit: &str) -> Result<f64> {
        let rate = sqlx::query_scalar("SELECT rate FROM tide.relay_costs WHERE name = $1");
        let rate: Option<f64> = rate.bind(unit).fetch_optional(&mut self.connection).await?;
        rate.with_context(|| format!("{unit} was never looked at"))
    }
}

fn group() -> GroupName {
    "default".parse().expect("a valid name")
}

/// Statements take a moment, and a moment counts.
fn about(expected: f64, rate: f64) -> Result<()> {
    let near = (expected * 0.9..=expected * 1.01).contains(&rate);
    ensure!(near, "{rate} is not about {expected}");
    Ok(())
}

#[tokio::test]
async fn a_rate_is_the_mean_at_first_and_then_forgets_half_in_ten_minutes() -> Result<()> {
    let mut world = World::start().await?;
    world.position("orders", 100).await?;
    ensure!(world.sample().await? == 1 && world.rate("orders").await? == 0.0);
    world.pass(60, 60).await?;
    world.position("orders", 700).await?;
    world.sample().await?;
    about(10.0, world.rate("orders").await?)?;
    world.pass(30, 90).await?;
    world.position("orders", 1_300).await?;
    world.sample().await?;
    about(1_200.0 / 90.0, world.rate("orders").await?)?;
    // Hours later a silence of ten minutes halves it.
    let before = world.rate("orders").await?;
    world.pass(600, 7_200).await?;
    world.sample().await?;
    about(before / 2.0, world.rate("orders").await?)
}

#[tokio::test]
async fn a_shard_counts_its_own_messages_and_a_position_that_goes_back_counts_none() -> Result<()> {
    let mut world = World::start().await?;
    for unit in ["orders#1/4", "orders#2/4"] {
        world.position(unit, 1_000).await?;
    }
    world.sample().await?;
    world.pass(10, 10).await?;
    world.position("orders#1/4", 1_400).await?;
    world.position("orders#2/4", 0).await?;
    world.sample().await?;
    about(10.0, world.rate("orders#1/4").await?)?;
    about(0.0, world.rate("orders#2/4").await?)?;
    // What is delivered again after a rewind is work again.
    world.pass(10, 10).await?;
    world.position("orders#2/4", 400).await?;
    world.sample().await?;
    about(10.0, world.rate("orders#2/4").await?)?;
    // Parts of a layout that is no more are forgotten.
    world
        .run("DELETE FROM tide.relay_consumer_offsets WHERE name = 'orders#1/4'")
        .await?;
    world.sample().await?;
    ensure!(world.rate("orders#1/4").await.is_err());
    Ok(())
}

#[tokio::test]
async fn what_is_idle_is_not_written_again() -> Result<()> {
    let mut world = World::start().await?;
    world.position("orders", 0).await?;
    ensure!(world.sample().await? == 0, "it never moved");
    world.position("orders", 5).await?;
    ensure!(world.sample().await? == 1);
    world.pass(60, 60).await?;
    ensure!(world.sample().await? == 0, "it did not move since");
    // A rate that has faded away is none, and is written down as such once.
    world
        .run("UPDATE tide.relay_costs SET rate = 0.009")
        .await?;
    ensure!(world.sample().await? == 1 && world.rate("orders").await? == 0.0);
    ensure!(world.sample().await? == 0);
    Ok(())
}

#[tokio::test]
async fn a_janitor_of_an_earlier_term_measures_nothing() -> Result<()> {
    let mut world = World::start().await?;
    world.position("orders", 5).await?;
    let former = world.epoch;
    world.elect().await?;
    let refused = costs_sample(&mut world.connection, former).await;
    ensure!(refused.is_err_and(|error| error.is_fenced()));
    ensure!(world.rate("orders").await.is_err());
    Ok(())
}

#[tokio::test]
async fn what_is_measured_changes_no_weight_by_itself_and_a_configured_one_is_told() -> Result<()> {
    let mut world = World::start().await?;
    world.position("orders", 5).await?;
    world.sample().await?;
    world.run("UPDATE tide.relay_costs SET rate = 5000").await?;
    let weight = "SELECT weight FROM tide.relay_ownership('default')";
    let found: i32 = sqlx::query_scalar(weight)
        .fetch_one(&mut world.connection)
        .await?;
    ensure!(found == 1);
    let costs = unit_costs(&mut world.connection, &group()).await?;
    let cost = costs.values().next().context("no cost")?;
    ensure!(cost.rate > 4_999.0 && !cost.configured, "{cost:?}");
    world
        .run(r#"UPDATE tide.pipelines SET config = config || '{"weight": 7}'"#)
        .await?;
    let costs = unit_costs(&mut world.connection, &group()).await?;
    ensure!(costs.values().all(|cost| cost.configured), "{costs:?}");
    Ok(())
}

#[tokio::test]
async fn a_plan_is_kept_once_until_its_time_is_over() -> Result<()> {
    let mut world = World::start().await?;
    let group = group();
    let view = tide_catalog::fleet::consistent_view(&mut world.connection, &group).await?;
    let plan = RebalancePlan::of(&view, By::Weight, &std::collections::BTreeMap::new());
    let kept = plan_store(&mut world.connection, &group, &plan, "ana").await?;
    // Two at once find one, and so does somebody else later.
    let mut other = PgConnection::connect(&world.postgres.url("app")).await?;
    let (one, two) = tokio::join!(
        plan_store(&mut world.connection, &group, &plan, "tom"),
        plan_store(&mut other, &group, &plan, "eva")
    );
    ensure!(one? == kept && two? == kept);
    let read = plan_get(&mut world.connection, &group, kept.id).await?;
    ensure!(read.plan == plan && read.record.as_ref() == Some(&kept));
    // Another group has none of it.
    let blue = "blue".parse()?;
    let missing = plan_get(&mut world.connection, &blue, kept.id).await;
    ensure!(missing.is_err_and(|error| error.is_not_found()));

    let day = std::time::Duration::from_hours(24);
    let epoch = world.epoch;
    let purged = history_purge(&mut world.connection, epoch, History::Plans, day, 10).await?;
    ensure!(purged == 0, "its time is not over");
    world
        .run("UPDATE tide.rebalance_plans SET expires_at = now() - interval '1 second'")
        .await?;
    let later = plan_store(&mut world.connection, &group, &plan, "ana").await?;
    ensure!(later.id != kept.id);
    let purged = history_purge(&mut world.connection, epoch, History::Plans, day, 10).await?;
    ensure!(purged == 1);
    ensure!(
        plan_get(&mut world.connection, &group, later.id)
            .await
            .is_ok()
    );
    Ok(())
}

#[tokio::test]
async fn agents_may_measure_and_only_operators_may_plan() -> Result<()> {
    let mut world = World::start().await?;
    world
        .run("CREATE ROLE agent LOGIN; GRANT tide_relay TO agent; CREATE ROLE ops LOGIN; GRANT tide_admin TO ops")
        .await?;
    world.position("orders", 5).await?;
    let group = group();
    let view = tide_catalog::fleet::consistent_view(&mut world.connection, &group).await?;
    let plan = RebalancePlan::of(&view, By::Weight, &std::collections::BTreeMap::new());
    world.run("SET ROLE agent").await?;
    ensure!(world.sample().await? == 1);
    unit_costs(&mut world.connection, &group).await?;
    let refused = plan_store(&mut world.connection, &group, &plan, "agent").await;
    ensure!(refused.is_err_and(|error| error.is_permission_denied()));
    world.run("SET ROLE ops").await?;
    plan_store(&mut world.connection, &group, &plan, "ops").await?;
    Ok(())
}
