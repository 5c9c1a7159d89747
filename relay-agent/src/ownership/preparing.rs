//! Waiting for a successor to make ready, while the worker goes on.

use std::time::Duration;

use tide_model::{AgentName, UnitName};
use tokio::time::Instant;

use super::state::{Effect, Ownership, Phase, Wanted};

/// How long a successor may take to make ready before it gets the pipeline all the same. Messages
/// flow meanwhile, so patience costs only the time until the hand-over.
pub(crate) const PREPARATION: Duration = Duration::from_secs(2);

/// A pipeline that is to go to `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Preparing {
    pub(super) revision: i64,
    pub(super) to: AgentName,
    pub(super) since: Instant,
}

/// What decides whether we keep what we run.
pub(super) struct Stance<'a> {
    pub(super) me: &'a AgentName,
    pub(super) leaving: bool,
    pub(super) may_step_in: bool,
    pub(super) now: Instant,
}

impl Stance<'_> {
    /// What becomes of a pipeline that we run, if anything is to change.
    pub(super) fn held(&self, revision: i64, wanted: Option<&Wanted>) -> Option<Phase> {
        let Some(wanted) = wanted else {
            return Some(Phase::Yielding { to: None });
        };
        match &wanted.assignee {
            Some(to) if to != self.me => Some(self.prepare(revision, to)),
            assignee if self.keeps(assignee.as_ref()) => {
                (revision != wanted.revision).then_some(Phase::Restarting)
            }
            Some(_) | None => Some(Phase::Yielding { to: None }),
        }
    }

    /// What becomes of one whose successor makes ready.
    pub(super) fn preparing(
        &self,
        preparing: &Preparing,
        wanted: Option<&Wanted>,
    ) -> Option<Phase> {
        let revision = preparing.revision;
        match wanted.map(|wanted| wanted.assignee.as_ref()) {
            Some(Some(to)) if *to == preparing.to => None,
            // The new successor gets as much time, unless we are to have nothing any more: then what
            // the former one has used up is gone, or agents that cannot take it could keep it here.
            Some(Some(to)) if to != self.me => Some(Phase::Preparing(Preparing {
                revision,
                to: to.clone(),
                since: if self.may_step_in {
                    self.now
                } else {
                    preparing.since
                },
            })),
            // It stays after all; nothing has been stopped yet.
            Some(assignee) if self.keeps(assignee) => Some(Phase::Held { revision }),
            Some(_) | None => Some(Phase::Yielding { to: None }),
        }
    }

    fn prepare(&self, revision: i64, to: &AgentName) -> Phase {
        Phase::Preparing(Preparing {
            revision,
            to: to.clone(),
            since: self.now,
        })
    }

    /// Without an assignee nobody may take it: it runs on, unless it must not.
    fn keeps(&self, assignee: Option<&AgentName>) -> bool {
        !self.leaving && (assignee.is_some() || self.may_step_in)
    }
}

/// What to do on the way into a phase out of one in which a worker runs.
pub(super) fn entering(phase: &Phase, name: &UnitName) -> Option<Effect> {
    match phase {
        Phase::Preparing(preparing) => Some(Effect::Prepare(name.clone(), preparing.to.clone())),
        Phase::Yielding { .. } | Phase::Restarting => Some(Effect::Stop(name.clone())),
        Phase::Standby { .. } | Phase::Acquiring { .. } | Phase::Held { .. } | Phase::Releasing => {
            None
        }
    }
}

impl Ownership {
    /// Stops those whose successor says that it is ready.
    pub(super) fn successor_ready(
        &mut self,
        agent: &AgentName,
        pipelines: &[UnitName],
    ) -> Vec<Effect> {
        self.yield_prepared(|name, preparing| preparing.to == *agent && pipelines.contains(name))
    }

    /// Stops those whose successor has had its time.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Effect> {
        self.yield_prepared(|_, preparing| now.duration_since(preparing.since) >= PREPARATION)
    }

    fn yield_prepared(&mut self, done: impl Fn(&UnitName, &Preparing) -> bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (name, phase) in self.phases_mut() {
            if let Phase::Preparing(preparing) = phase
                && done(name, preparing)
            {
                *phase = Phase::Yielding {
                    to: Some(preparing.to.clone()),
                };
                effects.push(Effect::Stop(name.clone()));
            }
        }
        effects
    }
}
