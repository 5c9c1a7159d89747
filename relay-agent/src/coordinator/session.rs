//! The lock session: opened, lost, opened again, closed.

use std::time::Duration;

use metrics::{counter, gauge};
use tide_catalog::{
    agents::{agent_remove, agent_stopped},
    intent::Actor,
    lock_session::Home,
};
use tide_daemon::backoff::Backoff;
use tide_model::Incarnation;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{Answer, BEAT, Coordinator, Leaving, Session};
use crate::{
    locks::{self, Command, Established, OpenError, SessionEnd},
    metrics as names,
    ownership::Event,
};

impl Coordinator {
    pub(super) fn session_up(&mut self, (established, task): (Established, Box<locks::Task>)) {
        let Established {
            incarnation,
            trust,
            home,
            commands,
        } = established;
        info!(%incarnation, server = %home, "lock session established");
        self.arrived_at(home);
        self.complaint = None;
        gauge!(names::LOCK_SESSION_UP).set(1.0);
        self.failures.reset();
        self.parts.board.session(Some(trust.clone()));
        self.session = Some(Session {
            incarnation,
            trust,
            commands,
        });
        self.parts.reports.send_replace(Some(incarnation));
        let answer = self.answer.clone();
        self.tasks.spawn(async move {
            let end = task.run().await;
            // The coordinator is gone: nobody to tell.
            drop(answer.send(Answer::SessionEnded(incarnation, end)).await);
        });
        self.step(Event::SessionUp);
        self.look_in(Duration::ZERO);
    }

    /// Asks whether the session stands. An idle session does not notice its end before the next
    /// ping, and others may own what was ours at once.
    pub(super) fn prove_session(&self) {
        if let Some(session) = &self.session {
            // Whatever fills the queue asks the server as well.
            drop(session.commands.try_send(Command::Prove));
        }
    }

    pub(super) fn session_ended(&mut self, incarnation: Incarnation, end: &SessionEnd) {
        if self
            .session
            .as_ref()
            .is_none_or(|session| session.incarnation != incarnation)
        {
            return;
        }
        self.session = None;
        self.parts.board.session(None);
        self.parts.reports.send_replace(None);
        gauge!(names::LOCK_SESSION_UP).set(0.0);
        let SessionEnd::Lost(error) = end else { return };
        warn!(
            error = error as &dyn std::error::Error,
            hint = error.hint(),
            owned = self.ownership.owned(),
            "lock session lost: everything stopped; opening a new one"
        );
        counter!(names::SESSION_LOSSES).increment(1);
        for (pipeline, running) in std::mem::take(&mut self.running) {
            running.stop.cancel();
            self.parts.gauges.remove(&pipeline);
            names::transition("session_lost");
            gauge!(names::PIPELINE_HEALTHY, "pipeline" => pipeline.to_string()).set(0.0);
        }
        self.claims.clear();
        self.quiet.clear();
        self.fenced.clear();
        self.step(Event::SessionLost);
        // An agent that is leaving has nothing left to hold.
        if self.leaving == Leaving::No {
            self.open_session(Duration::ZERO);
        }
    }

    /// Sessions of the pool may still lead to the server that was left. What they could do there is
    /// fenced, for the epochs are the new server's; they are closed so that it ends.
    fn arrived_at(&mut self, home: Home) {
        let left = self.home.replace(home).filter(|left| *left != home);
        let Some(left) = left else { return };
        warn!(
            from = %left, to = %home,
            "PostgreSQL failed over or was replaced: every position is read again from this server"
        );
        let pool = self.parts.services.pool.clone();
        self.tasks.spawn(async move {
            for _ in 0..pool.size() {
                if let Ok(Ok(connection)) = timeout(BEAT, pool.acquire()).await {
                    // A failing goodbye ends it as well.
                    drop(timeout(BEAT, connection.close()).await);
                }
            }
        });
    }

    /// Why there is no lock session, once per reason.
    pub(super) fn no_session(&mut self, error: &OpenError) {
        let said = error.to_string();
        if self.complaint.as_deref() == Some(&said) {
            return;
        }
        let hint = match error {
            OpenError::Catalog(error) => error.hint(),
            OpenError::NameTaken(_) => None,
        };
        warn!(
            error = error as &dyn std::error::Error,
            hint, "could not open a lock session; trying again"
        );
        self.complaint = Some(said);
    }

    pub(super) fn open_session(&mut self, delay: Duration) {
        let (server, identity, lease) = (
            self.parts.config.server.clone(),
            self.parts.identity.clone(),
            self.parts.config.lease,
        );
        let (answer, soft) = (self.answer.clone(), self.parts.soft.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = soft.cancelled() => return,
                () = sleep(delay) => {}
            }
            let session = locks::open(&server, &identity, lease).await;
            drop(answer.send(Answer::Session(session)).await);
        });
    }

    /// Everything is given away: end the session, then say so.
    pub(super) async fn finish(mut self) {
        let incarnation = self.session.as_ref().map(|session| session.incarnation);
        if let Some(session) = self.session.take() {
            let (reply, closed) = oneshot::channel();
            if session.commands.send(Command::Close(reply)).await.is_ok() {
                drop(closed.await);
            }
        }
        if let Some(incarnation) = incarnation
            && timeout(BEAT, self.record_end(incarnation))
                .await
                .ok()
                .flatten()
                .is_none()
        {
            debug!("could not record the stop");
        }
        gauge!(names::OWNED_PIPELINES).set(0.0);
        self.parts.board.owned(0);
        info!("everything handed over");
    }

    /// Says that it has stopped, or that it is to be forgotten.
    async fn record_end(&self, incarnation: Incarnation) -> Option<()> {
        let config = &self.parts.config;
        let (group, name) = (&config.group, &config.name);
        let mut connection = self.parts.services.pool.acquire().await.ok()?;
        let stopped = agent_stopped(&mut connection, group, name, incarnation).await;
        if !self.retiring {
            return stopped.ok();
        }
        let actor = Actor {
            name: name.to_string(),
            reason: "drained for good".to_owned(),
        };
        // The server ends the session, and with it our hold on the name, a moment after we do.
        let mut patience = Backoff::new(Duration::from_millis(5), Duration::from_millis(200));
        while agent_remove(&mut connection, group, name, &actor)
            .await
            .is_err()
        {
            sleep(patience.next()).await;
        }
        Some(())
    }
}
