//! `AgentService`: one conversation an agent.

use std::time::Duration;

use futures_util::stream;
use tide_model::{
    GroupName,
    report::{OwnershipDigest, ReportMessage},
};
use tide_proto::{
    agent::v1::{
        Admission, Farewell, Hello, Nudge, ReportRequest, ReportResponse, SnapshotRequest,
        Welcome as WireWelcome, agent_service_server::AgentService, report_request::Message,
        report_response::Message as Answer,
    },
    convert,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    request::asking,
    status::{self, invalid, invalid_field},
    stream::Answers,
};
use crate::{
    audit::Audit,
    fleet::{AgentLink, Down, FleetHandle, Stopping, Welcome},
    leadership::Leadership,
    metrics::{ReportKind, count_report},
};

/// A third of the time after which an agent counts as stale.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// The next control plane has had time to start, or a load balancer to choose another.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// So many agents come back in a second.
const RETURNS_A_SECOND: f64 = 500.0;
/// Agents of a small fleet spread their return over this.
const LEAST_JITTER: Duration = Duration::from_millis(500);

/// Adapter over the fleet's hub.
pub(super) struct AgentApi {
    fleet: FleetHandle,
    group: GroupName,
    leadership: Leadership,
    audit: Audit,
    stop: CancellationToken,
}

impl AgentApi {
    pub(super) fn new(
        fleet: FleetHandle,
        group: GroupName,
        leadership: Leadership,
        audit: Audit,
        stop: CancellationToken,
    ) -> Self {
        Self {
            fleet,
            group,
            leadership,
            audit,
            stop,
        }
    }
}

#[tonic::async_trait]
impl AgentService for AgentApi {
    type ReportStream = Answers<ReportResponse>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let asking = asking(&request);
        let mut inbound = request.into_inner();
        let hello = first_hello(inbound.message().await?)?;
        count_report(ReportKind::Hello);
        let identity = convert::identity(&hello).map_err(|e| invalid_field(&e))?;
        if let Err(denied) = asking.caller.permit_agent(identity.name.as_str()) {
            self.audit.refused_agent(&denied, &asking);
            return Err(status::denied(&denied));
        }
        if identity.group != self.group {
            return Err(status::other_group(
                identity.group.as_str(),
                self.group.as_str(),
            ));
        }
        let told = hello.ownership_digest.map(OwnershipDigest);
        let connected = self.fleet.connect(identity, told).await;
        let mut link = connected.map_err(status::stopping)?;
        let welcome = match link.next().await {
            Some(Down::Welcome(welcome)) => welcome,
            Some(Down::Crowded(after)) => return Err(status::crowded(after)),
            // Replaced before it was heard, or the end.
            Some(Down::SnapshotRequest | Down::Nudge | Down::Displaced) | None => {
                return Err(status::stopping(Stopping));
            }
        };
        let conversation = Conversation {
            inbound,
            link,
            fleet: self.fleet.clone(),
            leadership: self.leadership.clone(),
            stop: self.stop.clone(),
            phase: Phase::Welcoming(welcome),
        };
        let answers = stream::unfold(conversation, |mut conversation| async {
            let answer = conversation.answer().await?;
            Some((answer, conversation))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn first_hello(first: Option<ReportRequest>) -> Result<Hello, Status> {
    match first {
        Some(ReportRequest {
            sequence: 1,
            message: Some(Message::Hello(hello)),
        }) => Ok(hello),
        _ => Err(invalid("message", "is not a hello with sequence 1")),
    }
}

/// One agent's stream in both directions. It is driven by whoever pulls its answers; reports are
/// passed on while it waits for something to say.
struct Conversation {
    inbound: Streaming<ReportRequest>,
    link: AgentLink,
    fleet: FleetHandle,
    leadership: Leadership,
    stop: CancellationToken,
    phase: Phase,
}

enum Phase {
    Welcoming(Welcome),
    Listening,
    Over,
}

/// What happened on either side.
enum Turn {
    Stopping,
    Deposed,
    Down(Option<Down>),
    Up(Result<Option<ReportRequest>, Status>),
}

impl Conversation {
    /// The next thing to say; none when all is said.
    async fn answer(&mut self) -> Option<Result<ReportResponse, Status>> {
        match self.phase {
            Phase::Welcoming(welcome) => {
                self.phase = Phase::Listening;
                let admission = if welcome.resumed {
                    Admission::Resume
                } else {
                    Admission::Wait
                };
                return Some(Ok(response(Answer::Welcome(WireWelcome {
                    heartbeat_interval: Some(convert::from_duration(HEARTBEAT_INTERVAL)),
                    lag_interval: Some(convert::from_duration(welcome.lag_interval)),
                    admission: admission.into(),
                }))));
            }
            Phase::Listening => {}
            Phase::Over => return None,
        }
        loop {
            match self.next().await {
                Turn::Stopping => return Some(Ok(self.leave())),
                Turn::Deposed => {
                    self.phase = Phase::Over;
                    let reason = "another control plane is the active one";
                    return Some(Ok(self.farewell(reason, Some(Duration::ZERO))));
                }
                Turn::Down(Some(Down::SnapshotRequest)) => {
                    return Some(Ok(response(Answer::SnapshotRequest(SnapshotRequest {}))));
                }
                Turn::Down(Some(Down::Nudge)) => {
                    return Some(Ok(response(Answer::Nudge(Nudge {}))));
                }
                Turn::Down(Some(Down::Displaced)) => {
                    self.phase = Phase::Over;
                    let reason = "the database names a newer run of this agent";
                    return Some(Ok(self.farewell(reason, None)));
                }
                // Only ever the first word.
                Turn::Down(Some(Down::Welcome(_) | Down::Crowded(_))) => {}
                Turn::Down(None) | Turn::Up(Ok(None) | Err(_)) => return None,
                Turn::Up(Ok(Some(request))) => match report(request) {
                    Ok((sequence, message)) => {
                        if self.link.report(sequence, message).await.is_err() {
                            return Some(Ok(self.leave()));
                        }
                    }
                    Err(status) => {
                        self.phase = Phase::Over;
                        return Some(Err(status));
                    }
                },
            }
        }
    }

    /// The process ends; the next one wants to hear this agent.
    fn leave(&mut self) -> ReportResponse {
        self.phase = Phase::Over;
        self.farewell("the control plane is stopping", Some(RECONNECT_AFTER))
    }

    fn farewell(&self, reason: &str, reconnect_after: Option<Duration>) -> ReportResponse {
        let agents = self.fleet.view().coverage.agents;
        let jitter = Duration::from_secs_f64(f64::from(agents) / RETURNS_A_SECOND);
        response(Answer::Farewell(Farewell {
            reason: reason.to_owned(),
            reconnect_after: reconnect_after.map(convert::from_duration),
            jitter: Some(convert::from_duration(jitter.max(LEAST_JITTER))),
        }))
    }

    async fn next(&mut self) -> Turn {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Turn::Stopping,
            _ = self.leadership.deposed() => Turn::Deposed,
            down = self.link.next() => Turn::Down(down),
            up = self.inbound.message() => Turn::Up(up),
        }
    }
}

/// A message and its number, counted.
fn report(request: ReportRequest) -> Result<(u64, ReportMessage), Status> {
    let Some(message) = request.message else {
        return Err(invalid("message", "is missing"));
    };
    let message = ReportMessage::try_from(message).map_err(|e| invalid_field(&e))?;
    count_report(match message {
        ReportMessage::Snapshot(_) | ReportMessage::SnapshotEnd { .. } => ReportKind::Snapshot,
        ReportMessage::SnapshotChunk(_) => ReportKind::SnapshotChunk,
        ReportMessage::Delta { .. } => ReportKind::Delta,
        ReportMessage::Lag(_) => ReportKind::Lag,
        ReportMessage::Heartbeat { .. } => ReportKind::Heartbeat,
        ReportMessage::Goodbye => ReportKind::Goodbye,
    });
    Ok((request.sequence, message))
}

fn response(message: Answer) -> ReportResponse {
    ReportResponse {
        message: Some(message),
    }
}
