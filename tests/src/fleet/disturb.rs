//! Doing harm to a fleet, and noting it down for the judge.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use tide_model::UnitName;
use tide_sandbox::{
    history::{Cause, Disturbance, Reach},
    postgres::Mode,
};
use time::OffsetDateTime;

use super::Fleet;

/// Something that was done; its effects may arrive until the end.
#[derive(Debug, Clone)]
pub(super) struct Disturbed {
    cause: Cause,
    reach: Reach,
    from: OffsetDateTime,
}

impl Disturbed {
    pub(super) fn until(&self, end: OffsetDateTime) -> Disturbance {
        Disturbance::new(self.cause, self.reach.clone(), self.from, end)
    }
}

impl Fleet {
    /// Notes that these pipelines may see duplicates from now on. Methods that do harm call it
    /// themselves.
    pub fn excuse<'a>(&mut self, cause: Cause, pipelines: impl IntoIterator<Item = &'a str>) {
        self.note(cause, Reach::only(pipelines));
    }

    /// Kills an agent with SIGKILL and returns what it owned.
    pub async fn crash(&mut self, agent: &str) -> Result<BTreeSet<String>> {
        let owned = self.harm(Cause::Crash, agent).await?;
        self.agent(agent).kill9()?;
        self.agent(agent).ended().await?;
        Ok(owned)
    }

    /// Kills agents with SIGKILL, each before the end of another is waited for, and returns what
    /// they owned.
    pub async fn crash_together(&mut self, agents: &[&str]) -> Result<BTreeSet<String>> {
        let mut owned = BTreeSet::new();
        for agent in agents {
            owned.extend(self.harm(Cause::Crash, agent).await?);
        }
        for agent in agents {
            self.agent(agent).kill9()?;
        }
        for agent in agents {
            self.agent(agent).ended().await?;
        }
        Ok(owned)
    }

    /// Stops an agent in its tracks and returns what it owned.
    pub async fn freeze(&mut self, agent: &str) -> Result<BTreeSet<String>> {
        let owned = self.harm(Cause::Freeze, agent).await?;
        self.agent(agent).freeze()?;
        Ok(owned)
    }

    /// Cuts an agent off from PostgreSQL, silently, and returns what it owned.
    pub async fn cut(&mut self, agent: &str) -> Result<BTreeSet<String>> {
        let owned = self.harm(Cause::Partition, agent).await?;
        self.network(agent).cut();
        Ok(owned)
    }

    /// Ends an agent's lock session in the server, and returns what it owned.
    pub async fn end_lock_session(&mut self, agent: &str) -> Result<BTreeSet<String>> {
        let owned = self.harm(Cause::Partition, agent).await?;
        let backend = self
            .lock_backend(agent)
            .await?
            .with_context(|| format!("{agent} has no lock session"))?;
        self.end_backend(backend).await?;
        Ok(owned)
    }

    /// Ends a session of the server.
    pub async fn end_backend(&self, backend: i32) -> Result<()> {
        sqlx::query("SELECT pg_terminate_backend($1)")
            .bind(backend)
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Brings PostgreSQL down and up again.
    pub async fn restart_postgres(&mut self, mode: Mode) -> Result<()> {
        self.note(Cause::ServerRestart, Reach::All);
        Ok(self.postgres.restart(mode).await?)
    }

    async fn harm(&mut self, cause: Cause, agent: &str) -> Result<BTreeSet<String>> {
        let owned = self.owned_by(agent).await?;
        // What a shard leaves unstored comes again from whichever shard has its keys next.
        let pipelines = owned
            .iter()
            .map(|unit| Ok(unit.parse::<UnitName>()?.pipeline_str().to_owned()));
        let pipelines = pipelines.collect::<Result<Vec<_>>>()?;
        self.note(cause, Reach::only(pipelines));
        Ok(owned)
    }

    fn note(&mut self, cause: Cause, reach: Reach) {
        self.disturbances.push(Disturbed {
            cause,
            reach,
            from: OffsetDateTime::now_utc(),
        });
    }
}
