//! What can be seen of the fleet: through the catalog and `pg_locks`, as an operator would.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use sqlx::AssertSqlSafe;
use tide_catalog::fleet::{Lag, database_view, read_view};
use tide_model::{
    GroupName, PipelineState,
    fleet::{DatabaseView, PipelineRow},
};
use tide_sandbox::wait::eventually;

use super::Fleet;
use crate::SOON;

/// How many lines of each log a failure shows.
const LAST_WORDS: usize = 25;

/// Who owns a pipeline, and under which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The agent.
    pub agent: String,
    /// Its fencing token.
    pub epoch: i64,
}

/// The owners of all pipelines that have one.
pub fn owners(view: &DatabaseView) -> BTreeMap<String, Owner> {
    view.pipelines
        .iter()
        .filter_map(|row| {
            let owner = Owner {
                agent: row.owner.as_ref()?.to_string(),
                epoch: row.epoch?.0,
            };
            Some((row.name.to_string(), owner))
        })
        .collect()
}

impl Fleet {
    /// The fleet as PostgreSQL sees it.
    pub async fn view(&self) -> Result<DatabaseView> {
        let mut connection = self.connection().await?;
        Ok(database_view(&mut connection, &self.group).await?)
    }

    /// Another group of the same database as PostgreSQL sees it; the lags are not looked at.
    pub async fn view_of(&self, group: &GroupName) -> Result<DatabaseView> {
        let mut connection = self.connection().await?;
        Ok(read_view(&mut connection, group, Lag::Skip).await?)
    }

    /// One pipeline as PostgreSQL sees it.
    ///
    /// # Panics
    /// If it does not exist.
    pub async fn row(&self, pipeline: &str) -> Result<PipelineRow> {
        let mut rows = self.view().await?.pipelines.into_iter();
        let row = rows.find(|row| row.name.as_str() == pipeline);
        Ok(row.unwrap_or_else(|| panic!("no pipeline {pipeline} in the catalog")))
    }

    /// Who owns what now.
    pub async fn owners(&self) -> Result<BTreeMap<String, Owner>> {
        Ok(owners(&self.view().await?))
    }

    /// What an agent owns now.
    pub async fn owned_by(&self, agent: &str) -> Result<BTreeSet<String>> {
        let owners = self.owners().await?.into_iter();
        let owned = owners.filter(|(_, owner)| owner.agent == agent);
        Ok(owned.map(|(pipeline, _)| pipeline).collect())
    }

    /// The backend that holds an agent's locks, while it is alive.
    pub async fn lock_backend(&self, agent: &str) -> Result<Option<i32>> {
        let found = sqlx::query_scalar(
            "SELECT l.pid FROM tide.advisory_locks l
             WHERE l.class = tide.agent_lock_class($1)::bigint & 4294967295 AND l.object = tide.lock_key($2)",
        )
        .bind(self.group.as_str())
        .bind(agent)
        .fetch_optional(&self.pool)
        .await?;
        Ok(found)
    }

    /// How many pipeline locks of the group a backend holds.
    pub async fn locks_of(&self, backend: i32) -> Result<i64> {
        let count = sqlx::query_scalar(
            "SELECT count(*) FROM tide.advisory_locks WHERE pid = $1 AND class = tide.lock_key($2)",
        )
        .bind(backend)
        .bind(self.group.as_str())
        .fetch_one(&self.pool)
        .await?;
        Ok(count)
    }

    /// Waits until the fleet looks as it should.
    pub async fn wait_until(
        &self,
        what: &str,
        mut holds: impl FnMut(&DatabaseView) -> bool,
    ) -> Result<DatabaseView> {
        let seen = eventually(SOON, what, async || {
            let view = self.view().await?;
            if holds(&view) {
                return Ok(Some(view));
            }
            Err(anyhow::anyhow!(summary(&view)))
        });
        seen.await.with_context(|| self.last_words())
    }

    /// Waits until every enabled pipeline runs and the live agents own about as many each.
    pub async fn wait_until_balanced(&self) -> Result<DatabaseView> {
        self.wait_until("every pipeline to run, evenly spread", |view| {
            let loads = loads(view);
            let spread = loads.values().max().copied().unwrap_or(0)
                - loads.values().min().copied().unwrap_or(0);
            all_run(view) && spread <= 1
        })
        .await
    }

    /// Waits until every enabled pipeline runs, wherever.
    pub async fn wait_until_running(&self) -> Result<DatabaseView> {
        self.wait_until("every pipeline to run", all_run).await
    }

    /// Waits until a pipeline is in a state, and returns its row.
    pub async fn wait_for_state(
        &self,
        pipeline: &str,
        state: PipelineState,
    ) -> Result<PipelineRow> {
        self.wait_until(&format!("{pipeline} to be {state}"), |view| {
            view.pipelines.iter().any(|row| {
                row.name.as_str() == pipeline && row.state == Some(state) && row.owner.is_some()
            })
        })
        .await?;
        self.row(pipeline).await
    }

    /// Waits until a pipeline has delivered so many messages, redeliveries included.
    pub async fn wait_for_deliveries(&self, pipeline: &str, count: usize) -> Result<()> {
        let what = format!("{count} deliveries of {pipeline}");
        eventually(SOON, what, async || {
            let seen = self.deliveries(pipeline)?.len();
            if seen >= count {
                return Ok(Some(()));
            }
            Err(anyhow::anyhow!("{seen}"))
        })
        .await
        .with_context(|| self.last_words())
    }

    /// Waits until a query, which returns one boolean, says true.
    pub async fn wait_for_sql(&self, what: &str, sql: &str) -> Result<()> {
        eventually(SOON, what, async || {
            let holds: bool = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
                .fetch_one(&self.pool)
                .await?;
            anyhow::Ok(holds.then_some(()))
        })
        .await
        .with_context(|| self.last_words())
    }

    /// Everything that an agent has written to its log.
    ///
    /// # Panics
    /// If it was never started.
    pub fn agents_log(&self, agent: &str) -> String {
        self.agents[agent].whole_log()
    }

    /// The ends of the agents' logs, for the text of a failure.
    pub(super) fn last_words(&self) -> String {
        let words = self.agents.iter().map(|(name, agent)| {
            let log = agent.process.log_tail(LAST_WORDS);
            format!("--- {name}\n{log}\n")
        });
        words.collect()
    }
}

fn all_run(view: &DatabaseView) -> bool {
    view.pipelines
        .iter()
        .filter(|row| row.enabled)
        .all(|row| row.owner.is_some() && row.state == Some(PipelineState::Running))
}

/// How many pipelines each live agent owns.
fn loads(view: &DatabaseView) -> BTreeMap<String, usize> {
    let alive = view.agents.iter().filter(|agent| agent.alive);
    let mut loads: BTreeMap<String, usize> =
        alive.map(|agent| (agent.name.to_string(), 0)).collect();
    for owner in view.pipelines.iter().filter_map(|row| row.owner.as_ref()) {
        *loads.entry(owner.to_string()).or_default() += 1;
    }
    loads
}

fn summary(view: &DatabaseView) -> String {
    let pipelines = view.pipelines.iter().map(|row| {
        let owner = row.owner.as_ref().map_or("-", |owner| owner.as_str());
        let state = row.state.map_or("-", PipelineState::as_str);
        let reason = row.state_reason.as_deref().unwrap_or_default();
        format!("{}: {owner} {state} {reason}", row.name)
    });
    let agents = view
        .agents
        .iter()
        .map(|agent| format!("{} alive={}", agent.name, agent.alive));
    pipelines.chain(agents).collect::<Vec<_>>().join("; ")
}
