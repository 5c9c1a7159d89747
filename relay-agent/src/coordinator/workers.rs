//! Locks and workers: asked for, started, ended, given back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use metrics::gauge;
use tide_catalog::{CatalogError, offsets::Claim};
use tide_model::{AgentName, Incarnation, UnitName};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Answer, Coordinator, Running};
use crate::{
    gauge::Gauge,
    locks::{Command, Release},
    metrics as names, orders,
    ownership::{Event, WorkerEnd},
    worker::{self, Grant},
};

impl Coordinator {
    pub(super) fn acquired(
        &mut self,
        incarnation: Incarnation,
        asked: Vec<UnitName>,
        claims: Option<Result<Vec<Claim>, CatalogError>>,
    ) {
        if self
            .session
            .as_ref()
            .is_none_or(|session| session.incarnation != incarnation)
        {
            return;
        }
        let claims = match claims {
            Some(Ok(claims)) => claims,
            Some(Err(error)) => {
                error!(
                    error = &error as &dyn std::error::Error,
                    hint = error.hint(),
                    "could not claim pipelines; trying again"
                );
                self.look_in(Duration::from_secs(1));
                Vec::new()
            }
            None => return, // the session ended before it answered; its end is on its way
        };
        let claimed: BTreeMap<_, _> = claims
            .iter()
            .map(|claim| (claim.pipeline.clone(), claim.epoch))
            .collect();
        let refused = asked
            .into_iter()
            .filter(|name| !claimed.contains_key(name))
            .collect();
        for claim in claims {
            self.claims.insert(claim.pipeline.clone(), claim);
        }
        self.step(Event::Acquired { claimed, refused });
        self.beat();
    }

    pub(super) fn acquire(&mut self, pipelines: Vec<UnitName>) {
        let Some(session) = &self.session else { return };
        let (incarnation, commands, answer) = (
            session.incarnation,
            session.commands.clone(),
            self.answer.clone(),
        );
        self.tasks.spawn(async move {
            let (reply, claims) = oneshot::channel();
            let claims = match commands
                .send(Command::Acquire(pipelines.clone(), reply))
                .await
            {
                Ok(()) => claims.await.ok(),
                Err(_) => None,
            };
            drop(
                answer
                    .send(Answer::Acquired(incarnation, pipelines, claims))
                    .await,
            );
        });
    }

    pub(super) fn release(&mut self, pipelines: Vec<(UnitName, Option<AgentName>)>) {
        let releases: Vec<Release> = pipelines
            .into_iter()
            .map(|(pipeline, to)| self.departing(pipeline, to))
            .collect();
        let Some(session) = &self.session else { return };
        let (incarnation, commands, answer) = (
            session.incarnation,
            session.commands.clone(),
            self.answer.clone(),
        );
        self.tasks.spawn(async move {
            let names = releases
                .iter()
                .map(|release| release.pipeline.clone())
                .collect();
            let (reply, done) = oneshot::channel();
            if commands
                .send(Command::Release(releases, reply))
                .await
                .is_ok()
                && done.await.is_ok()
            {
                drop(answer.send(Answer::Released(incarnation, names)).await);
            }
        });
    }

    pub(super) fn start_worker(&mut self, pipeline: UnitName) {
        let (Some(session), Some(claim), Some(runnable)) = (
            &self.session,
            self.claims.remove(&pipeline),
            self.specs.get(&pipeline).cloned(),
        ) else {
            return; // the machine starts only what was just claimed and is known
        };
        info!(
            pipeline.id = %pipeline, epoch = %claim.epoch, last_change_id = claim.cursor.high,
            "acquired lock — spawning worker"
        );
        names::transition("acquired");
        self.quiet.remove(&pipeline);
        let gauge = Arc::new(Gauge::new(
            claim.epoch,
            runnable.outbox.clone(),
            claim.cursor.high,
        ));
        self.parts.gauges.insert(pipeline.clone(), gauge.clone());
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let known = self.orders.get(&pipeline).cloned().unwrap_or_default();
        let (line, inbound) = orders::line(known, claim.epoch);
        self.running.insert(
            pipeline.clone(),
            Running {
                stop: stop.clone(),
                abort: abort.clone(),
                gauge: gauge.clone(),
                orders: line,
            },
        );
        let incarnation = session.incarnation;
        let grant = Grant {
            claim,
            trust: session.trust.clone(),
            orders: inbound,
        };
        let (services, answer) = (self.parts.services.clone(), self.answer.clone());
        self.tasks.spawn(async move {
            // In a task of its own, so that a panic is an answer like any other.
            let mut worker = JoinSet::new();
            worker.spawn(worker::run(grant, runnable, gauge, services, stop));
            let ended = tokio::select! {
                ended = worker.join_next() => ended,
                () = abort.cancelled() => {
                    worker.abort_all();
                    worker.join_next().await
                }
            };
            let end = match ended {
                Some(Ok(end)) => end,
                // Given up on request; what it has not stored comes again.
                Some(Err(error)) if error.is_cancelled() => WorkerEnd::Stopped,
                Some(Err(panic)) => {
                    error!(pipeline.id = %pipeline, error = &panic as &dyn std::error::Error, "worker panicked");
                    // A worker that panics at once must not spin.
                    sleep(Duration::from_secs(1)).await;
                    WorkerEnd::Failed
                }
                None => WorkerEnd::Failed,
            };
            drop(answer.send(Answer::WorkerEnded(pipeline, incarnation, end)).await);
        });
    }

    pub(super) fn worker_ended(
        &mut self,
        pipeline: UnitName,
        incarnation: Incarnation,
        end: WorkerEnd,
    ) {
        // A worker of a lost session says nothing about the pipeline that runs now.
        if !self.is_current(incarnation) {
            return;
        }
        if let Some(running) = self.running.remove(&pipeline) {
            let since = running.gauge.quiet_since().unwrap_or_else(Instant::now);
            self.quiet.insert(pipeline.clone(), since);
        }
        self.parts.gauges.remove(&pipeline);
        gauge!(names::PIPELINE_HEALTHY, "pipeline" => pipeline.to_string()).set(0.0);
        match end {
            WorkerEnd::Fenced => {
                names::transition("fenced");
                self.fenced.insert(pipeline.clone());
            }
            WorkerEnd::Failed => names::transition("failed"),
            WorkerEnd::Stopped | WorkerEnd::Revoked => {}
        }
        self.step(Event::WorkerEnded(pipeline, end));
    }

    pub(super) fn released(&mut self, incarnation: Incarnation, pipelines: Vec<UnitName>) {
        if !self.is_current(incarnation) {
            return;
        }
        for pipeline in &pipelines {
            names::transition("released");
            info!(pipeline.id = %pipeline, "released");
        }
        // Perhaps no other owner fenced us, but an operator who took the position back: then nobody
        // else hears that it is free.
        let fenced = pipelines.iter().filter(|name| self.fenced.remove(*name));
        if fenced.count() > 0 || self.paced {
            self.look_in(Duration::ZERO);
        }
        self.step(Event::Released(pipelines));
        self.beat();
    }
}
