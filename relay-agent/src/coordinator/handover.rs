//! Before pipelines change hands: asking a successor to make ready, and making ready.

use std::{collections::BTreeMap, time::Duration};

use tide_catalog::listener::Handshake;
use tide_model::{AgentName, HandoverKind, UnitName};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::{Answer, Coordinator, Leaving};
use crate::{
    locks::Release,
    ownership::PREPARATION,
    preparation::{self, Known, Request},
};

impl Coordinator {
    /// Asks successors to make ready, and reminds us when they have had their time.
    pub(super) fn ask(&mut self, successors: BTreeMap<AgentName, Vec<UnitName>>) {
        let (pool, answer) = (self.parts.services.pool.clone(), self.answer.clone());
        let handshakes: Vec<Handshake> = successors
            .into_iter()
            .map(|(to, pipelines)| Handshake {
                group: self.parts.config.group.clone(),
                from: self.parts.config.name.clone(),
                to,
                pipelines,
            })
            .collect();
        self.tasks.spawn(async move {
            // The time runs from the decision, whether or not the successor can be told.
            let asking = async {
                for handshake in &handshakes {
                    if let Err(error) = preparation::ask(&pool, handshake).await {
                        debug!(
                            error = &error as &dyn std::error::Error,
                            "could not ask a successor to make ready"
                        );
                    }
                }
            };
            tokio::join!(sleep(PREPARATION), asking);
            drop(answer.send(Answer::Overdue).await);
        });
    }

    /// What is to be said when a pipeline goes.
    pub(super) fn departing(&mut self, pipeline: UnitName, to: Option<AgentName>) -> Release {
        let kind = if self.leaving == Leaving::No {
            self.departures.get(&pipeline).copied()
        } else {
            Some(HandoverKind::Shutdown)
        };
        Release {
            kind: kind.filter(|_| to.is_some()),
            quiet_since: self.quiet.remove(&pipeline).unwrap_or_else(Instant::now),
            pipeline,
            to,
        }
    }

    /// An owner is about to hand these to us. What we have not seen yet, as one that has only joined
    /// has seen nothing, is looked at first: an owner waits, and messages flow meanwhile.
    pub(super) fn asked_to_make_ready(&mut self, handshake: Handshake) {
        let mut names = handshake.pipelines.iter();
        if names.all(|name| self.specs.contains_key(name)) {
            self.make_ready(handshake);
        } else {
            self.unseen.push(handshake);
            self.look_in(Duration::ZERO);
        }
    }

    /// We have looked. What is still unknown is gone, or will be opened when it comes.
    pub(super) fn make_seen_ready(&mut self) {
        for handshake in std::mem::take(&mut self.unseen) {
            self.make_ready(handshake);
        }
    }

    fn make_ready(&mut self, handshake: Handshake) {
        let known: BTreeMap<_, _> = handshake
            .pipelines
            .iter()
            .filter_map(|name| {
                let runnable = self.specs.get(name)?;
                let spec = runnable.spec.as_ref().ok()?;
                let known = Known {
                    source: runnable.source(name),
                    prospect: runnable.prospect(spec),
                };
                Some((name.clone(), known))
            })
            .collect();
        self.prepare(Request::Offered(handshake, known));
    }

    /// A preparer that has fallen behind costs time in a hand-over, nothing else.
    pub(super) fn prepare(&self, request: Request) {
        if self.parts.preparations.try_send(request).is_err() {
            debug!("the preparer is busy");
        }
    }
}
