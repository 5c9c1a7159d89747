//! A drain that can be held still at each of its steps.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sqlx::{PgConnection, Row as _};
use tide_sandbox::{
    binaries,
    http::{Behaviour, Outcome, Receiver, Request},
    process::{Process, ProcessSpec},
    wait::eventually,
};
use tide_tests::{Fleet, FleetOptions, SOON, by_hand::publish, replica::Replica};

/// How long the control plane holds on to its lead: not what a scenario waits for.
const LEASE: std::time::Duration = std::time::Duration::from_secs(3);

/// What has happened of a drain, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It was asked for, and nothing of it is written.
    Asked,
    /// It is written, and the agent has not seen it.
    Written,
    /// The agent has seen it, and nobody has made ready to take over.
    Seen,
    /// Some pipelines have left; one has a batch on the wire.
    Parting,
    /// Nothing is left, and nobody has recorded that.
    Empty,
    /// It is recorded, and nobody was told.
    Verified,
}

impl Step {
    pub(super) const ALL: [Self; 6] = [
        Self::Asked,
        Self::Written,
        Self::Seen,
        Self::Parting,
        Self::Empty,
        Self::Verified,
    ];
}

/// Whom the command asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Through {
    ControlPlane,
    Database,
}

/// Two agents under load, one of which owns a webhook with a request that nobody answers.
pub(super) struct Scene {
    pub(super) fleet: Fleet,
    pub(super) control_plane: Option<Replica>,
    /// `tidectl drain`, once it was started.
    pub(super) command: Option<Process>,
    /// The agent to be drained, and the other.
    pub(super) leaving: String,
    pub(super) staying: String,
    receiver: Arc<Receiver>,
    /// What holds a step still, undone by dropping it.
    lock: Option<sqlx::pool::PoolConnection<sqlx::Postgres>>,
}

impl Scene {
    pub(super) async fn set(through: Through) -> Result<Self> {
        let options = FleetOptions {
            // Freezing somebody for a moment is no failure.
            lease: SOON,
            ..FleetOptions::agents(0)
        };
        let mut fleet = Fleet::start(options).await?;
        let control_plane = match through {
            Through::Database => None,
            Through::ControlPlane => Some(Replica::start(&fleet, "control", LEASE).await?),
        };
        let receiver = Arc::new(Receiver::start().await?);
        receiver.script("/hook", [Behaviour::Hang]);
        fleet
            .add_webhook_pipeline("hook", "events", &receiver, json!({}))
            .await?;
        fleet.add_file_pipelines(3).await?;
        for name in ["relay-1", "relay-2"] {
            let spec = fleet.spec(name);
            let spec = match &control_plane {
                None => spec,
                Some(replica) => spec.with("--control-plane", &replica.url()),
            };
            fleet.start_as(spec).await?;
        }
        fleet.wait_until_balanced().await?;
        let message = fleet.drafts.draw("events", "k");
        publish(&mut *fleet.connection().await?, &message).await?;
        receiver
            .wait_until(SOON, "a request to hang", hangs)
            .await?;
        fleet.publish().await?;
        let leaving = fleet.owners().await?["hook"].agent.clone();
        let staying = match leaving.as_str() {
            "relay-1" => "relay-2",
            _ => "relay-1",
        };
        Ok(Self {
            staying: staying.to_owned(),
            leaving,
            fleet,
            control_plane,
            command: None,
            receiver,
            lock: None,
        })
    }

    /// Asks for the drain as an operator does, and holds it still as soon as it has come to `step`.
    pub(super) async fn drain_up_to(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Asked => {
                let held = "LOCK TABLE tide.operations IN SHARE MODE";
                self.hold(held).await?;
                self.ask()?;
                self.wait_for(
                    "the drain to wait for the table",
                    "SELECT EXISTS (SELECT FROM pg_stat_activity
                                    WHERE wait_event_type = 'Lock' AND query LIKE '-- drain_begin%')",
                )
                .await
            }
            Step::Written => {
                self.fleet.agent(&self.leaving).freeze()?;
                self.ask()?;
                self.wait_for("the drain to be written", WRITTEN).await
            }
            Step::Seen => {
                self.fleet.agent(&self.staying).freeze()?;
                self.ask()?;
                self.wait_for("the agent to have seen the drain", &self.seen())
                    .await
            }
            Step::Parting => {
                self.ask()?;
                self.wait_for("the agent to have seen the drain", &self.seen())
                    .await?;
                self.wait_for_locks(1).await
            }
            Step::Empty => {
                self.ask()?;
                self.wait_for("the agent to have seen the drain", &self.seen())
                    .await?;
                self.hold("SELECT FROM tide.operations FOR UPDATE").await?;
                self.receiver.release();
                self.wait_for_locks(0).await?;
                self.wait_for(
                    "somebody to want to record the end",
                    "SELECT EXISTS (SELECT FROM pg_stat_activity
                                    WHERE wait_event_type = 'Lock' AND query LIKE '-- operation_settle%')",
                )
                .await
            }
            Step::Verified => {
                self.ask()?;
                self.wait_for("the drain to be written", WRITTEN).await?;
                self.command().freeze()?;
                self.receiver.release();
                self.wait_for(
                    "the end to be recorded",
                    "SELECT state = 'succeeded' FROM tide.operations",
                )
                .await
            }
        }
    }

    /// Lets everything go on that was held still, but for whom `dead` says.
    pub(super) async fn go_on(&mut self, dead: &str) -> Result<()> {
        if let Some(mut lock) = self.lock.take() {
            sqlx::query("ROLLBACK").execute(&mut *lock).await?;
        }
        for name in [self.leaving.clone(), self.staying.clone()] {
            if name != dead {
                self.fleet.agent(&name).process.thaw()?;
            }
        }
        if let Some(command) = &mut self.command
            && command.is_running()?
        {
            command.thaw()?;
        }
        self.receiver.release();
        // What was asked for and nobody waits for any more is written, or it is not.
        self.wait_for(
            "whatever was asked for to be through",
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity
                                WHERE query LIKE '-- drain_begin%' AND state = 'active')",
        )
        .await
    }

    /// Whether there is a drain on record.
    pub(super) async fn is_written(&self) -> Result<bool> {
        let row = sqlx::query("SELECT count(*) FROM tide.operations WHERE kind = 'drain'")
            .fetch_one(self.fleet.pool())
            .await?;
        let drains: i64 = row.try_get(0)?;
        ensure!(drains <= 1, "{drains} drains for one");
        Ok(drains == 1)
    }

    /// Waits until the fleet by itself has drained the agent, and everything runs elsewhere.
    pub(super) async fn is_drained(&self) -> Result<()> {
        self.wait_for(
            "the drain to be recorded as done, though nobody looks after it",
            "SELECT state = 'succeeded' AND outcome LIKE 'safe to stop%' FROM tide.operations",
        )
        .await?;
        self.stays_drained().await
    }

    /// Fails unless the agent holds nothing and is held, and the other one runs everything.
    pub(super) async fn stays_drained(&self) -> Result<()> {
        let holds: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM tide.holds WHERE agent = $1 AND kind = 'drain'",
        )
        .bind(&self.leaving)
        .fetch_one(self.fleet.pool())
        .await?;
        ensure!(holds == 1, "{holds} holds on a drained agent");
        if let Some(backend) = self.fleet.lock_backend(&self.leaving).await? {
            ensure!(self.fleet.locks_of(backend).await? == 0);
        }
        self.fleet.wait_until_running().await?;
        let owners = self.fleet.owners().await?;
        ensure!(
            owners.values().all(|owner| owner.agent == self.staying),
            "{owners:?}"
        );
        Ok(())
    }

    /// Fails unless nothing has come of the drain: no hold, and the agent works as before.
    pub(super) async fn is_untouched(&self) -> Result<()> {
        let holds: i64 = sqlx::query_scalar("SELECT count(*) FROM tide.holds")
            .fetch_one(self.fleet.pool())
            .await?;
        ensure!(holds == 0, "{holds} holds of a drain that never was");
        self.fleet.wait_until_balanced().await?;
        Ok(())
    }

    /// How `tidectl drain` ended.
    pub(super) async fn said(&mut self) -> Result<(Option<i32>, String)> {
        let command = self.command();
        let status = command.wait(SOON).await?;
        Ok((status.code(), command.log_tail(50)))
    }

    pub(super) fn command(&mut self) -> &mut Process {
        self.command.as_mut().expect("the drain was asked for")
    }

    fn ask(&mut self) -> Result<()> {
        let source = match &self.control_plane {
            Some(replica) => vec!["--control-plane".to_owned(), replica.url()],
            None => vec!["--source".to_owned(), "database".to_owned()],
        };
        let words = ["drain", &self.leaving, "--reason", "kernel"].map(ToOwned::to_owned);
        let spec = ProcessSpec {
            args: words.into_iter().chain(source).map(Into::into).collect(),
            env: vec![("TIDE_POSTGRES_URL".to_owned(), self.fleet.url())],
            ..ProcessSpec::new("tidectl", binaries::find("tidectl")?, &self.fleet.scratch)
        };
        self.command = Some(Process::spawn(spec)?);
        Ok(())
    }

    async fn hold(&mut self, sql: &'static str) -> Result<()> {
        let mut connection = self.fleet.connection().await?;
        let session: &mut PgConnection = &mut connection;
        sqlx::query("BEGIN").execute(&mut *session).await?;
        sqlx::query(sql).execute(session).await?;
        self.lock = Some(connection);
        Ok(())
    }

    async fn wait_for(&self, what: &str, sql: &str) -> Result<()> {
        let told = || {
            let command = self.command.as_ref();
            command.map_or_else(String::new, |command| command.log_tail(20))
        };
        let holds = async || -> Result<Option<()>> {
            let row = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()))
                .fetch_optional(self.fleet.pool())
                .await?;
            let holds = row.map(|row| row.try_get::<bool, _>(0)).transpose()?;
            Ok(holds.unwrap_or(false).then_some(()))
        };
        eventually(SOON, what, holds).await.with_context(told)
    }

    async fn wait_for_locks(&self, count: i64) -> Result<()> {
        let backend = self.fleet.lock_backend(&self.leaving).await?;
        let backend = backend.context("it is alive")?;
        eventually(
            SOON,
            format!("{count} locks to be left"),
            async || -> Result<_> {
                let locks = self.fleet.locks_of(backend).await?;
                ensure!(locks == count, "{locks}");
                Ok(Some(()))
            },
        )
        .await?;
        Ok(())
    }

    fn seen(&self) -> String {
        format!(
            "SELECT a.acknowledged_generation >= o.generation FROM tide.agents a, tide.operations o WHERE a.name = '{}'",
            self.leaving
        )
    }
}

const WRITTEN: &str = "SELECT state = 'running' FROM tide.operations";

fn hangs(requests: &[Request]) -> bool {
    requests
        .iter()
        .any(|request| request.outcome == Outcome::Pending)
}
