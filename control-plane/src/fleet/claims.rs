//! Claims that the locks do not back: agents that say to run what another session, or none, holds.
//!
//! Only these are kept, so this costs nothing while both sources agree. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tide_model::{AgentName, UnitName, fleet::DatabaseView, report::PipelineReports};

/// Who claims what.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    /// The owner of each pipeline by `pg_locks`.
    owners: HashMap<UnitName, Option<AgentName>>,
    unbacked: BTreeMap<UnitName, BTreeSet<AgentName>>,
}

impl Claims {
    pub(super) fn new(database: &DatabaseView) -> Self {
        Self {
            owners: owners(database),
            unbacked: BTreeMap::new(),
        }
    }

    /// Agents that claim a pipeline and do not hold its lock.
    pub(crate) fn unbacked(&self, pipeline: &UnitName) -> Option<&BTreeSet<AgentName>> {
        self.unbacked.get(pipeline)
    }

    /// An agent says that it runs a pipeline. Whether that is news, and the database did not say so
    /// when it was last read.
    pub(super) fn claimed(&mut self, agent: &AgentName, pipeline: &UnitName) -> bool {
        match self.owners.get(pipeline) {
            // A pipeline that the database does not know is nobody's; it is not shown either.
            None => false,
            Some(owner) if owner.as_ref() == Some(agent) => {
                self.removed(agent, pipeline);
                false
            }
            Some(_) => {
                let agents = self.unbacked.entry(pipeline.clone()).or_default();
                agents.insert(agent.clone())
            }
        }
    }

    /// An agent no longer says that it runs a pipeline.
    pub(super) fn removed(&mut self, agent: &AgentName, pipeline: &UnitName) {
        if let Some(agents) = self.unbacked.get_mut(pipeline) {
            agents.remove(agent);
            if agents.is_empty() {
                self.unbacked.remove(pipeline);
            }
        }
    }

    /// The database was read anew. `heard` is what agents say to run, of those that are heard.
    pub(super) fn database(
        &mut self,
        before: &DatabaseView,
        after: &DatabaseView,
        heard: &BTreeMap<&AgentName, &PipelineReports>,
    ) {
        let same_names = before.pipelines.len() == after.pipelines.len()
            && before
                .pipelines
                .iter()
                .zip(&after.pipelines)
                .all(|(before, after)| before.name == after.name);
        if !same_names {
            *self = Self::new(after);
            for (agent, pipelines) in heard {
                for pipeline in pipelines.keys() {
                    self.claimed(agent, pipeline);
                }
            }
            return;
        }
        for (before, after) in before.pipelines.iter().zip(&after.pipelines) {
            if before.owner == after.owner {
                continue;
            }
            self.owners.insert(after.name.clone(), after.owner.clone());
            let claims = |agent: &&AgentName| {
                let pipelines = heard.get(*agent);
                pipelines.is_some_and(|pipelines| pipelines.contains_key(&after.name))
            };
            for agent in [&before.owner, &after.owner]
                .into_iter()
                .flatten()
                .filter(claims)
            {
                self.claimed(agent, &after.name);
            }
        }
    }
}

fn owners(database: &DatabaseView) -> HashMap<UnitName, Option<AgentName>> {
    let owner = |row: &tide_model::fleet::PipelineRow| (row.name.clone(), row.owner.clone());
    database.pipelines.iter().map(owner).collect()
}
