//! What everybody asked and what became of it, in `tide.events`.
//!
//! Commands that got through to a service are recorded before they are answered, with who asked as
//! the token or certificate proves it. Those that the gate sent away are recorded by a task of their
//! own, at a bounded rate, and the same one again only after a while: neither who guesses tokens all
//! day nor an agent that comes back every half minute must fill the table.
//!
//! When this fails: the change that a command made was recorded with the change itself, in one
//! transaction; what is lost is the line that says how the request ended, and the log says so.

use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use metrics::counter;
use serde_json::{Value, json};
use tide_catalog::{
    CatalogError,
    events::{Event, event_record},
};
use tide_model::OperationId;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status};
use tracing::{error, warn};

use crate::{
    access::{Asking, Denied, Proof},
    database::{Database, answer},
    metrics::{AUDIT_LOST_TOTAL, DENIED_TOTAL},
};

/// What waits to be written; what does not fit is counted.
const QUEUE: usize = 256;
/// Longer texts are cut: a request may be as long as it likes.
const LONGEST: usize = 2_000;
/// One refusal at most this often, once the first few are written.
const PACE: Duration = Duration::from_millis(100);
/// The same refusal again only after this long.
const AGAIN: Duration = Duration::from_mins(10);
/// So many different ones are remembered.
const MOST_REMEMBERED: usize = 1_000;

/// Records. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Audit {
    database: Database,
    refusals: mpsc::Sender<Refusal>,
}

/// Writes refusals, to be run by the caller.
pub(crate) struct AuditTask {
    database: Database,
    refusals: mpsc::Receiver<Refusal>,
}

/// A request that the gate sent away.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Refusal {
    method: &'static str,
    actor: String,
    authenticated_by: &'static str,
    denied: &'static str,
    message: String,
    address: Option<IpAddr>,
}

/// A command that got through.
#[derive(Debug)]
pub(crate) struct Command {
    /// `Drain`, as in the protocol.
    pub(crate) method: &'static str,
    /// What it is about.
    pub(crate) subject: String,
    pub(crate) reason: String,
    /// Who they say they are.
    pub(crate) claimed: String,
    pub(crate) asking: Asking,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) code: Code,
    pub(crate) message: &'a str,
    /// The operation that it began or ended.
    pub(crate) operation: Option<OperationId>,
}

/// Makes the handle and the task.
pub(crate) fn audit(database: Database) -> (Audit, AuditTask) {
    let (sender, refusals) = mpsc::channel(QUEUE);
    let handle = Audit {
        database: database.clone(),
        refusals: sender,
    };
    (handle, AuditTask { database, refusals })
}

impl Audit {
    /// Has it written that somebody spoke as an agent that they are not.
    pub(crate) fn refused_agent(&self, denied: &Denied, asking: &Asking) {
        counter!(DENIED_TOTAL, "reason" => denied.reason()).increment(1);
        self.refused(Refusal::of("Report", denied, asking.address));
    }

    /// Does what a command asks, and records how that ended before it is answered.
    pub(crate) async fn recorded<T>(
        &self,
        command: &Command,
        done: impl Future<Output = Result<(T, Option<OperationId>), Status>>,
    ) -> Result<Response<T>, Status> {
        let (outcome, result) = match done.await {
            Ok((response, operation)) => (
                (Code::Ok, String::new(), operation),
                Ok(Response::new(response)),
            ),
            Err(status) => {
                let message = status.message().to_owned();
                ((status.code(), message, None), Err(status))
            }
        };
        let (code, message, operation) = outcome;
        let outcome = Outcome {
            code,
            message: &message,
            operation,
        };
        self.ended(command, outcome).await;
        result
    }

    /// Records a command and how it ended.
    pub(crate) async fn ended(&self, command: &Command, outcome: Outcome<'_>) {
        let event = command.event(&outcome);
        if let Err(error) = write(&self.database, &event).await {
            counter!(AUDIT_LOST_TOTAL).increment(1);
            let error: &dyn Error = &error;
            error!(
                error, method = command.method, subject = command.subject, actor = event.actor,
                code = ?outcome.code, "how a command ended could not be recorded"
            );
        }
    }

    /// Has a refusal written soon.
    pub(crate) fn refused(&self, refusal: Refusal) {
        if self.refusals.try_send(refusal).is_err() {
            counter!(AUDIT_LOST_TOTAL).increment(1);
        }
    }
}

impl Refusal {
    /// What the gate said about a request.
    pub(crate) fn of(method: &'static str, denied: &Denied, address: Option<SocketAddr>) -> Self {
        // Only what was proven is a name; who said nothing, or something wrong, has none.
        let (actor, proof) = match denied {
            Denied::Role { name, proof, .. } | Denied::OtherGroup { name, proof, .. } => {
                (name.as_str(), Some(*proof))
            }
            Denied::OtherAgent { proven, proof, .. } => (proven.as_str(), Some(*proof)),
            Denied::ExpiredToken { name, .. } => (name.as_str(), Some(Proof::Token)),
            Denied::TooOften { name, .. } => (name.as_str(), None),
            Denied::Nobody | Denied::Malformed | Denied::UnknownToken | Denied::Certificate(_) => {
                ("unknown", None)
            }
        };
        Self {
            method,
            actor: actor.to_owned(),
            authenticated_by: proof.map_or("", Proof::as_str),
            denied: denied.reason(),
            message: denied.to_string(),
            address: address.map(|address| address.ip()),
        }
    }

    fn event(&self) -> Event<'_> {
        Event {
            kind: "command.denied",
            subject: self.method,
            actor: &self.actor,
            reason: "",
            outcome: self.denied,
            authenticated_by: self.authenticated_by,
            detail: json!({"message": self.message, "address": address(self.address)}),
        }
    }
}

impl Command {
    fn event<'a>(&'a self, outcome: &Outcome<'a>) -> Event<'a> {
        let proven = self.asking.caller.proven();
        let claimed = start(&self.claimed);
        let mut detail = json!({
            "code": format!("{:?}", outcome.code),
            "address": address(self.asking.address.map(|address| address.ip())),
        });
        if let Some(operation) = outcome.operation {
            detail["operation"] = operation.to_string().into();
        }
        // A client may say on whose behalf it asks; that is told apart from who it was proven to be.
        if proven.is_some_and(|who| !claimed.is_empty() && claimed != who.name) {
            detail["claimed_actor"] = claimed.into();
        }
        let succeeded = outcome.code == Code::Ok;
        Event {
            kind: kind(self.method),
            subject: start(&self.subject),
            actor: proven.map_or(claimed, |who| &who.name),
            reason: start(&self.reason),
            outcome: if succeeded { "ok" } else { outcome.message },
            authenticated_by: proven.map_or("", |who| who.proof.as_str()),
            detail,
        }
    }
}

impl AuditTask {
    /// Runs until the token is cancelled; what waits then is lost, and was no change.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut tried = Instant::now();
        let mut written_at: HashMap<Refusal, Instant> = HashMap::new();
        loop {
            let next = async {
                sleep_until(tried).await;
                self.refusals.recv().await
            };
            let Some(Some(refusal)) = stop.run_until_cancelled(next).await else {
                return Ok(());
            };
            let now = Instant::now();
            if written_at.get(&refusal).is_some_and(|at| *at + AGAIN > now) {
                continue;
            }
            tried = now + PACE;
            let event = refusal.event();
            let written = write(&self.database, &event);
            if let Some(Err(error)) = stop.run_until_cancelled(written).await {
                counter!(AUDIT_LOST_TOTAL).increment(1);
                let error: &dyn Error = &error;
                warn!(
                    error,
                    method = refusal.method,
                    "a refused request could not be recorded"
                );
                continue;
            }
            if written_at.len() >= MOST_REMEMBERED {
                written_at.clear();
            }
            written_at.insert(refusal, now);
        }
    }
}

async fn write(database: &Database, event: &Event<'_>) -> Result<(), CatalogError> {
    let mut session = database.session().await?;
    let group = database.group();
    answer(event_record(session.connection(), group, event)).await?;
    session.done();
    Ok(())
}

fn address(address: Option<IpAddr>) -> Value {
    address.map_or(Value::Null, |address| address.to_string().into())
}

/// How a method is called among the kinds of events.
fn kind(method: &str) -> &'static str {
    match method {
        "Drain" => "command.drain",
        "Undrain" => "command.undrain",
        "SetHold" => "command.hold",
        "LiftHold" | "RemoveHold" => "command.unhold",
        "Move" => "command.move",
        "ApplyRebalance" => "command.rebalance",
        "PauseRebalance" => "command.rebalance_pause",
        "ResumeRebalance" => "command.rebalance_resume",
        "CancelOperation" => "command.cancel",
        _ => "command.other",
    }
}

/// What is refused for being too long, or for its NULs, is recorded all the same, but not whole.
fn start(text: &str) -> &str {
    let text = text.split('\0').next().unwrap_or_default();
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::methods::{METHODS, Needs};

    #[test]
    fn every_command_has_a_kind_of_its_own() {
        for method in METHODS {
            let command = matches!(method.needs, Needs::Command(_));
            assert_eq!(kind(method.name) != "command.other", command, "{method:?}");
        }
    }

    #[test]
    fn what_cannot_be_stored_is_cut() {
        assert_eq!(start("relay\0-1"), "relay");
        let long = "ä".repeat(LONGEST);
        assert_eq!(start(&long).len(), LONGEST);
    }
}
