//! What agents say about sinks that they do not reach: what of it counts, for how long, and who hears it.

use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgListener};
use tide_catalog::{
    fleet::{Lag, read_view},
    reach::{Finding, Speaker, unreachable_clear, unreachable_set, unreachable_sweep},
    schema,
};
use tide_model::{Epoch, GroupName, fleet::Unreached};
use tide_sandbox::postgres::{Postgres, PostgresOptions};
use tokio::time::timeout;
use uuid::Uuid;

const LASTING: Duration = Duration::from_mins(10);

struct World {
    _postgres: Postgres,
    connection: PgConnection,
    listener: PgListener,
}

impl World {
    /// A catalog with pipeline `orders` and two agents.
    async fn start() -> Result<Self> {
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        let url = postgres.create_database("app").await?;
        let mut connection = PgConnection::connect(&url).await?;
        schema::migrate(&mut connection).await?;
        let mut listener = PgListener::connect(&url).await?;
        listener.listen("tide_intent").await?;
        let mut world = Self {
            _postgres: postgres,
            connection,
            listener,
        };
        world.run("SELECT tide.outbox_create('shop')").await?;
        world.configure("null").await?;
        for agent in ["a", "b"] {
            world.register(agent, run(agent)).await?;
        }
        Ok(world)
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut self.connection).await?;
        Ok(())
    }

    async fn configure(&mut self, sink: &str) -> Result<()> {
        self.run(&format!(
            r#"SELECT tide.relay_set_outbox('orders', 'shop', '{{"sink_type": "{sink}"}}')"#
        ))
        .await
    }

    async fn register(&mut self, agent: &str, run: Uuid) -> Result<()> {
        self.run(&format!(
            "INSERT INTO tide.agents (relay_group_id, name, incarnation, backend_pid, version, hostname, process_id, weight, run)
             VALUES ('default', '{agent}', '{run}', 1, '1', 'h', 1, 1, '{run}')
             ON CONFLICT (relay_group_id, name) DO UPDATE SET run = excluded.run"
        ))
        .await
    }

    async fn revision(&mut self) -> Result<i64> {
        let revision = sqlx::query_scalar("SELECT revision FROM tide.pipelines");
        Ok(revision.fetch_one(&mut self.connection).await?)
    }

    /// An agent says that it does not reach the sink of `orders`.
    async fn says(&mut self, agent: &str, run: Uuid) -> Result<u64> {
        let finding = Finding {
            unit: "orders".parse()?,
            revision: self.revision().await?,
            owned: true,
            reason: "refused".to_owned(),
            failing: Duration::from_secs(12),
        };
        let speaker = speaker(agent, run);
        Ok(unreachable_set(&mut self.connection, &speaker, &[finding], LASTING).await?)
    }

    /// And that it does after all.
    async fn takes_back(&mut self, agent: &str) -> Result<u64> {
        let (speaker, units) = (speaker(agent, run(agent)), ["orders".parse()?]);
        Ok(unreachable_clear(&mut self.connection, &speaker, &units).await?)
    }

    /// What counts.
    async fn counts(&mut self) -> Result<Vec<Unreached>> {
        let group: GroupName = "default".parse()?;
        let mut view = read_view(&mut self.connection, &group, Lag::Skip).await?;
        Ok(view
            .unreached
            .remove(&"orders".parse()?)
            .unwrap_or_default())
    }

    async fn rows(&mut self) -> Result<i64> {
        let rows = sqlx::query_scalar("SELECT count(*) FROM tide.relay_unreachable");
        Ok(rows.fetch_one(&mut self.connection).await?)
    }

    /// Whether everybody was told to look.
    async fn told(&mut self) -> Result<bool> {
        self.run("SELECT pg_notify('tide_intent', 'mark')").await?;
        let first = timeout(Duration::from_secs(30), self.listener.recv()).await??;
        if first.payload() == "mark" {
            return Ok(false);
        }
        self.listener.recv().await?;
        Ok(true)
    }
}

/// Always the same one of an agent.
fn run(agent: &str) -> Uuid {
    Uuid::from_u128(u128::from(agent.as_bytes()[0]))
}

fn speaker(agent: &str, run: Uuid) -> Speaker {
    Speaker {
        group: "default".parse().expect("a name"),
        agent: agent.parse().expect("a name"),
        run,
    }
}

#[tokio::test]
async fn a_word_counts_until_it_is_taken_back_and_everybody_hears_of_both() -> Result<()> {
    let mut world = World::start().await?;
    ensure!(!world.told().await?, "nothing was said");
    ensure!(world.says("a", run("a")).await? == 1);
    ensure!(world.told().await?);
    let counts = world.counts().await?;
    ensure!(
        counts.len() == 1 && counts[0].agent.as_str() == "a",
        "{counts:?}"
    );
    ensure!(
        counts[0].owned && counts[0].reason == "refused",
        "{counts:?}"
    );
    let lasts = counts[0].until - counts[0].since;
    ensure!((lasts.whole_seconds() - 612).abs() <= 1, "{lasts}");
    // Another one's word is another one's.
    ensure!(world.says("b", run("b")).await? == 1);
    ensure!(world.told().await?);
    ensure!(world.takes_back("a").await? == 1);
    ensure!(world.told().await?);
    let counts = world.counts().await?;
    ensure!(
        counts.len() == 1 && counts[0].agent.as_str() == "b",
        "{counts:?}"
    );
    // What was not said cannot be taken back, and nobody is bothered.
    ensure!(world.takes_back("a").await? == 0);
    ensure!(!world.told().await?);
    Ok(())
}

#[tokio::test]
async fn nothing_counts_of_another_run_or_another_configuration_or_of_yesterday() -> Result<()> {
    let mut world = World::start().await?;
    // A run that is over, or an agent that nobody knows, has no say.
    ensure!(world.says("a", run("z")).await? == 0);
    ensure!(world.says("z", run("z")).await? == 0);
    ensure!(!world.told().await?);
    // A restart makes it void.
    ensure!(world.says("a", run("a")).await? == 1);
    world.register("a", run("c")).await?;
    ensure!(world.counts().await?.is_empty());
    ensure!(world.says("a", run("c")).await? == 1);
    ensure!(world.counts().await?.len() == 1);
    // And so does another configuration.
    world.configure("stdout").await?;
    ensure!(world.counts().await?.is_empty());
    ensure!(world.says("a", run("c")).await? == 1);
    ensure!(world.counts().await?.len() == 1);
    // And time.
    world
        .run("UPDATE tide.relay_unreachable SET expires_at = clock_timestamp()")
        .await?;
    ensure!(world.counts().await?.is_empty());
    ensure!(world.rows().await? == 1);
    Ok(())
}

#[tokio::test]
async fn what_counts_no_longer_goes_and_so_does_what_is_said_of_what_is_gone() -> Result<()> {
    let mut world = World::start().await?;
    world
        .run("SELECT pg_advisory_lock(tide.leader_lock_class('janitor'), hashtext(''))")
        .await?;
    let taken =
        sqlx::query_scalar("SELECT tide.leader_take('janitor', '', 'test', NULL, '1 hour')");
    let epoch = Epoch(taken.fetch_one(&mut world.connection).await?);
    world
        .run(
            "INSERT INTO tide.relay_consumer_offsets (relay_group_id, name, last_change_id, system_identifier, epoch)
             VALUES ('default', 'orders', 1, 1, nextval('tide.epoch'))",
        )
        .await?;
    world.says("a", run("a")).await?;
    world.says("b", run("b")).await?;
    world
        .run("UPDATE tide.relay_unreachable SET expires_at = clock_timestamp() WHERE agent = 'a'")
        .await?;
    let former = unreachable_sweep(&mut world.connection, Epoch(epoch.0 - 1)).await;
    ensure!(
        former.is_err_and(|error| error.is_fenced()),
        "a former janitor"
    );
    ensure!(unreachable_sweep(&mut world.connection, epoch).await? == 1);
    ensure!(world.rows().await? == 1);
    world
        .run("SELECT tide.agent_remove('default', 'b', 'ana')")
        .await?;
    ensure!(world.rows().await? == 0, "it goes with its agent");
    world.says("a", run("a")).await?;
    world.run("SELECT tide.relay_delete('orders')").await?;
    ensure!(world.rows().await? == 0, "and with its pipeline");
    Ok(())
}
