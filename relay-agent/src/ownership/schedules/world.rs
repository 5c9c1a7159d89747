//! A fleet without a runtime: the machines of several agents, a server that grants locks, and
//! everything that is on its way between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tide_model::{AgentName, Bundle, Candidate, Epoch, UnitName, assign, assignment::Admits};
use tokio::time::Instant;

use super::super::{Effect, Event, Holder, Ownership, PREPARATION, Wanted, WorkerEnd};

pub(super) type Session = u32;

/// Something that an agent will hear of, sooner or later, in any order.
#[derive(Debug)]
pub(super) enum Pending {
    /// What a look found, and whether it counted the agent out.
    Discovered(BTreeMap<UnitName, Wanted>, bool, bool),
    /// An answer of this lock session.
    Acquired(Session, BTreeMap<UnitName, Epoch>, Vec<UnitName>),
    Released(Session, UnitName),
    /// A worker under this session has done what it was told.
    WorkerEnds(Session, UnitName),
    SessionLost(Session),
    /// Notices: they may get lost.
    Offered(UnitName),
    Prepare(AgentName, UnitName),
    Ready(AgentName, UnitName),
}

#[derive(Debug)]
pub(super) enum Command {
    Acquire(Vec<UnitName>),
    Release(UnitName, Option<AgentName>),
}

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) name: AgentName,
    pub(super) machine: Ownership,
    /// The session as the agent knows it.
    pub(super) session: Option<Session>,
    commands: VecDeque<Command>,
    pub(super) pending: Vec<Pending>,
    pub(super) workers: BTreeSet<UnitName>,
    overdue: Vec<Instant>,
    pub(super) looking: bool,
    pub(super) leaving: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    pub(super) enabled: bool,
    pub(super) revision: i64,
    pub(super) placement: Option<AgentName>,
    pub(super) unfit: BTreeSet<AgentName>,
}

pub(super) struct World {
    pub(super) now: Instant,
    /// None while the process does not run.
    pub(super) agents: Vec<Option<Agent>>,
    pub(super) names: Vec<AgentName>,
    pub(super) pipelines: BTreeMap<UnitName, Pipeline>,
    pub(super) holds: BTreeMap<AgentName, Admits>,
    /// Sessions that stand in the server, by the agent whose name they lock, and what they hold.
    pub(super) server: BTreeMap<AgentName, (Session, BTreeSet<UnitName>)>,
    next: u32,
    /// Effects that change anything, since it was last set to zero.
    pub(super) stirred: usize,
}

impl World {
    pub(super) fn new(agents: usize, pipelines: usize) -> Self {
        let names: Vec<AgentName> = (0..agents)
            .map(|number| format!("agent-{number}").parse().unwrap())
            .collect();
        let pipeline = Pipeline {
            enabled: true,
            revision: 1,
            placement: None,
            unfit: BTreeSet::new(),
        };
        let mut world = Self {
            now: Instant::now(),
            agents: Vec::new(),
            pipelines: (0..pipelines)
                .map(|number| (format!("p-{number}").parse().unwrap(), pipeline.clone()))
                .collect(),
            holds: BTreeMap::new(),
            server: BTreeMap::new(),
            names,
            next: 0,
            stirred: 0,
        };
        for index in 0..agents {
            world.agents.push(None);
            world.join(index);
        }
        world
    }

    pub(super) fn join(&mut self, index: usize) {
        let name = self.names[index].clone();
        if self.agents[index].is_none() {
            self.agents[index] = Some(Agent {
                machine: Ownership::new(name.clone()),
                name,
                session: None,
                commands: VecDeque::new(),
                pending: Vec::new(),
                workers: BTreeSet::new(),
                overdue: Vec::new(),
                looking: false,
                leaving: false,
            });
        }
        self.open_session(index);
    }

    /// Possible as soon as no other session holds the name.
    pub(super) fn open_session(&mut self, index: usize) {
        let next = self.next;
        let Some(agent) = &mut self.agents[index] else {
            return;
        };
        if agent.session.is_some() || agent.leaving || self.server.contains_key(&agent.name) {
            return;
        }
        self.next += 1;
        agent.session = Some(next);
        self.server
            .insert(agent.name.clone(), (next, BTreeSet::new()));
        self.step(index, Event::SessionUp);
    }

    /// The server ends the session; the agent hears of it later.
    pub(super) fn end_session(&mut self, index: usize) {
        let Some((session, _)) = self.server.remove(&self.names[index]) else {
            return;
        };
        if let Some(agent) = &mut self.agents[index] {
            agent.pending.push(Pending::SessionLost(session));
        }
    }

    /// The process is gone, and its session with it.
    pub(super) fn kill(&mut self, index: usize) {
        self.agents[index] = None;
        self.server.remove(&self.names[index]);
    }

    /// The agent gives its session up; the server keeps it until its lease is over.
    pub(super) fn give_up(&mut self, index: usize) {
        let Some(agent) = &mut self.agents[index] else {
            return;
        };
        if let Some(session) = agent.session {
            agent.pending.push(Pending::SessionLost(session));
        }
    }

    pub(super) fn look(&mut self, index: usize) {
        let Some(agent) = &self.agents[index] else {
            return;
        };
        if agent.looking {
            return;
        }
        let (name, leaving) = (agent.name.clone(), agent.leaving);
        let admits = self.holds.get(&name).copied().unwrap_or(Admits::All);
        let found = Pending::Discovered(
            self.wanted(&name, leaving),
            !leaving && admits == Admits::All,
            leaving,
        );
        if let Some(agent) = &mut self.agents[index] {
            agent.looking = true;
            agent.pending.push(found);
        }
    }

    pub(super) fn owner(&self, pipeline: &UnitName) -> Option<&AgentName> {
        self.server
            .iter()
            .find(|(_, (_, held))| held.contains(pipeline))
            .map(|(name, _)| name)
    }

    /// What discovery makes of the server's tables and locks.
    pub(super) fn wanted(&self, me: &AgentName, leaving: bool) -> BTreeMap<UnitName, Wanted> {
        let candidates: Vec<Candidate> = self
            .server
            .keys()
            .map(|name| Candidate {
                name: name.clone(),
                weight: 1,
                admits: if leaving && name == me {
                    Admits::Nothing
                } else {
                    self.holds.get(name).copied().unwrap_or(Admits::All)
                },
            })
            .collect();
        let enabled = || {
            self.pipelines
                .iter()
                .filter(|(_, pipeline)| pipeline.enabled)
        };
        let units: Vec<Bundle> = enabled()
            .map(|(name, pipeline)| Bundle {
                pipelines: vec![name.clone()],
                weight: 1,
                owner: self.owner(name).cloned(),
                placement: pipeline.placement.clone(),
                stays: None,
                unfit: pipeline.unfit.clone(),
            })
            .collect();
        let places = assign(&units, &candidates);
        enabled()
            .map(|(name, pipeline)| {
                let assignee = places.get(name).map(|assignment| assignment.agent.clone());
                let holder = match self.owner(name) {
                    Some(owner) if owner == me && assignee.as_ref() == Some(me) => Holder::Nobody,
                    Some(_) => Holder::Agent,
                    None => Holder::Nobody,
                };
                let wanted = Wanted {
                    assignee,
                    holder,
                    revision: pipeline.revision,
                };
                (name.clone(), wanted)
            })
            .collect()
    }

    /// The server answers the oldest command of an agent's session.
    pub(super) fn execute(&mut self, index: usize) {
        let mut epoch = self.next;
        let Some(agent) = &mut self.agents[index] else {
            return;
        };
        let Some(session) = agent.session else { return };
        let name = agent.name.clone();
        // A session that the server has ended answers nothing any more.
        if self
            .server
            .get(&name)
            .is_none_or(|(stands, _)| *stands != session)
        {
            agent.commands.clear();
            return;
        }
        match agent.commands.pop_front() {
            None => {}
            Some(Command::Acquire(asked)) => {
                let (free, refused): (Vec<_>, Vec<_>) = asked.into_iter().partition(|name| {
                    self.owner(name)
                        .is_none_or(|owner| *owner == self.names[index])
                });
                let (_, held) = self.server.get_mut(&name).expect("it stands");
                held.extend(free.iter().cloned());
                let claimed = free
                    .into_iter()
                    .map(|name| {
                        epoch += 1;
                        (name, Epoch(i64::from(epoch)))
                    })
                    .collect();
                self.next = epoch;
                self.push(index, Pending::Acquired(session, claimed, refused));
            }
            Some(Command::Release(pipeline, to)) => {
                let (_, held) = self.server.get_mut(&name).expect("it stands");
                assert!(
                    held.remove(&pipeline),
                    "{name} released {pipeline}, which it does not hold"
                );
                self.push(index, Pending::Released(session, pipeline.clone()));
                if let Some(to) = to {
                    self.tell(&to, Pending::Offered(pipeline));
                }
            }
        }
    }

    fn push(&mut self, index: usize, pending: Pending) {
        if let Some(agent) = &mut self.agents[index] {
            agent.pending.push(pending);
        }
    }

    fn tell(&mut self, to: &AgentName, notice: Pending) {
        if let Some(index) = self.names.iter().position(|name| name == to) {
            self.push(index, notice);
        }
    }

    /// Delivers one of the things that are on their way to an agent.
    pub(super) fn deliver(&mut self, index: usize, which: usize) {
        let Some(agent) = &mut self.agents[index] else {
            return;
        };
        if agent.pending.is_empty() {
            return;
        }
        let which = which % agent.pending.len();
        let session = agent.session;
        let current = |other: Session| session == Some(other);
        match agent.pending.remove(which) {
            Pending::Discovered(wanted, may_step_in, left) => {
                agent.looking = false;
                self.step(
                    index,
                    Event::Discovered {
                        wanted,
                        may_step_in,
                    },
                );
                if left {
                    self.step(index, Event::Leave);
                }
            }
            Pending::Acquired(of, claimed, refused) if current(of) => {
                self.step(index, Event::Acquired { claimed, refused });
            }
            Pending::Released(of, pipeline) if current(of) => {
                self.step(index, Event::Released(vec![pipeline]));
            }
            Pending::WorkerEnds(of, pipeline) if current(of) => {
                self.worker_ends(index, &pipeline, WorkerEnd::Stopped);
            }
            Pending::SessionLost(of) if current(of) => {
                agent.session = None;
                agent.workers.clear();
                agent.commands.clear();
                self.step(index, Event::SessionLost);
            }
            Pending::Offered(pipeline) => self.step(index, Event::Offered(vec![pipeline])),
            Pending::Prepare(from, pipeline) => {
                let me = agent.name.clone();
                self.tell(&from, Pending::Ready(me, pipeline));
            }
            Pending::Ready(from, pipeline) => self.step(index, Event::Ready(from, vec![pipeline])),
            Pending::Acquired(..)
            | Pending::Released(..)
            | Pending::WorkerEnds(..)
            | Pending::SessionLost(_) => {}
        }
    }

    pub(super) fn worker_ends(&mut self, index: usize, pipeline: &UnitName, end: WorkerEnd) {
        let Some(agent) = &mut self.agents[index] else {
            return;
        };
        // One that has ended by itself is not there to be stopped.
        if agent.workers.remove(pipeline) {
            self.step(index, Event::WorkerEnded(pipeline.clone(), end));
        }
    }

    /// Whether anything is on its way.
    pub(super) fn is_busy(&self) -> bool {
        let mut agents = self.agents.iter().flatten();
        agents.any(|agent| !agent.pending.is_empty() || !agent.commands.is_empty())
    }

    /// A notice that never comes.
    pub(super) fn lose_notice(&mut self, index: usize) {
        let Some(agent) = &mut self.agents[index] else {
            return;
        };
        let notice = agent.pending.iter().position(|pending| {
            matches!(
                pending,
                Pending::Offered(_) | Pending::Prepare(..) | Pending::Ready(..)
            )
        });
        if let Some(notice) = notice {
            agent.pending.remove(notice);
        }
    }

    /// Timers that are due.
    pub(super) fn tick(&mut self, index: usize) {
        let now = self.now;
        let Some(agent) = &mut self.agents[index] else {
            return;
        };
        let before = agent.overdue.len();
        agent.overdue.retain(|due| *due > now);
        if agent.overdue.len() < before {
            self.step(index, Event::Overdue);
        }
    }

    /// An agent that has given everything away closes its session and ends.
    pub(super) fn end_if_left(&mut self, index: usize) {
        let Some(agent) = &self.agents[index] else {
            return;
        };
        if agent.machine.has_left() {
            // What a lost session held the server frees.
            if let Some((session, held)) = self.server.get(&agent.name)
                && agent.session == Some(*session)
            {
                assert!(held.is_empty(), "{} left with locks", agent.name);
            }
            self.kill(index);
        }
    }

    fn step(&mut self, index: usize, event: Event) {
        let now = self.now;
        let Some(agent) = &mut self.agents[index] else {
            return;
        };
        let me = agent.name.clone();
        let mut asked = Vec::new();
        for effect in agent.machine.step(event, now) {
            self.stirred += usize::from(!matches!(effect, Effect::LookAgainIn(_)));
            match effect {
                Effect::Acquire(names) => agent.commands.push_back(Command::Acquire(names)),
                Effect::Release(name, to) => {
                    assert!(
                        !agent.workers.contains(&name),
                        "{me} lets go of {name}, which it runs"
                    );
                    agent.commands.push_back(Command::Release(name, to));
                }
                Effect::Start(name, _) => {
                    assert!(agent.workers.insert(name.clone()), "{me} runs {name} twice");
                }
                Effect::Stop(name) => {
                    let session = agent.session.expect("nothing runs without one");
                    agent.pending.push(Pending::WorkerEnds(session, name));
                }
                Effect::Prepare(name, to) => {
                    agent.overdue.push(now + PREPARATION);
                    asked.push((name, to));
                }
                // Everybody looks all the time here.
                Effect::LookAgainIn(_) => {}
            }
        }
        for (name, to) in asked {
            self.tell(&to, Pending::Prepare(me.clone(), name));
        }
        self.check();
    }

    /// No worker without its lock, and so no two workers of one pipeline. A worker whose session the
    /// server has ended does not count: its trust was over before.
    pub(super) fn check(&self) {
        for agent in self.agents.iter().flatten() {
            let stands = self
                .server
                .get(&agent.name)
                .filter(|(session, _)| Some(*session) == agent.session);
            let Some((_, held)) = stands else { continue };
            for pipeline in &agent.workers {
                assert!(
                    held.contains(pipeline),
                    "{} runs {pipeline} without its lock",
                    agent.name
                );
            }
        }
        for pipeline in self.pipelines.keys() {
            let owners = self
                .server
                .values()
                .filter(|(_, held)| held.contains(pipeline));
            assert!(owners.count() <= 1, "{pipeline} has two owners");
        }
    }
}
