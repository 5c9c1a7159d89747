//! Looks at the fleet and at the catalog, and says what every enabled pipeline should look like.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tide_catalog::{
    CatalogError, PgPool,
    fleet::consistent_view,
    messages::Source,
    orders::order_list,
    pipelines::{StoredPipeline, pipeline_list, pipeline_reshard},
};
use tide_model::{
    AgentName, Assignment, GroupName, HandoverKind, OperationId, PipelineName, PipelineSpec,
    SpecError, UnitName, assign,
    assignment::{Admits, Reason},
    fleet::{DatabaseView, HoldKind, PipelineRow},
};

use tracing::info;

use crate::{
    departure::Departure,
    orders::{self, Orders},
    ownership::{Holder, Wanted},
    preparation::{Prospect, Standby},
    sink::takes_long,
};

/// Somebody still works by an old layout. Whoever lets go of its last part looks at once; this is
/// for owners that died.
const OLD_LAYOUT_IN_USE: Duration = Duration::from_millis(100);
/// A layout cannot change before its shards have caught up from the change before.
const NOT_SETTLED: Duration = Duration::from_secs(1);

/// What one look found.
#[derive(Debug)]
pub(crate) struct Discovery {
    /// Every enabled unit, for the ownership machine.
    pub(crate) wanted: BTreeMap<UnitName, Wanted>,
    /// How to run each of them.
    pub(crate) specs: BTreeMap<UnitName, Arc<Runnable>>,
    /// What operators want of each unit.
    pub(crate) orders: BTreeMap<UnitName, Orders>,
    /// Some pipeline's number of shards is about to change: look again after this long.
    pub(crate) resharding: Option<Duration>,
    /// Whether our holds let us take work that nobody assigned to us.
    pub(crate) may_step_in: bool,
    /// The newest hold or placement that was taken into account.
    pub(crate) generation: i64,
    /// How we are to go, if we are drained.
    pub(crate) departure: Departure,
    /// Running drains of agents that are gone: they can record nothing themselves.
    pub(crate) bequeathed: Vec<OperationId>,
    /// When the next hold ends, or the next word about a sink: nobody tells us, and what it forbade is
    /// permitted then.
    pub(crate) next_end: Option<Duration>,
    /// Agents that holds name and nobody knows.
    pub(crate) strangers: BTreeSet<AgentName>,
    /// Why those of ours that are assigned to others are to go.
    pub(crate) departures: BTreeMap<UnitName, HandoverKind>,
    /// What to be ready for, should its owner vanish.
    pub(crate) standby: Standby,
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
    /// Which configuration this is.
    pub(crate) revision: i64,
    /// How to run it, or what is wrong with it. A bad one is owned like any other: its owner says
    /// what is wrong, and nobody else suffers.
    pub(crate) spec: Result<PipelineSpec, SpecError>,
}

impl Runnable {
    /// What there is to make ready for it, by `spec`, which is its own.
    pub(crate) fn prospect(&self, spec: &PipelineSpec) -> Prospect {
        Prospect {
            sink: spec.sink.clone(),
            revision: self.revision,
        }
    }

    /// Where this unit of it reads.
    pub(crate) fn source(&self, unit: &UnitName) -> Source {
        Source {
            relation: self.relation.clone(),
            shard: unit.shard(),
        }
    }
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
    let mut view = consistent_view(&mut connection, group).await?;
    let mut resharding = view.resharding();
    if !resharding.is_empty() {
        let mut changed = false;
        for pipeline in std::mem::take(&mut resharding) {
            // Whether somebody still works by the old layout only the catalog can tell: a lock may
            // be another unit's, whose name hashes alike.
            if pipeline_reshard(&mut connection, group, &pipeline).await? {
                info!(pipeline.id = %pipeline, "changed the number of shards");
                changed = true;
            } else {
                resharding.insert(pipeline);
            }
        }
        if changed {
            view = consistent_view(&mut connection, group).await?;
        }
    }
    let stored: BTreeMap<String, StoredPipeline> = pipeline_list(&mut connection)
        .await?
        .into_iter()
        .map(|stored| (stored.name.clone(), stored))
        .collect();
    let specs = view
        .pipelines
        .iter()
        .filter_map(|row| {
            let stored = stored.get(row.name.pipeline_str())?;
            let pipeline = row.name.pipeline();
            let spec = PipelineSpec::parse(pipeline, stored.outbox.clone(), &stored.config);
            let spec = spec.map(|spec| PipelineSpec {
                sink: spec.sink.for_shard(row.name.shard()),
                ..spec
            });
            let runnable = Runnable {
                relation: stored.relation.clone(),
                outbox: stored.outbox.clone(),
                revision: stored.revision,
                spec,
            };
            Some((row.name.clone(), Arc::new(runnable)))
        })
        .collect();
    // After the epochs: an order is never older than the epoch that it comes with.
    let orders = order_list(&mut connection, group).await?;
    let epochs = view
        .pipelines
        .iter()
        .map(|row| (row.name.clone(), row.epoch));
    let orders = orders::combine(epochs, orders);
    Ok(digest(&view, specs, orders, &resharding, me, leaving))
}

fn digest(
    view: &DatabaseView,
    specs: BTreeMap<UnitName, Arc<Runnable>>,
    orders: BTreeMap<UnitName, Orders>,
    resharding: &BTreeSet<PipelineName>,
    me: &AgentName,
    leaving: bool,
) -> Discovery {
    // What is about to be split anew still counts for the balance, so that nothing else moves.
    let assignments = assign(&view.bundles(), &view.candidates(leaving.then_some(me)));
    let departure = Departure::of(view, me);
    let ours = |row: &&PipelineRow| row.owner.as_ref() == Some(me);
    let elsewhere = |row: &&PipelineRow| {
        let to = assignments.get(&row.name);
        to.is_some_and(|assignment| assignment.agent != *me)
    };
    // Who is told to stop goes as fast as it can.
    let waiting = if leaving {
        BTreeSet::new()
    } else {
        let going = view.pipelines.iter().filter(ours).filter(elsewhere);
        departure.waiting(going.map(|row| &row.name))
    };
    let wanted = view
        .pipelines
        .iter()
        .filter(|row| row.enabled && specs.contains_key(&row.name))
        .filter(|row| !resharding.contains(&row.name.pipeline()))
        .map(|row| {
            let assignee = if waiting.contains(&row.name) {
                Some(me.clone())
            } else {
                let assignment = assignments.get(&row.name);
                assignment.map(|assignment| assignment.agent.clone())
            };
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
    let alive = |name: &AgentName| view.agent(name).is_some_and(|agent| agent.alive);
    let bequeathed = view
        .holds
        .iter()
        .filter(|hold| hold.kind == HoldKind::Drain && hold.is_running)
        .filter(|hold| hold.agent().is_some_and(|agent| !alive(agent)))
        .filter_map(|hold| hold.operation)
        .collect();
    let standby = if leaving {
        Standby::default()
    } else {
        standby(view, &wanted, &specs, me)
    };
    Discovery {
        wanted,
        resharding: if !resharding.is_empty() {
            Some(OLD_LAYOUT_IN_USE)
        } else if view
            .pipelines
            .iter()
            .any(|row| row.enabled && row.reshard_to.is_some())
        {
            Some(NOT_SETTLED)
        } else {
            None
        },
        may_step_in: !leaving && view.admits(me) == Admits::All,
        generation: view.generation,
        next_end: [next_end(view), departure.patience(view.taken_at)]
            .into_iter()
            .flatten()
            .min(),
        departure,
        bequeathed,
        strangers: view
            .holds
            .iter()
            .filter_map(|hold| hold.agent())
            .filter(|name| view.agent(name).is_none())
            .cloned()
            .collect(),
        departures: departures(view, &assignments, me),
        standby,
        specs,
        orders,
        neighbour: neighbour(view, me),
    }
}

/// How long it is, by the server's clock, until the first hold ends, or somebody may try a sink again.
fn next_end(view: &DatabaseView) -> Option<Duration> {
    let unreached = view.unreached.values().flatten();
    let ends = view.holds.iter().filter_map(|hold| hold.expires_at);
    let until = ends.chain(unreached.map(|one| one.until)).min()? - view.taken_at;
    // A look that comes a moment too early would find it in force.
    Some(Duration::try_from(until).unwrap_or_default() + Duration::from_millis(2))
}

fn departures(
    view: &DatabaseView,
    assignments: &BTreeMap<UnitName, Assignment>,
    me: &AgentName,
) -> BTreeMap<UnitName, HandoverKind> {
    let drained = view.admits(me) == Admits::Nothing;
    view.pipelines
        .iter()
        .filter(|row| row.owner.as_ref() == Some(me))
        .filter_map(|row| Some((&row.name, assignments.get(&row.name)?)))
        .filter(|(_, assignment)| assignment.agent != *me)
        .map(|(name, assignment)| {
            let kind = match assignment.reason {
                _ if drained => HandoverKind::Drain,
                Reason::Placed | Reason::Pinned => HandoverKind::Move,
                Reason::Balanced
                | Reason::Kept
                | Reason::Unowned
                | Reason::Frozen
                | Reason::Reachable
                | Reason::Unreachable => HandoverKind::Rebalance,
            };
            (name.clone(), kind)
        })
        .collect()
}

/// What to be ready for. Working out who comes next costs more than a look, so it is left undone
/// where no sink is worth it.
fn standby(
    view: &DatabaseView,
    wanted: &BTreeMap<UnitName, Wanted>,
    specs: &BTreeMap<UnitName, Arc<Runnable>>,
    me: &AgentName,
) -> Standby {
    let sink = |name: &UnitName| {
        let runnable = specs.get(name)?;
        let spec = runnable.spec.as_ref().ok()?;
        takes_long(&spec.sink).then(|| runnable.prospect(spec))
    };
    let others = |row: &&PipelineRow| row.enabled && row.owner.as_ref() != Some(me);
    let mut candidates = view.pipelines.iter().filter(others);
    if !candidates.any(|row| sink(&row.name).is_some()) {
        return Standby::default();
    }
    let coming = view.pipelines.iter().filter(others).filter(|row| {
        wanted
            .get(&row.name)
            .is_some_and(|wanted| wanted.assignee.as_ref() == Some(me))
    });
    let coming: BTreeSet<UnitName> = coming.map(|row| row.name.clone()).collect();
    let first = view
        .backups(me)
        .into_iter()
        // Its owner asks for that when it is time.
        .filter(|name| !coming.contains(name))
        .filter_map(|name| {
            let sink = sink(&name)?;
            Some((name, sink))
        })
        .collect();
    Standby { first, coming }
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
