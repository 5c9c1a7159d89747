//! Before pipelines change hands: asking a successor to make ready, and making ready.

use std::collections::BTreeMap;

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

    /// An owner is about to hand these to us. Those that we do not know yet need a look.
    pub(super) fn make_ready(&mut self, handshake: Handshake) {
        let known: BTreeMap<_, _> = handshake
            .pipelines
            .iter()
            .filter_map(|name| {
                let runnable = self.specs.get(name)?;
                let spec = runnable.spec.as_ref().ok()?;
                let known = Known {
                    source: runnable.source(name),
                    sink: spec.sink.clone(),
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
