//! The machine drawn in the parent module.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tide_model::{AgentName, Epoch, UnitName};
use tokio::time::Instant;

use super::preparing::{Preparing, Stance, entering};

/// What discovery says about one enabled pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Who should own it; nobody if no live agent may.
    pub(crate) assignee: Option<AgentName>,
    /// Who holds its lock.
    pub(crate) holder: Holder,
    /// The revision of its configuration.
    pub(crate) revision: i64,
}

/// Who holds a lock, as far as `pg_locks` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody else.
    Nobody,
    /// A live agent; perhaps this one.
    Agent,
    /// A session that is no live agent's: dying, or an orphan until its lease is over.
    Stranger,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerEnd {
    /// Asked to; its position is stored.
    Stopped,
    /// Its trust was revoked with the lock session.
    Revoked,
    /// A newer epoch exists.
    Fenced,
    /// It broke off on its own; nothing is lost, it starts again.
    Failed,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A lock session stands, and our name is locked on it.
    SessionUp,
    /// The lock session is gone, and every lock with it.
    SessionLost,
    /// The fleet was looked at. Pipelines that are missing are disabled or deleted.
    Discovered {
        /// Every enabled pipeline.
        wanted: BTreeMap<UnitName, Wanted>,
        /// Whether our holds let us take work that nobody assigned to us.
        may_step_in: bool,
    },
    /// An owner released these and named us.
    Offered(Vec<UnitName>),
    /// An agent is ready to take these, or never will be readier.
    Ready(AgentName, Vec<UnitName>),
    /// Answer to [`Effect::Prepare`]: nobody is waited for any longer.
    Overdue,
    /// Answer to [`Effect::Acquire`]: what we got, and what somebody else holds.
    Acquired {
        /// Locked and claimed.
        claimed: BTreeMap<UnitName, Epoch>,
        /// Everything else that was asked for.
        refused: Vec<UnitName>,
    },
    /// A worker has ended.
    WorkerEnded(UnitName, WorkerEnd),
    /// Answer to [`Effect::Release`].
    Released(Vec<UnitName>),
    /// Give everything away and take nothing more.
    Leave,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Try to lock these and claim what was locked.
    Acquire(Vec<UnitName>),
    /// Start a worker under this epoch.
    Start(UnitName, Epoch),
    /// Ask the successor to make ready, and say [`Event::Overdue`] after
    /// [`PREPARATION`](super::PREPARATION). The
    /// worker goes on meanwhile.
    Prepare(UnitName, AgentName),
    /// Let the worker finish its batch and store its position.
    Stop(UnitName),
    /// Unlock, and tell the successor if there is one.
    Release(UnitName, Option<AgentName>),
    /// Look at the fleet again after this long, unless news comes earlier.
    LookAgainIn(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Standby {
        unowned_since: Option<Instant>,
        refusals: u32,
    },
    Acquiring {
        refusals: u32,
    },
    Held {
        revision: i64,
    },
    Restarting,
    Preparing(Preparing),
    Yielding {
        to: Option<AgentName>,
    },
    Releasing,
}

const IDLE: Phase = Phase::Standby {
    unowned_since: None,
    refusals: 0,
};

/// How long an agent that is not preferred leaves an unowned pipeline to the one that is.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// First and longest delay before looking again at a lock that was refused although nobody seemed
/// to hold it: a dying session frees its locks one by one.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// What this agent runs and is about to run.
#[derive(Debug)]
pub(crate) struct Ownership {
    name: AgentName,
    session: bool,
    leaving: bool,
    may_step_in: bool,
    wanted: BTreeMap<UnitName, Wanted>,
    phases: BTreeMap<UnitName, Phase>,
}

impl Ownership {
    pub(crate) fn new(name: AgentName) -> Self {
        Self {
            name,
            session: false,
            leaving: false,
            may_step_in: false,
            wanted: BTreeMap::new(),
            phases: BTreeMap::new(),
        }
    }

    /// Pipelines that this agent holds, or may hold: everything that is not standing by.
    pub(crate) fn owned(&self) -> usize {
        self.phases
            .values()
            .filter(|phase| !matches!(phase, Phase::Standby { .. }))
            .count()
    }

    /// Whether an agent that is leaving has given everything away.
    pub(crate) fn has_left(&self) -> bool {
        self.leaving && self.owned() == 0
    }

    pub(crate) fn step(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::SessionUp => {
                self.session = true;
                self.plan(now)
            }
            Event::SessionLost => {
                self.session = false;
                self.phases.clear();
                Vec::new()
            }
            Event::Discovered {
                wanted,
                may_step_in,
            } => {
                self.wanted = wanted;
                self.may_step_in = may_step_in;
                self.plan(now)
            }
            Event::Offered(pipelines) => self.take_offer(pipelines),
            Event::Ready(agent, pipelines) => self.successor_ready(&agent, &pipelines),
            Event::Overdue => self.overdue(now),
            Event::Acquired { claimed, refused } => self.acquired(&claimed, refused, now),
            Event::WorkerEnded(pipeline, end) => self.worker_ended(&pipeline, end),
            Event::Released(pipelines) => {
                // What is wanted in another layout waits for the last of its old owners.
                let mut unwanted = false;
                for pipeline in pipelines {
                    if self.phases.get(&pipeline) == Some(&Phase::Releasing) {
                        unwanted |= !self.wanted.contains_key(&pipeline);
                        self.phases.insert(pipeline, IDLE);
                    }
                }
                self.forget_unwanted();
                let look = unwanted && self.session && !self.leaving;
                look.then_some(Effect::LookAgainIn(Duration::ZERO))
                    .into_iter()
                    .collect()
            }
            Event::Leave => {
                self.leaving = true;
                self.plan(now)
            }
        }
    }

    /// Compares every pipeline with what is wanted.
    fn plan(&mut self, now: Instant) -> Vec<Effect> {
        if !self.session {
            return Vec::new();
        }
        let names: BTreeSet<UnitName> = self
            .wanted
            .keys()
            .chain(self.phases.keys())
            .cloned()
            .collect();
        let stance = Stance {
            me: &self.name,
            leaving: self.leaving,
            may_step_in: self.may_step_in,
            now,
        };
        let mut effects = Vec::new();
        let mut acquire = Vec::new();
        let mut look_again: Option<Duration> = None;
        for name in names {
            let wanted = self.wanted.get(&name);
            let phase = self.phases.entry(name.clone()).or_insert(IDLE);
            match (&mut *phase, wanted) {
                (
                    Phase::Standby {
                        unowned_since,
                        refusals,
                    },
                    Some(wanted),
                ) if !self.leaving => {
                    let ours = wanted.assignee.as_ref() == Some(&self.name);
                    match wanted.holder {
                        Holder::Agent => *phase = IDLE,
                        Holder::Stranger => {
                            *unowned_since = None;
                            if ours {
                                soonest(&mut look_again, retry_delay(*refusals));
                                *refusals += 1;
                            }
                        }
                        Holder::Nobody => {
                            let idle = now.duration_since(*unowned_since.get_or_insert(now));
                            if ours || (self.may_step_in && idle >= GRACE) {
                                acquire.push(name.clone());
                                *phase = Phase::Acquiring {
                                    refusals: *refusals,
                                };
                            } else if self.may_step_in {
                                soonest(&mut look_again, GRACE.saturating_sub(idle));
                            }
                        }
                    }
                }
                (Phase::Held { revision }, wanted) => {
                    if let Some(next) = stance.held(*revision, wanted) {
                        effects.extend(entering(&next, &name));
                        *phase = next;
                    }
                }
                (Phase::Preparing(preparing), wanted) => {
                    if let Some(next) = stance.preparing(preparing, wanted) {
                        effects.extend(entering(&next, &name));
                        *phase = next;
                    }
                }
                // A pipeline that went away while it restarts must not start again.
                (Phase::Restarting, wanted) => {
                    if wanted.is_none() || self.leaving {
                        let to = wanted.and_then(|wanted| wanted.assignee.clone());
                        *phase = Phase::Yielding {
                            to: to.filter(|assignee| *assignee != self.name),
                        };
                    }
                }
                (Phase::Yielding { to }, Some(wanted)) => {
                    // Newer knowledge about who comes next is better than older.
                    let newer = wanted
                        .assignee
                        .clone()
                        .filter(|assignee| *assignee != self.name);
                    *to = newer.or(to.take());
                }
                (
                    Phase::Standby { .. }
                    | Phase::Acquiring { .. }
                    | Phase::Releasing
                    | Phase::Yielding { .. },
                    _,
                ) => {}
            }
        }
        if !acquire.is_empty() {
            effects.push(Effect::Acquire(acquire));
        }
        if let Some(delay) = look_again {
            effects.push(Effect::LookAgainIn(delay));
        }
        self.forget_unwanted();
        effects
    }

    fn take_offer(&mut self, pipelines: Vec<UnitName>) -> Vec<Effect> {
        if !self.session || self.leaving {
            return Vec::new();
        }
        let mut acquire = Vec::new();
        let mut unexpected = false;
        for name in pipelines {
            let known = self.wanted.contains_key(&name);
            let phase = self.phases.entry(name.clone()).or_insert(IDLE);
            match phase {
                Phase::Standby { .. } if known && self.may_step_in => {
                    *phase = Phase::Acquiring { refusals: 0 };
                    acquire.push(name);
                }
                Phase::Standby { .. } | Phase::Releasing => unexpected = true,
                Phase::Acquiring { .. }
                | Phase::Held { .. }
                | Phase::Restarting
                | Phase::Preparing(_)
                | Phase::Yielding { .. } => {}
            }
        }
        self.forget_unwanted();
        let mut effects = Vec::new();
        if unexpected {
            // The owner has seen what we have not: a pipeline that is new, or our hold removed.
            // The look that shows us may have begun before the release, and nobody tells us twice.
            effects.push(Effect::LookAgainIn(Duration::ZERO));
        }
        if !acquire.is_empty() {
            // The offer may be older than the last look, in which somebody joined: see whether it
            // was the last word.
            effects.push(Effect::Acquire(acquire));
            effects.push(Effect::LookAgainIn(RETRY.1));
        }
        effects
    }

    fn acquired(
        &mut self,
        claimed: &BTreeMap<UnitName, Epoch>,
        refused: Vec<UnitName>,
        now: Instant,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (name, epoch) in claimed {
            // Another answer than the one we wait for: the lock came back from a lost session.
            if !matches!(self.phases.get(name), Some(Phase::Acquiring { .. })) {
                continue;
            }
            match self.wanted.get(name) {
                Some(wanted) if !self.leaving => {
                    self.phases.insert(
                        name.clone(),
                        Phase::Held {
                            revision: wanted.revision,
                        },
                    );
                    effects.push(Effect::Start(name.clone(), *epoch));
                }
                // It was disabled, or we were told to leave, while the lock was on its way.
                _ => {
                    self.phases.insert(name.clone(), Phase::Releasing);
                    effects.push(Effect::Release(name.clone(), None));
                }
            }
        }
        let mut look_again: Option<Duration> = None;
        for name in refused {
            let Some(phase) = self.phases.get_mut(&name) else {
                continue;
            };
            if let Phase::Acquiring { refusals } = *phase {
                *phase = Phase::Standby {
                    unowned_since: Some(now),
                    refusals: refusals + 1,
                };
                soonest(&mut look_again, retry_delay(refusals));
            }
        }
        effects.extend(look_again.map(Effect::LookAgainIn));
        effects
    }

    fn worker_ended(&mut self, name: &UnitName, end: WorkerEnd) -> Vec<Effect> {
        let Some(phase) = self.phases.get_mut(name) else {
            return Vec::new();
        };
        match (phase.clone(), end) {
            (Phase::Yielding { to }, _) => {
                *phase = Phase::Releasing;
                vec![Effect::Release(name.clone(), to)]
            }
            // It was going anyway: there is no sense in starting it here once more.
            (Phase::Preparing(Preparing { to, .. }), WorkerEnd::Stopped | WorkerEnd::Failed) => {
                *phase = Phase::Releasing;
                vec![Effect::Release(name.clone(), Some(to))]
            }
            (Phase::Restarting | Phase::Held { .. }, WorkerEnd::Stopped | WorkerEnd::Failed) => {
                // Claim again under the lock that we still hold: the position is always re-read.
                *phase = Phase::Acquiring { refusals: 0 };
                vec![Effect::Acquire(vec![name.clone()])]
            }
            (Phase::Held { .. } | Phase::Preparing(_) | Phase::Restarting, WorkerEnd::Fenced) => {
                *phase = Phase::Releasing;
                vec![
                    Effect::Release(name.clone(), None),
                    Effect::LookAgainIn(RETRY.0),
                ]
            }
            // The loss of the session follows, or has been handled.
            (_, WorkerEnd::Revoked)
            | (Phase::Standby { .. } | Phase::Acquiring { .. } | Phase::Releasing, _) => Vec::new(),
        }
    }

    pub(super) fn phases_mut(&mut self) -> impl Iterator<Item = (&UnitName, &mut Phase)> {
        self.phases.iter_mut()
    }

    fn forget_unwanted(&mut self) {
        let wanted = &self.wanted;
        self.phases.retain(|name, phase| {
            wanted.contains_key(name) || !matches!(phase, Phase::Standby { .. })
        });
    }
}

fn retry_delay(refusals: u32) -> Duration {
    RETRY.0.saturating_mul(1 << refusals.min(16)).min(RETRY.1)
}

fn soonest(current: &mut Option<Duration>, candidate: Duration) {
    *current = Some(current.map_or(candidate, |current| current.min(candidate)));
}
