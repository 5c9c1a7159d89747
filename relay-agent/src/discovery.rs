//! Looks at the fleet and at the catalog, and says what every enabled pipeline should look like.

use std::{collections::BTreeMap, sync::Arc};

use tide_catalog::{
    CatalogError, PgPool,
    fleet::{Lag, read_view},
    pipelines::pipeline_list,
};
use tide_model::{
    AgentName, GroupName, OperationId, PipelineName, PipelineSpec, SpecError, assign,
    assignment::Admits,
    fleet::{DatabaseView, HoldKind},
};

use crate::ownership::{Holder, Wanted};

/// What one look found.
#[derive(Debug)]
pub(crate) struct Discovery {
    /// Every enabled pipeline, for the ownership machine.
    pub(crate) wanted: BTreeMap<PipelineName, Wanted>,
    /// How to run each of them.
    pub(crate) specs: BTreeMap<PipelineName, Arc<Runnable>>,
    /// Whether our holds let us take work that nobody assigned to us.
    pub(crate) may_step_in: bool,
    /// The newest hold or placement that was taken into account.
    pub(crate) generation: i64,
    /// Drains of this agent that are on record, to be settled once it is empty.
    pub(crate) drains: Vec<OperationId>,
    /// The live agent that this one watches.
    pub(crate) neighbour: Option<AgentName>,
}

/// A pipeline as stored, parsed if it can be.
#[derive(Debug)]
pub(crate) struct Runnable {
    /// The table that it reads, ready for a statement.
    pub(crate) relation: String,
    /// The outbox's name.
    pub(crate) outbox: String,
    /// How to run it, or what is wrong with it. A bad one is owned like any other: its owner says
    /// what is wrong, and nobody else suffers.
    pub(crate) spec: Result<PipelineSpec, SpecError>,
}

/// Looks. `leaving` counts this agent out, so that everything it has is assigned to others.
pub(crate) async fn discover(
    pool: &PgPool,
    group: &GroupName,
    me: &AgentName,
    leaving: bool,
) -> Result<Discovery, CatalogError> {
    let mut connection = pool
        .acquire()
        .await
        .map_err(|source| CatalogError::Database {
            doing: "looking at the fleet",
            source,
        })?;
    let view = read_view(&mut connection, group, Lag::Skip).await?;
    let stored = pipeline_list(&mut connection).await?;
    let specs = stored
        .into_iter()
        .filter_map(|stored| {
            // A name that the model refuses cannot come from the catalog's own functions.
            let name: PipelineName = stored.name.parse().ok()?;
            let spec = PipelineSpec::parse(name.clone(), stored.outbox.clone(), &stored.config);
            Some((
                name,
                Arc::new(Runnable {
                    relation: stored.relation,
                    outbox: stored.outbox,
                    spec,
                }),
            ))
        })
        .collect();
    Ok(digest(&view, specs, me, leaving))
}

fn digest(
    view: &DatabaseView,
    specs: BTreeMap<PipelineName, Arc<Runnable>>,
    me: &AgentName,
    leaving: bool,
) -> Discovery {
    let assignments = assign(&view.units(), &view.candidates(leaving.then_some(me)));
    let wanted = view
        .pipelines
        .iter()
        .filter(|row| row.enabled && specs.contains_key(&row.name))
        .map(|row| {
            let assignee = assignments
                .get(&row.name)
                .map(|assignment| assignment.agent.clone());
            let alive = |owner: &AgentName| view.agent(owner).is_some_and(|agent| agent.alive);
            let holder = match (&row.owner, row.owner_pid) {
                // The lock of a pipeline that we do not run yet can be ours already when another
                // pipeline's name hashes alike; locks stack, so it is there for the asking.
                (Some(owner), _) if owner == me && assignee.as_ref() == Some(me) => Holder::Nobody,
                (Some(owner), _) if alive(owner) => Holder::Agent,
                (_, Some(_)) => Holder::Stranger,
                (_, None) => Holder::Nobody,
            };
            (
                row.name.clone(),
                Wanted {
                    assignee,
                    holder,
                    revision: row.revision,
                },
            )
        })
        .collect();
    let drains = view
        .holds
        .iter()
        .filter(|hold| hold.agent == *me && hold.kind == HoldKind::Drain)
        .filter_map(|hold| hold.operation)
        .collect();
    Discovery {
        wanted,
        specs,
        may_step_in: !leaving && view.admits(me) == Admits::All,
        generation: view.generation,
        drains,
        neighbour: neighbour(view, me),
    }
}

/// The next live agent by name, round the ring: everybody is watched by exactly one.
fn neighbour(view: &DatabaseView, me: &AgentName) -> Option<AgentName> {
    let live = || {
        view.agents
            .iter()
            .filter(|agent| agent.alive && agent.name != *me)
            .map(|agent| &agent.name)
    };
    live()
        .find(|name| *name > me)
        .or_else(|| live().next())
        .cloned()
}
