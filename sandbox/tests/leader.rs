//! Elections against a real server: who leads, how it is lost, and what an old leader can still do.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use tide_catalog::{
    leader::{Heard, LeaderConfig, LeaderElection, LeaderRole, PgNotifyBus, RELEASED},
    operations::operation_settle_as,
    schema,
};
use tide_model::{OperationId, operation::OperationState};
use tide_sandbox::{
    postgres::{Postgres, PostgresOptions},
    wait::eventually,
};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const SOON: Duration = Duration::from_secs(30);
/// Longer than any test: what happens within it was not the lease's doing.
const NEVER: Duration = Duration::from_mins(10);

struct World {
    postgres: Postgres,
    pool: PgPool,
}

impl World {
    async fn start() -> Result<Self> {
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        let url = postgres.create_database("app").await?;
        let pool = PgPool::connect(&url).await?;
        schema::migrate(&mut *pool.acquire().await?).await?;
        Ok(Self { postgres, pool })
    }

    /// Contends for the control plane of group `default`, patiently.
    fn candidate(&self, name: &str) -> LeaderElection {
        candidate(&self.pool, name, patient())
    }

    async fn run(&self, sql: &str) -> Result<()> {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn ask(&self, sql: &str) -> Result<i64> {
        let sql = AssertSqlSafe(sql.to_owned());
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pool).await?)
    }

    /// A pool of a user that is no superuser.
    async fn pool_of(&self, user: &str) -> Result<PgPool> {
        self.run(&format!(
            "CREATE ROLE {user} LOGIN; GRANT tide_relay TO {user}"
        ))
        .await?;
        let url = self.postgres.url_for(user, "", "app");
        Ok(PgPoolOptions::new().connect(&url).await?)
    }
}

fn role() -> LeaderRole {
    LeaderRole::ControlPlane("default".parse().expect("a valid name"))
}

/// Nothing happens by itself.
fn patient() -> LeaderConfig {
    LeaderConfig {
        lease: NEVER,
        lock_validate_interval: NEVER,
        check_interval: NEVER,
        keepalive_interval: NEVER,
    }
}

fn candidate(pool: &PgPool, name: &str, config: LeaderConfig) -> LeaderElection {
    let name = name.parse().expect("a valid name");
    LeaderElection::new(pool.clone(), name, role(), config)
}

fn spawn(election: &Arc<LeaderElection>) -> JoinHandle<()> {
    let election = Arc::clone(election);
    TaskTracker::new().spawn(async move { election.run().await })
}

async fn leads(election: &LeaderElection) -> Result<()> {
    let what = format!("{election:?} to lead");
    eventually(SOON, what, async || {
        Ok::<_, &str>(election.is_leader().then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn one_leads_at_a_time_and_every_term_has_its_own_epoch() -> Result<()> {
    let world = World::start().await?;
    // GIVEN many that try at once
    let candidates: Vec<_> = (0..8)
        .map(|n| world.candidate(&format!("node-{n}")))
        .collect();
    let mut epochs = Vec::new();
    for _ in 0..4 {
        let tried = candidates.iter().map(LeaderElection::try_become_leader);
        let tried = futures_util::future::try_join_all(tried).await?;
        // THEN one of them leads
        ensure!(
            tried.iter().filter(|leads| **leads).count() == 1,
            "{tried:?}"
        );
        let leader = candidates
            .iter()
            .find(|candidate| candidate.is_leader())
            .context("nobody leads")?;
        let epoch = leader.epoch().context("no epoch")?;
        // and the row names it
        let shown = candidates[0].get_leader().await?.context("no row")?;
        ensure!(shown.epoch == epoch && shown.is_healthy(), "{shown:?}");
        ensure!(format!("{leader:?}").contains(shown.node_id.as_str()));
        ensure!(candidates[0].check_leader_health().await?);
        epochs.push(epoch);
        leader.release_leadership().await?;
        ensure!(!leader.is_leader() && leader.epoch().is_none());
        ensure!(candidates[0].get_leader().await?.is_none());
    }
    ensure!(epochs.is_sorted() && epochs.windows(2).all(|pair| pair[0] != pair[1]));
    Ok(())
}

#[tokio::test]
async fn roles_and_groups_do_not_disturb_each_other() -> Result<()> {
    let world = World::start().await?;
    let of = |role| {
        LeaderElection::new(
            world.pool.clone(),
            "n".parse().expect("valid"),
            role,
            patient(),
        )
    };
    let other = LeaderRole::ControlPlane("other".parse()?);
    let elections = [of(role()), of(other), of(LeaderRole::Janitor)];
    for election in &elections {
        ensure!(election.try_become_leader().await?, "{election:?}");
    }
    ensure!(
        world
            .ask("SELECT count(*) FROM tide.leader_list() WHERE lock_held")
            .await?
            == 3
    );
    Ok(())
}

#[tokio::test]
async fn a_leader_that_tries_again_stays_the_leader_of_the_same_term() -> Result<()> {
    let world = World::start().await?;
    let election = world.candidate("a");
    ensure!(election.try_become_leader().await?);
    let epoch = election.epoch();
    ensure!(election.try_become_leader().await? && election.epoch() == epoch);
    election.keepalive().await?;
    election.refresh_lease().await?;
    // Locks stack: one release must be enough.
    election.release_leadership().await?;
    ensure!(
        world
            .ask("SELECT count(*) FROM tide.advisory_locks")
            .await?
            == 0
    );
    Ok(())
}

#[tokio::test]
async fn the_lock_session_is_none_of_the_pool() -> Result<()> {
    let world = World::start().await?;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&world.postgres.url("app"))
        .await?;
    let election = candidate(&pool, "a", patient());
    ensure!(election.try_become_leader().await?);
    let mut only = pool.acquire().await?;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *only)
        .await?;
    drop(only);
    let leader = election.get_leader().await?.context("no leader")?;
    ensure!(leader.backend_pid != pid);
    Ok(())
}

#[tokio::test]
async fn a_terminated_session_is_noticed_said_and_followed_by_another_election() -> Result<()> {
    let world = World::start().await?;
    let election = world.candidate("a");
    ensure!(election.try_become_leader().await?);
    let first = election.epoch().context("no epoch")?;
    for check in ["validate", "refresh", "keepalive"] {
        // WHEN the server ends the session THEN each check notices and says so
        world
            .run("SELECT pg_terminate_backend(backend_pid, 5000) FROM tide.leaders")
            .await?;
        let error = match check {
            "validate" => election.validate_lock_held().await,
            "refresh" => election.refresh_lease().await,
            _ => election.keepalive().await,
        };
        ensure!(error.is_err(), "{check} noticed nothing");
        ensure!(
            !election.is_leader() && election.epoch().is_none(),
            "{check}"
        );
        ensure!(!election.check_leader_health().await?);
        // and the next try leads again, under another epoch
        ensure!(election.try_become_leader().await?);
        ensure!(election.epoch().context("no epoch")? > first);
    }
    Ok(())
}

#[tokio::test]
async fn a_row_that_another_epoch_took_over_ends_the_term() -> Result<()> {
    let world = World::start().await?;
    let election = world.candidate("a");
    ensure!(election.try_become_leader().await?);
    world
        .run("UPDATE tide.leaders SET epoch = nextval('tide.epoch')")
        .await?;
    let error = election
        .refresh_lease()
        .await
        .expect_err("the row is another's");
    ensure!(
        error.to_string() == "the lock of role control_plane is gone",
        "{error}"
    );
    ensure!(!election.is_leader());
    // Its session went with it, so others can lead.
    let other = world.candidate("b");
    eventually(SOON, "the lock", async || {
        other
            .try_become_leader()
            .await
            .map(|leads| leads.then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_running_election_recovers_by_itself() -> Result<()> {
    let world = World::start().await?;
    // GIVEN a leader that validates often, and looks for others seldom
    let config = LeaderConfig {
        lock_validate_interval: Duration::from_millis(10),
        ..patient()
    };
    let election = Arc::new(candidate(&world.pool, "a", config));
    let running = spawn(&election);
    leads(&election).await?;
    let first = election.epoch().context("no epoch")?;
    // WHEN its session ends THEN it leads again, under another epoch
    world
        .run("SELECT pg_terminate_backend(backend_pid) FROM tide.leaders")
        .await?;
    eventually(SOON, "another term", async || {
        Ok::<_, &str>(election.epoch().filter(|epoch| *epoch > first))
    })
    .await?;
    election.stop();
    running.await?;
    ensure!(election.get_leader().await?.is_none(), "it said goodbye");
    Ok(())
}

#[tokio::test]
async fn a_voluntary_release_wakes_the_standby_without_waiting_for_its_next_look() -> Result<()> {
    let world = World::start().await?;
    let leader = world.candidate("a");
    ensure!(leader.try_become_leader().await?);
    // GIVEN a bus that carries notices
    let bus = Arc::new(PgNotifyBus::new(&world.pool, &[RELEASED]));
    let stop = CancellationToken::new();
    let listening = TaskTracker::new().spawn({
        let (bus, stop) = (Arc::clone(&bus), stop.clone());
        async move { bus.run(stop).await }
    });
    let mut heard = bus.subscribe(RELEASED);
    eventually(SOON, "the bus to carry a notice", async || {
        world
            .run("SELECT pg_notify('tide_leader_released', '{}')")
            .await?;
        let next = tokio::time::timeout(Duration::from_millis(50), heard.next()).await;
        anyhow::Ok(next.ok().filter(|heard| matches!(heard, Heard::Notice(_))))
    })
    .await?;
    // and a standby that looks every ten minutes, and has just looked
    let url = format!("{}?application_name=standby", world.postgres.url("app"));
    let standby = candidate(&PgPool::connect(&url).await?, "b", patient());
    let standby = Arc::new(standby.with_notify_bus(Arc::clone(&bus)));
    let running = spawn(&standby);
    let looked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'standby'
                  AND state = 'idle' AND query LIKE '%tide.leader_list%'";
    eventually(SOON, "the standby to look", async || {
        anyhow::Ok((world.ask(looked).await? == 1).then_some(()))
    })
    .await?;
    ensure!(!standby.is_leader());
    // WHEN the leader says goodbye THEN the standby leads
    leader.release_leadership().await?;
    leads(&standby).await?;
    standby.stop();
    running.await?;
    stop.cancel();
    listening.await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_does_not_answer_delays_no_stop() -> Result<()> {
    let world = World::start().await?;
    // GIVEN a leader that waits for an answer, and is ready to wait for minutes
    let config = LeaderConfig {
        lock_validate_interval: Duration::from_millis(10),
        ..patient()
    };
    let election = Arc::new(candidate(&world.pool, "a", config));
    let running = spawn(&election);
    leads(&election).await?;
    world.postgres.freeze()?;
    // WHEN it is told to stop THEN it does
    election.stop();
    tokio::time::timeout(SOON, running).await??;
    ensure!(!election.is_leader());
    world.postgres.thaw()?;
    Ok(())
}

/// A session that holds the lock and wrote a lease which has run out; whose process is gone.
async fn zombie(connection: &mut PgConnection) -> Result<()> {
    let locked: bool = sqlx::query_scalar(
        "SELECT pg_try_advisory_lock(tide.leader_lock_class('control_plane'), hashtext('default'))",
    )
    .fetch_one(&mut *connection)
    .await?;
    ensure!(locked);
    sqlx::query("SELECT tide.leader_take('control_plane', 'default', 'dead', NULL, '-1 second')")
        .execute(connection)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_zombie_is_evicted_once_its_lease_has_run_out() -> Result<()> {
    let world = World::start().await?;
    let mut dead = PgConnection::connect(&world.postgres.url("app")).await?;
    zombie(&mut dead).await?;
    let election = world.candidate("a");
    // WHILE its lease is alive it is let alone
    world
        .run("UPDATE tide.leaders SET lease_until = now() + interval '1 hour'")
        .await?;
    ensure!(!election.try_become_leader().await?);
    dead.ping().await.context("it was evicted too early")?;
    // WHEN the lease has run out THEN its session is ended and the lock is ours at once
    world
        .run("UPDATE tide.leaders SET lease_until = now() - interval '1 second'")
        .await?;
    ensure!(election.try_become_leader().await?);
    ensure!(dead.ping().await.is_err(), "the zombie lives");
    Ok(())
}

#[tokio::test]
async fn whoever_holds_the_lock_without_having_written_the_lease_is_let_alone() -> Result<()> {
    let world = World::start().await?;
    // GIVEN the row of a leader long gone, and another session that has just got the lock
    let mut gone = PgConnection::connect(&world.postgres.url("app")).await?;
    zombie(&mut gone).await?;
    gone.close().await?;
    let mut next = PgConnection::connect(&world.postgres.url("app")).await?;
    eventually(SOON, "the lock", async || {
        sqlx::query_scalar::<_, bool>(
            "SELECT pg_try_advisory_lock(tide.leader_lock_class('control_plane'), hashtext('default'))",
        )
        .fetch_one(&mut next)
        .await
        .map(|locked| locked.then_some(()))
    })
    .await?;
    // WHEN a third one tries THEN it waits its turn
    ensure!(!world.candidate("a").try_become_leader().await?);
    next.ping().await?;
    Ok(())
}

#[tokio::test]
async fn a_zombie_that_may_not_be_evicted_keeps_the_lock_and_nobody_fails() -> Result<()> {
    let world = World::start().await?;
    // GIVEN a zombie, and a candidate of another user that may not end its session
    world.pool_of("other").await?;
    let mut dead = PgConnection::connect(&world.postgres.url_for("other", "", "app")).await?;
    zombie(&mut dead).await?;
    let pool = world.pool_of("relay").await?;
    let election = candidate(&pool, "a", patient());
    // THEN the answer is no, as often as it asks
    for _ in 0..2 {
        ensure!(!election.try_become_leader().await?);
    }
    dead.ping().await?;
    // WHEN it may THEN it does
    world.run("GRANT pg_signal_backend TO relay").await?;
    ensure!(election.try_become_leader().await?);
    ensure!(dead.ping().await.is_err(), "the zombie lives");
    Ok(())
}

#[tokio::test]
async fn the_server_ends_the_session_of_a_silent_leader() -> Result<()> {
    let world = World::start().await?;
    // GIVEN a leader that says nothing for longer than its lease, as one that is frozen
    let config = LeaderConfig::with_lease(Duration::from_millis(600));
    let silent = candidate(&world.pool, "silent", config);
    ensure!(silent.try_become_leader().await?);
    let old = silent.epoch().context("no epoch")?;
    // THEN another can lead, with no right to end sessions
    let pool = world.pool_of("relay").await?;
    let other = candidate(&pool, "other", patient());
    eventually(SOON, "the lease to end", async || {
        // By then the silent one has stopped to believe in itself.
        let leads = other.try_become_leader().await?;
        ensure!(!(leads && silent.is_leader()), "two leaders");
        Ok(leads.then_some(()))
    })
    .await?;
    // and what the silent one writes under its epoch is refused
    let fenced = format!("SELECT tide.leader_fence('control_plane', 'default', {old})");
    let error = world.run(&fenced).await.expect_err("an old epoch");
    ensure!(error.to_string().contains("does not lead"), "{error}");
    ensure!(silent.validate_lock_held().await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_former_control_plane_has_no_last_word_on_an_operation() -> Result<()> {
    let world = World::start().await?;
    // GIVEN an operation that is done, and a control plane that was followed by another
    world
        .run("INSERT INTO tide.operations (relay_group_id, kind, target, actor, generation) VALUES ('default', 'drain', 'relay-1', 'a', 1)")
        .await?;
    let id = "SELECT id FROM tide.operations";
    let id = OperationId(sqlx::query_scalar(id).fetch_one(&world.pool).await?);
    let election = world.candidate("a");
    ensure!(election.try_become_leader().await?);
    let former = election.epoch().context("no epoch")?;
    election.release_leadership().await?;
    let mut connection = world.pool.acquire().await?;
    // THEN the former one cannot settle it, neither before nor after the other one leads
    for leads in [false, true] {
        if leads {
            ensure!(election.try_become_leader().await?);
        }
        let settled = operation_settle_as(&mut connection, id, former).await;
        ensure!(settled.expect_err("an old epoch").is_fenced());
    }
    ensure!(
        world
            .ask("SELECT count(*) FROM tide.operations WHERE state = 'running'")
            .await?
            == 1
    );
    // and the other one can
    let current = election.epoch().context("no epoch")?;
    let settled = operation_settle_as(&mut connection, id, current).await?;
    ensure!(settled.state == OperationState::Succeeded, "{settled:?}");
    Ok(())
}

#[tokio::test]
async fn a_successor_waits_for_the_last_fenced_write_and_its_renewals_do_not() -> Result<()> {
    let world = World::start().await?;
    let first = world.candidate("a");
    ensure!(first.try_become_leader().await?);
    let epoch = first.epoch().context("no epoch")?;
    // GIVEN a transaction that asked whether it may write
    let mut writer = world.pool.begin().await?;
    sqlx::query("SELECT tide.leader_fence('control_plane', 'default', $1)")
        .bind(epoch.0)
        .execute(&mut *writer)
        .await?;
    // THEN the leader can renew its lease meanwhile
    first.refresh_lease().await?;
    // WHEN its session ends and another takes over
    world
        .run("SELECT pg_terminate_backend(backend_pid, 5000) FROM tide.leaders")
        .await?;
    let second = Arc::new(world.candidate("b"));
    let taking = TaskTracker::new().spawn({
        let second = Arc::clone(&second);
        async move { second.try_become_leader().await }
    });
    // THEN that waits for the transaction, and no epoch is drawn before
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%leader_take%'";
    eventually(SOON, "the successor to wait", async || {
        let waits = world.ask(waiting).await? == 1;
        ensure!(!taking.is_finished(), "it did not wait");
        Ok(waits.then_some(()))
    })
    .await?;
    ensure!(!second.is_leader());
    writer.commit().await?;
    ensure!(taking.await??);
    ensure!(second.epoch().context("no epoch")? > epoch);
    Ok(())
}
