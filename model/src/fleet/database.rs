//! What PostgreSQL knows about a fleet: ownership from `pg_locks`, everything else from the tables.

use std::collections::{BTreeMap, BTreeSet};

use time::{Duration, OffsetDateTime};

use super::reach::{self, Unreached};
use crate::{
    AgentName, Assignment, Bundle, Candidate, Epoch, GroupName, Incarnation, PipelineName,
    PipelineState, UnitName, assign,
    assignment::{Admits, Stays, backups},
    hold::{Hold, HoldKind},
    last_drain::LastDrain,
};

/// What PostgreSQL knows about one group at one moment.
#[derive(Debug, Clone)]
pub struct DatabaseView {
    /// The group.
    pub group: GroupName,
    /// When it was read, on the server's clock.
    pub taken_at: OffsetDateTime,
    /// Every pipeline, by name; of a sharded one every shard, in order.
    pub pipelines: Vec<PipelineRow>,
    /// Every agent that ever registered, by name.
    pub agents: Vec<AgentRow>,
    /// Holds that have not expired.
    pub holds: Vec<Hold>,
    /// Where operators want pipelines.
    pub placements: BTreeMap<UnitName, AgentName>,
    /// Who does not reach which unit's sink, as far as that counts; nearly always nothing.
    pub unreached: BTreeMap<UnitName, Vec<Unreached>>,
    /// The newest drain of each agent, where that was asked for together with the lags.
    pub last_drains: BTreeMap<AgentName, LastDrain>,
    /// The newest hold or placement in it; agents acknowledge this number.
    pub generation: i64,
}

/// One pipeline, or one shard of it, in the database.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineRow {
    /// Its name: the pipeline's, or one of its shards'.
    pub name: UnitName,
    /// The outbox it reads.
    pub outbox: String,
    /// `sink_type` as written; may be one that no agent knows.
    pub sink: String,
    /// Whether it should run.
    pub enabled: bool,
    /// Rises with every change of its configuration.
    pub revision: i64,
    /// Its share of capacity.
    pub weight: u32,
    /// Second key of its advisory lock, as `pg_locks` shows it.
    pub lock_key: i64,
    /// The agent whose session holds the lock.
    pub owner: Option<AgentName>,
    /// The backend that holds the lock, even if no agent can be named for it.
    pub owner_pid: Option<i32>,
    /// The epoch of the newest claim.
    pub epoch: Option<Epoch>,
    /// The highest message id delivered.
    pub last_change_id: i64,
    /// Messages behind; an upper bound while transactions are rolled back.
    pub lag_rows: i64,
    /// Age of the oldest message that waits; zero if none does.
    pub lag: Duration,
    /// What the newest owner said.
    pub state: Option<PipelineState>,
    /// Why, if it said so.
    pub state_reason: Option<String>,
    /// Since when.
    pub state_since: Option<OffsetDateTime>,
    /// Of one that is retrying: when its sink is tried again, if its owner has said so.
    pub retry_at: Option<OffsetDateTime>,
    /// How many shards its pipeline shall have, if that is another number than it has.
    pub reshard_to: Option<u16>,
    /// Whether its position can be taken over by another layout right now.
    pub settled: bool,
}

/// One agent in the database.
#[derive(Debug, Clone)]
pub struct AgentRow {
    /// Its name.
    pub name: AgentName,
    /// Its newest run.
    pub incarnation: Incarnation,
    /// Whether a session holds its name lock: the truth about being alive.
    pub alive: bool,
    /// What it runs.
    pub version: String,
    /// Where.
    pub hostname: String,
    /// Its share of the pipelines; 0 is a standby.
    pub weight: u32,
    /// Where it serves metrics and probes.
    pub metrics_addr: Option<String>,
    /// Start of the newest run.
    pub started_at: OffsetDateTime,
    /// When it last wrote to the database.
    pub last_seen_at: OffsetDateTime,
    /// When it last stopped in good order, or began to, if it has not started since.
    pub stopped_at: Option<OffsetDateTime>,
    /// The backend that holds its locks, while it is alive.
    pub backend_pid: Option<i32>,
    /// Of one that has fallen silent: when the server ends its session if it stays so. None where the
    /// reader may not see that session.
    pub lease_ends_at: Option<OffsetDateTime>,
}

impl AgentRow {
    /// Whether it is giving everything away in order to stop.
    pub fn is_stopping(&self) -> bool {
        self.alive && self.stopped_at.is_some()
    }
}

impl DatabaseView {
    /// A group in which nothing is.
    pub fn empty(group: GroupName, taken_at: OffsetDateTime) -> Self {
        Self {
            group,
            taken_at,
            pipelines: Vec::new(),
            agents: Vec::new(),
            holds: Vec::new(),
            placements: BTreeMap::new(),
            unreached: BTreeMap::new(),
            last_drains: BTreeMap::new(),
            generation: 0,
        }
    }

    /// Enabled units, bundled by lock key.
    pub fn bundles(&self) -> Vec<Bundle> {
        let live: BTreeSet<&AgentName> = self
            .agents
            .iter()
            .filter(|agent| agent.alive)
            .map(|agent| &agent.name)
            .collect();
        let mut bundles: BTreeMap<i64, Bundle> = BTreeMap::new();
        for row in self.pipelines.iter().filter(|row| row.enabled) {
            let bundle = bundles.entry(row.lock_key).or_insert_with(|| Bundle {
                pipelines: Vec::new(),
                weight: 0,
                owner: None,
                placement: None,
                stays: None,
                unfit: BTreeSet::new(),
            });
            bundle.pipelines.push(row.name.clone());
            bundle.weight += row.weight;
            bundle.owner = bundle
                .owner
                .take()
                .or_else(|| row.owner.clone().filter(|owner| live.contains(owner)));
            bundle.placement = bundle
                .placement
                .take()
                .or_else(|| self.placements.get(&row.name).cloned());
            bundle.stays = bundle.stays.take().or_else(|| self.stays(&row.name));
            bundle.unfit.extend(self.unfit(row).cloned());
        }
        bundles.into_values().collect()
    }

    /// Agents that should not have a unit, because they do not reach its sink.
    pub fn unfit<'a>(&'a self, row: &'a PipelineRow) -> impl Iterator<Item = &'a AgentName> {
        reach::unfit(self.unreached_by(&row.name), row.owner.as_ref())
    }

    /// What was said about the way to a unit's sink.
    pub fn unreached_by(&self, unit: &UnitName) -> &[Unreached] {
        self.unreached.get(unit).map_or(&[], Vec::as_slice)
    }

    /// What one agent says about the way to a unit's sink, if it does not reach it.
    pub fn unreached(&self, unit: &UnitName, agent: &AgentName) -> Option<&Unreached> {
        let said = self.unreached_by(unit).iter();
        said.into_iter().find(|one| one.agent == *agent)
    }

    /// Live agents and what their holds admit; `draining` adds drains that do not exist yet.
    pub fn candidates<'a>(
        &self,
        draining: impl IntoIterator<Item = &'a AgentName>,
    ) -> Vec<Candidate> {
        let draining: BTreeSet<&AgentName> = draining.into_iter().collect();
        self.agents
            .iter()
            .filter(|agent| agent.alive)
            .map(|agent| Candidate {
                name: agent.name.clone(),
                weight: agent.weight,
                admits: if draining.contains(&agent.name) {
                    Admits::Nothing
                } else {
                    self.admits(&agent.name)
                },
            })
            .collect()
    }

    /// The strictest of an agent's holds; nothing while it stops.
    pub fn admits(&self, agent: &AgentName) -> Admits {
        if self.agent(agent).is_some_and(AgentRow::is_stopping) {
            return Admits::Nothing;
        }
        let kinds: BTreeSet<HoldKind> = self.holds_on(agent).map(|hold| hold.kind).collect();
        if kinds.contains(&HoldKind::Drain) {
            Admits::Nothing
        } else if kinds.contains(&HoldKind::Cordon) {
            Admits::OnlyItsOwn
        } else {
            Admits::All
        }
    }

    /// The holds on an agent.
    pub fn holds_on(&self, agent: &AgentName) -> impl Iterator<Item = &Hold> {
        let of = move |hold: &&Hold| hold.agent() == Some(agent);
        self.holds.iter().filter(of)
    }

    /// The holds on the pipeline of a unit.
    pub fn holds_of(&self, unit: &UnitName) -> impl Iterator<Item = &Hold> {
        let pipeline = unit.pipeline();
        let of = move |hold: &&Hold| hold.pipeline() == Some(&pipeline);
        self.holds.iter().filter(of)
    }

    /// The hold that keeps a unit from being moved: a pin before a freeze, for it says where.
    pub fn staying(&self, unit: &UnitName) -> Option<&Hold> {
        let kept = |kind| self.holds_of(unit).find(|hold| hold.kind == kind);
        kept(HoldKind::Pin).or_else(|| kept(HoldKind::Freeze))
    }

    fn stays(&self, unit: &UnitName) -> Option<Stays> {
        let hold = self.staying(unit)?;
        Some(hold.to.clone().map_or(Stays::Put, Stays::At))
    }

    /// Where every pipeline should be.
    pub fn assignments(&self) -> BTreeMap<UnitName, Assignment> {
        assign(&self.bundles(), &self.candidates(None))
    }

    /// Where each pipeline should be by everybody's calculation, if that is not where it is; in the
    /// order of `pipelines`.
    pub fn moves(&self) -> Vec<Option<AgentName>> {
        let mut assigned = self.assignments();
        let moving_to = |row: &PipelineRow| {
            let wanted = assigned.remove(&row.name)?.agent;
            (row.owner.as_ref() != Some(&wanted)).then_some(wanted)
        };
        self.pipelines.iter().map(moving_to).collect()
    }

    /// Enabled pipelines whose number of shards is about to change: nobody may work by the old
    /// layout any more. One whose shards still catch up from an earlier change comes later.
    pub fn resharding(&self) -> BTreeSet<PipelineName> {
        let mut pipelines = BTreeMap::new();
        for row in self.pipelines.iter().filter(|row| row.enabled) {
            let due = row.reshard_to.is_some() && row.settled;
            *pipelines.entry(row.name.pipeline_str()).or_insert(true) &= due;
        }
        let due = pipelines.into_iter().filter(|(_, due)| *due);
        due.filter_map(|(name, _)| name.parse().ok()).collect()
    }

    /// The row of one unit; for the name of a sharded pipeline its first shard's.
    pub fn pipeline_or_shard(&self, name: &UnitName) -> Option<&PipelineRow> {
        let first_shard = || {
            self.pipelines
                .iter()
                .find(|row| row.name.pipeline_str() == name.as_str())
        };
        self.pipeline(name).or_else(first_shard)
    }

    /// Units of others that would be this agent's if their owner vanished now.
    pub fn backups(&self, agent: &AgentName) -> BTreeSet<UnitName> {
        backups(&self.bundles(), &self.candidates(None), agent)
    }

    /// The row of one unit.
    pub fn pipeline(&self, name: &UnitName) -> Option<&PipelineRow> {
        self.pipelines.iter().find(|row| row.name == *name)
    }

    /// The row of one agent.
    pub fn agent(&self, name: &AgentName) -> Option<&AgentRow> {
        self.agents.iter().find(|row| row.name == *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> AgentRow {
        AgentRow {
            name: name.parse().unwrap(),
            incarnation: Incarnation(uuid::Uuid::nil()),
            alive: true,
            version: String::new(),
            hostname: String::new(),
            weight: 1,
            metrics_addr: None,
            started_at: OffsetDateTime::UNIX_EPOCH,
            last_seen_at: OffsetDateTime::UNIX_EPOCH,
            stopped_at: None,
            backend_pid: None,
            lease_ends_at: None,
        }
    }

    fn pipeline(number: i64, owner: Option<&str>) -> PipelineRow {
        PipelineRow {
            name: format!("p{number}").parse().unwrap(),
            outbox: "events".to_owned(),
            sink: "null".to_owned(),
            enabled: true,
            revision: 1,
            weight: 1,
            lock_key: number,
            owner: owner.map(|owner| owner.parse().unwrap()),
            owner_pid: None,
            epoch: None,
            last_change_id: 0,
            lag_rows: 0,
            lag: Duration::ZERO,
            state: None,
            state_reason: None,
            state_since: None,
            retry_at: None,
            reshard_to: None,
            settled: true,
        }
    }

    #[test]
    fn an_agent_that_stops_is_not_filled_up_again_with_what_the_others_have() {
        // It has given away two of its four already, one of which nobody has taken yet.
        let owners = ["a", "a", "b", "b", "b", "b", "b", "c", "c", "c", "c"];
        let mut pipelines: Vec<PipelineRow> = (0..)
            .zip(owners)
            .map(|(number, owner)| pipeline(number, Some(owner)))
            .collect();
        pipelines.push(pipeline(11, None));
        let mut view = DatabaseView {
            pipelines,
            agents: ["a", "b", "c"].map(agent).to_vec(),
            ..DatabaseView::empty("default".parse().unwrap(), OffsetDateTime::UNIX_EPOCH)
        };
        let moved_to_a = |view: &DatabaseView| {
            let assigned = view.assignments();
            assigned
                .values()
                .filter(|one| one.agent.as_str() == "a")
                .count()
        };
        assert_eq!(moved_to_a(&view), 4, "it is there, and has little");
        view.agents[0].stopped_at = Some(OffsetDateTime::UNIX_EPOCH);
        assert_eq!(moved_to_a(&view), 0);
        for row in view.pipelines.iter().filter(|row| row.owner.is_some()) {
            let owner = row.owner.as_ref().unwrap();
            let assigned = &view.assignments()[&row.name].agent;
            assert!(owner.as_str() == "a" || assigned == owner, "{row:?}");
        }
    }
}
