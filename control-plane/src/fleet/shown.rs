//! Keeps the newest [`View`] in step with the [`FleetState`], at the cost of what has changed.
//!
//! Disagreements of the two sources are shown once they have lasted for [`GRACE`]: what changes hands
//! is for a moment with both, or with none. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tide_model::{
    AgentName, UnitName,
    fleet::{
        AgentView, Coverage, DatabaseView, Hold, Ownership, PipelineView, REPORT_STALE_AFTER,
        warnings,
    },
};
use time::{Duration, OffsetDateTime};

use super::{
    dirty::Dirty,
    state::FleetState,
    view::{Rows, View},
    warming::Warming,
};

/// How long both sources may disagree before it counts.
pub(super) const GRACE: Duration = Duration::seconds(3);

/// The newest view, and what it takes to make the next one.
pub(super) struct Shown {
    view: View,
    database: Arc<DatabaseView>,
    /// Where each pipeline should be, if that is not where it is.
    moves: Arc<[Option<AgentName>]>,
    /// Where each pipeline is in the view.
    places: HashMap<UnitName, usize>,
    /// What each agent owns, by place.
    owned: BTreeMap<AgentName, Vec<usize>>,
    /// Pipelines that ask for attention, by place.
    troubled: BTreeSet<usize>,
    /// Disagreements, and since when; those younger than the grace are not shown.
    doubts: BTreeMap<UnitName, Doubt>,
    /// Agents whose reports have stopped.
    silent: BTreeSet<AgentName>,
    warming: Warming,
}

#[derive(Debug, Clone, Copy)]
struct Doubt {
    ownership: Ownership,
    since: OffsetDateTime,
}

impl Shown {
    /// A view of what the state knows.
    pub(super) fn new(state: &mut FleetState, warming: Warming, now: OffsetDateTime) -> Self {
        let database = Arc::clone(state.database_view());
        let view = View {
            group: database.group.clone(),
            revision: 0,
            agents: Rows::new(Vec::new(), 0),
            pipelines: Rows::new(Vec::new(), 0),
            database_at: database.taken_at,
            warnings: Arc::default(),
            coverage: Coverage::default(),
        };
        let mut shown = Self {
            view,
            moves: database.moves().into(),
            database: Arc::new(DatabaseView {
                pipelines: Vec::new(),
                agents: Vec::new(),
                ..(*database).clone()
            }),
            places: HashMap::new(),
            owned: BTreeMap::new(),
            troubled: BTreeSet::new(),
            doubts: BTreeMap::new(),
            silent: BTreeSet::new(),
            warming,
        };
        state.dirty().database = true;
        shown.refresh(state, now);
        shown
    }

    /// Where pipelines should be, by the read that the state has taken in or is about to.
    pub(super) fn set_moves(&mut self, moves: Arc<[Option<AgentName>]>) {
        self.moves = moves;
    }

    /// Agents report to somebody else: whatever is known by the time they come here is too little.
    pub(super) fn is_standby(&mut self, now: OffsetDateTime) {
        self.warming.restart(now);
    }

    /// The newest view.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Takes in whatever changed. Whether watchers see something else now.
    pub(super) fn refresh(&mut self, state: &mut FleetState, now: OffsetDateTime) -> bool {
        self.note_time(state, now);
        let dirty = state.take_dirty();
        let revision = self.view.revision + 1;
        let mut news = false;
        let mut agents = dirty.agents.clone();
        if dirty.database {
            news |= self.take_in_database(state, &dirty, revision, now);
            agents.extend(self.database.agents.iter().map(|row| row.name.clone()));
        } else {
            for name in &dirty.pipelines {
                let Some(place) = self.places.get(name).copied() else {
                    continue;
                };
                let pipeline = self.pipeline(place, state, now);
                if let Some(owner) = &pipeline.owner {
                    agents.insert(owner.clone());
                }
                self.note_trouble(place, &pipeline);
                news |= self.view.pipelines.set(place, pipeline, revision);
            }
        }
        news |= self.show_agents(&agents, state, revision, now);
        let troubled = self
            .troubled
            .iter()
            .filter_map(|place| self.view.pipelines.get(*place));
        let warnings = warnings(
            self.view.agents.iter().collect::<Vec<_>>().into_iter(),
            troubled.map(|pipeline| &**pipeline),
        );
        if *self.view.warnings != *warnings {
            self.view.warnings = warnings.into();
            news = true;
        }
        let coverage = self.warming.coverage(state, now);
        news |= coverage != self.view.coverage || self.view.database_at != self.database.taken_at;
        self.view.coverage = coverage;
        self.view.database_at = self.database.taken_at;
        if news {
            self.view.revision = revision;
        }
        news
    }

    /// Disagreements that have lasted long enough, and agents that have been silent for too long.
    fn note_time(&mut self, state: &mut FleetState, now: OffsetDateTime) {
        let ripe = self
            .doubts
            .iter()
            .filter(|(_, doubt)| now - doubt.since >= GRACE);
        let ripe: Vec<UnitName> = ripe.map(|(name, _)| name.clone()).collect();
        state.dirty().pipelines.extend(ripe);
        let silent = state.reports().iter();
        let silent = silent.filter(|(_, report)| now - report.received_at > REPORT_STALE_AFTER);
        let silent: BTreeSet<AgentName> = silent.map(|(agent, _)| agent.clone()).collect();
        for agent in self.silent.symmetric_difference(&silent) {
            let places = self.owned.get(agent).into_iter().flatten();
            let rows = places.filter_map(|place| self.view.pipelines.get(*place));
            let names: Vec<UnitName> = rows.map(|pipeline| pipeline.name.clone()).collect();
            state.dirty().pipelines.extend(names);
            state.dirty().agents.insert(agent.clone());
        }
        self.silent = silent;
    }

    /// Every row that differs from the last read, and every dirty one.
    fn take_in_database(
        &mut self,
        state: &FleetState,
        dirty: &Dirty,
        revision: u64,
        now: OffsetDateTime,
    ) -> bool {
        let before = std::mem::replace(&mut self.database, Arc::clone(state.database_view()));
        let database = Arc::clone(&self.database);
        let former = std::mem::take(&mut self.places);
        let same_holds = before.holds == database.holds;
        let mut moved = former.len() != database.pipelines.len();
        let mut news = moved;
        let mut rows = Vec::with_capacity(database.pipelines.len());
        self.places = HashMap::with_capacity(database.pipelines.len());
        self.owned.clear();
        self.troubled.clear();
        for (place, row) in database.pipelines.iter().enumerate() {
            // Mostly nothing was added or removed, and each is where it was.
            let same_place = before
                .pipelines
                .get(place)
                .is_some_and(|old| old.name == row.name);
            let was = if same_place {
                Some(place)
            } else {
                former.get(&row.name).copied()
            };
            moved |= was != Some(place);
            let known = was.and_then(|was| {
                Some((
                    self.view.pipelines.get(was)?,
                    self.view.pipelines.changed(was),
                    was,
                ))
            });
            let wanted = self.moves.get(place).and_then(Option::as_ref);
            let same = known.filter(|(view, _, was)| {
                same_holds
                    && before.pipelines.get(*was) == Some(row)
                    && view.moving_to.as_ref() == wanted
                    && view.placement.as_ref() == database.placements.get(&row.name)
                    && !dirty.pipelines.contains(&row.name)
            });
            let (view, changed) = match (same, known) {
                (Some((view, changed, _)), _) => (Arc::clone(view), changed),
                (None, known) => {
                    let known = known.map(|(view, changed, _)| (Arc::clone(view), changed));
                    let view = self.pipeline(place, state, now);
                    match known {
                        Some((known, changed)) if *known == view => (known, changed),
                        Some(_) | None => {
                            news = true;
                            (Arc::new(view), revision)
                        }
                    }
                }
            };
            self.places.insert(row.name.clone(), place);
            if let Some(owner) = &view.owner {
                self.owned.entry(owner.clone()).or_default().push(place);
            }
            self.note_trouble(place, &view);
            rows.push((view, changed));
        }
        let gone: Vec<UnitName> = former
            .into_keys()
            .filter(|name| !self.places.contains_key(name))
            .collect();
        for name in &gone {
            self.doubts.remove(name);
        }
        news |= !gone.is_empty();
        self.view.pipelines.replace(rows);
        if moved {
            let gone = gone.iter().map(ToString::to_string);
            self.view.pipelines.laid_out(gone, revision);
        }
        news | moved
    }

    fn show_agents(
        &mut self,
        dirty: &BTreeSet<AgentName>,
        state: &FleetState,
        revision: u64,
        now: OffsetDateTime,
    ) -> bool {
        let database = &self.database;
        let same = self.view.agents.iter().len() == database.agents.len()
            && self
                .view
                .agents
                .iter()
                .zip(&database.agents)
                .all(|(view, row)| view.name == row.name);
        if !same {
            return self.replace_agents(state, revision, now);
        }
        let mut news = false;
        for (place, row) in database.agents.iter().enumerate() {
            if dirty.contains(&row.name) {
                let agent = self.agent(row, state, now);
                news |= self.view.agents.set(place, agent, revision);
            }
        }
        news
    }

    fn replace_agents(&mut self, state: &FleetState, revision: u64, now: OffsetDateTime) -> bool {
        let known: BTreeMap<AgentName, (Arc<AgentView>, u64)> = (0..)
            .map_while(|place| Some((self.view.agents.get(place)?, place)))
            .map(|(view, place)| {
                let changed = self.view.agents.changed(place);
                (view.name.clone(), (Arc::clone(view), changed))
            })
            .collect();
        let rows: Vec<(Arc<AgentView>, u64)> = self
            .database
            .agents
            .iter()
            .map(|row| {
                let agent = self.agent(row, state, now);
                match known.get(&row.name) {
                    Some((view, changed)) if **view == agent => (Arc::clone(view), *changed),
                    Some(_) | None => (Arc::new(agent), revision),
                }
            })
            .collect();
        let rest: BTreeSet<&AgentName> = rows.iter().map(|(view, _)| &view.name).collect();
        let gone = known.keys().filter(|name| !rest.contains(name));
        let gone: Vec<String> = gone.map(ToString::to_string).collect();
        self.view.agents.replace(rows);
        self.view.agents.laid_out(gone, revision);
        true
    }

    fn agent(
        &self,
        row: &tide_model::fleet::AgentRow,
        state: &FleetState,
        now: OffsetDateTime,
    ) -> AgentView {
        let places = self.owned.get(&row.name).into_iter().flatten();
        let owned: Vec<&PipelineView> = places
            .filter_map(|place| self.view.pipelines.get(*place))
            .map(|pipeline| &**pipeline)
            .collect();
        let database = &self.database;
        let holds = database.holds_on(&row.name).map(Hold::summary).collect();
        let holds = (database.admits(&row.name), holds);
        let last_drain = database.last_drains.get(&row.name).cloned();
        let report = state.reports().get(&row.name);
        AgentView::build(row, holds, last_drain, report, &owned, now)
    }

    fn pipeline(&mut self, place: usize, state: &FleetState, now: OffsetDateTime) -> PipelineView {
        let row = &self.database.pipelines[place];
        let placement = self.database.placements.get(&row.name).cloned();
        let moving_to = self.moves.get(place).cloned().flatten();
        let report = row
            .owner
            .as_ref()
            .and_then(|owner| state.reports().get(owner));
        let reported = report.and_then(|report| report.pipelines.get(&row.name));
        let holds = self.database.holds_of(&row.name).map(Hold::summary);
        let mut view = PipelineView::build(row, placement, moving_to, holds.collect(), reported);
        let none = BTreeSet::new();
        let others = state.claims().unbacked(&row.name).unwrap_or(&none);
        let told = row
            .owner
            .as_ref()
            .is_some_and(|owner| state.has_told(owner));
        let ownership = Ownership::compare(row, report, told, others, now);
        view.ownership = self.settled(&view.name, ownership, now);
        if view.ownership != Ownership::Agreed {
            view.claimed_by = others.iter().cloned().collect();
        }
        view
    }

    /// A disagreement, once it has lasted.
    fn settled(&mut self, name: &UnitName, ownership: Ownership, now: OffsetDateTime) -> Ownership {
        match ownership {
            Ownership::Agreed => {
                self.doubts.remove(name);
                Ownership::Agreed
            }
            // Reports had to be missing for long already.
            Ownership::Stale => {
                self.doubts.remove(name);
                Ownership::Stale
            }
            Ownership::Split | Ownership::Orphan | Ownership::Ghost => {
                let fresh = Doubt {
                    ownership,
                    since: now,
                };
                let doubt = self.doubts.entry(name.clone()).or_insert(fresh);
                doubt.ownership = ownership;
                if now - doubt.since >= GRACE {
                    ownership
                } else {
                    Ownership::Agreed
                }
            }
        }
    }

    fn note_trouble(&mut self, place: usize, pipeline: &PipelineView) {
        if pipeline.is_troubled() {
            self.troubled.insert(place);
        } else {
            self.troubled.remove(&place);
        }
    }
}
