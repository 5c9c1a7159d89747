//! Streams what this agent does to the control plane, if there is one.
//!
//! Nothing here is needed for correctness, and nothing here can slow a worker: it samples gauges.
//! It keeps what it last sent and sends differences; while the control plane is away it keeps
//! nothing. It says once that no control plane can be reached, and once that one can again.
//! Of several control planes one is active; the others name it, and so does the database.

use std::{collections::BTreeMap, future::Future, time::Duration};

use metrics::gauge;
use tide_daemon::backoff::Backoff;
use tide_model::{
    Incarnation, UnitName,
    report::{AgentIdentity, PipelineReport, ReportMessage},
};
use tide_proto::{
    agent::v1::{
        ReportRequest, agent_service_client::AgentServiceClient, report_request::Message,
        report_response::Message as Answer,
    },
    convert::to_duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, info, warn};

use crate::{
    control_planes::ControlPlanes, gauge::Gauges, locks::Identity, metrics as names,
    wakeup::WakeupHandle,
};

/// Response metadata in which a standby names the active control plane.
const LEADER: &str = "tide-leader";

/// The connection must stand within this.
const CONNECT: Duration = Duration::from_secs(5);
/// How often to look for changes of ownership and state; they are sent at once.
const SAMPLE: Duration = Duration::from_millis(100);
/// The control plane says how often to send; these hold until it does.
const HEARTBEAT: Duration = Duration::from_secs(5);
const LAG: Duration = Duration::from_secs(1);

/// What the reporter needs.
pub(crate) struct Reporter {
    pub(crate) planes: ControlPlanes,
    pub(crate) identity: Identity,
    pub(crate) incarnation: watch::Receiver<Option<Incarnation>>,
    pub(crate) gauges: Gauges,
    pub(crate) wakeups: WakeupHandle,
    pub(crate) nudges: mpsc::Sender<()>,
    pub(crate) stop: CancellationToken,
}

/// How one stream ended.
enum Ended {
    /// The agent stops.
    Stopped,
    /// Our lock session, and so our incarnation, is another one.
    Renewed,
    /// The control plane asked for it.
    Farewell(Option<Duration>),
}

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("could not connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Status(#[from] tonic::Status),
    #[error("no answer within {CONNECT:?}")]
    Timeout,
    #[error("the control plane ended the stream")]
    Closed,
    #[error("{0}")]
    Credentials(String),
    #[error("nobody is known to be the active control plane")]
    NobodyKnown,
}

impl StreamError {
    /// The control plane that a standby named instead of itself.
    fn leader(&self) -> Option<&str> {
        match self {
            Self::Status(status) => status.metadata().get(LEADER)?.to_str().ok(),
            Self::Connect(_)
            | Self::Timeout
            | Self::Closed
            | Self::Credentials(_)
            | Self::NobodyKnown => None,
        }
    }
}

impl Reporter {
    /// Reports until stopped.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut unreachable = false;
        while !self.stop.is_cancelled() {
            let Some(incarnation) = *self.incarnation.borrow_and_update() else {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    changed = self.incarnation.changed() => if changed.is_err() { return },
                }
                continue;
            };
            let ended = self
                .round(incarnation, &mut unreachable, &mut backoff)
                .await;
            gauge!(names::CONTROL_PLANE_CONNECTED).set(0.0);
            let delay = match ended {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Renewed) => Duration::ZERO,
                Ok(Ended::Farewell(after)) => {
                    after.unwrap_or(Duration::from_secs(30)) + backoff.next()
                }
                Err(error) => {
                    if !unreachable {
                        warn!(
                            control_plane = self.planes.label(),
                            error = &error as &dyn std::error::Error,
                            "control plane is not reachable; pipelines run without it"
                        );
                    }
                    unreachable = true;
                    backoff.next()
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(delay) => {}
            }
        }
    }

    /// Tries every control plane that it hears of until one takes the reports; returns when that
    /// is over.
    async fn round(
        &mut self,
        incarnation: Incarnation,
        unreachable: &mut bool,
        backoff: &mut Backoff,
    ) -> Result<Ended, StreamError> {
        let mut round = self.planes.round();
        let mut last = StreamError::NobodyKnown;
        while let Some(endpoint) = self.planes.next(&mut round).await {
            if self.stop.is_cancelled() {
                return Ok(Ended::Stopped);
            }
            let streamed = self
                .stream(&endpoint, incarnation, unreachable, backoff)
                .await;
            last = match streamed {
                Ok(ended) => return Ok(ended),
                Err(error) => error,
            };
            gauge!(names::CONTROL_PLANE_CONNECTED).set(0.0);
            debug!(control_plane = %endpoint.uri(), error = &last as &dyn std::error::Error, "no reports taken");
            if let Some(leader) = last.leader() {
                round.follow(leader);
            }
        }
        Err(last)
    }

    async fn stream(
        &mut self,
        endpoint: &Endpoint,
        incarnation: Incarnation,
        unreachable: &mut bool,
        backoff: &mut Backoff,
    ) -> Result<Ended, StreamError> {
        let channel: Channel = within(endpoint.connect()).await??;
        let mut client = AgentServiceClient::new(channel);
        let (requests, outbox) = mpsc::channel(16);
        let mut sender = Sender {
            requests,
            sequence: 0,
        };
        let identity = AgentIdentity {
            group: self.identity.group.clone(),
            name: self.identity.name.clone(),
            incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        sender.send(Message::Hello((&identity).into())).await?;
        let request = self.planes.authorize(ReceiverStream::new(outbox));
        let request = request.map_err(StreamError::Credentials)?;
        let mut answers = within(client.report(request)).await??.into_inner();

        let (mut heartbeat, mut lag) = (HEARTBEAT, LAG);
        let mut sent: Option<BTreeMap<UnitName, PipelineReport>> = None;
        let (mut sent_at, mut lag_at) = (Instant::now(), Instant::now());
        let mut samples = interval(SAMPLE);
        samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    sender.send((&ReportMessage::Goodbye).into()).await?;
                    return Ok(Ended::Stopped);
                }
                changed = self.incarnation.changed() => {
                    drop(changed);
                    return Ok(Ended::Renewed);
                }
                answer = answers.message() => match answer?.ok_or(StreamError::Closed)?.message {
                    Some(Answer::Welcome(welcome)) => {
                        let of = |wish: Option<_>, default| {
                            wish.and_then(|wish| to_duration("welcome", wish).ok()).unwrap_or(default)
                        };
                        heartbeat = of(welcome.heartbeat_interval, HEARTBEAT);
                        lag = of(welcome.lag_interval, LAG);
                        if *unreachable {
                            info!("reporting to the control plane again");
                        }
                        *unreachable = false;
                        self.planes.prefer(endpoint);
                        backoff.reset();
                        gauge!(names::CONTROL_PLANE_CONNECTED).set(1.0);
                        sent = None;
                    }
                    Some(Answer::SnapshotRequest(_)) => sent = None,
                    // Losing a nudge costs time only, so a full queue is no reason to wait.
                    Some(Answer::Nudge(_)) => drop(self.nudges.try_send(())),
                    Some(Answer::Farewell(farewell)) => {
                        debug!(reason = farewell.reason, "control plane said farewell");
                        let after = farewell.reconnect_after.and_then(|after| to_duration("farewell", after).ok());
                        return Ok(Ended::Farewell(after));
                    }
                    None => {}
                },
                _ = samples.tick() => {
                    let now = self.gauges.reports(&self.wakeups);
                    let with_lag = lag_at.elapsed() >= lag;
                    let message = match &sent {
                        None => Some(ReportMessage::Snapshot(now.clone())),
                        Some(before) => difference(before, &now, with_lag),
                    };
                    if let Some(message) = message {
                        sender.send((&message).into()).await?;
                        if with_lag || sent.is_none() {
                            lag_at = Instant::now();
                        }
                        sent = Some(now);
                        sent_at = Instant::now();
                    } else if sent_at.elapsed() >= heartbeat {
                        sender.send((&ReportMessage::Heartbeat).into()).await?;
                        sent_at = Instant::now();
                    }
                }
            }
        }
    }
}

/// Numbers what is sent.
struct Sender {
    requests: mpsc::Sender<ReportRequest>,
    sequence: u64,
}

impl Sender {
    async fn send(&mut self, message: Message) -> Result<(), StreamError> {
        self.sequence += 1;
        let request = ReportRequest {
            sequence: self.sequence,
            message: Some(message),
        };
        within(self.requests.send(request))
            .await?
            .map_err(|_| StreamError::Closed)
    }
}

async fn within<T>(future: impl Future<Output = T>) -> Result<T, StreamError> {
    timeout(CONNECT, future)
        .await
        .map_err(|_| StreamError::Timeout)
}

/// What changed: ownership and state always, mere progress only when its time has come.
fn difference(
    before: &BTreeMap<UnitName, PipelineReport>,
    now: &BTreeMap<UnitName, PipelineReport>,
    with_lag: bool,
) -> Option<ReportMessage> {
    let changed: BTreeMap<_, _> = now
        .iter()
        .filter(|(name, report)| match before.get(*name) {
            None => true,
            Some(old) => {
                (old.epoch, old.state, &old.reason) != (report.epoch, report.state, &report.reason)
                    || (with_lag && old != *report)
            }
        })
        .map(|(name, report)| (name.clone(), report.clone()))
        .collect();
    let removed: Vec<_> = before
        .keys()
        .filter(|name| !now.contains_key(*name))
        .cloned()
        .collect();
    (!changed.is_empty() || !removed.is_empty())
        .then_some(ReportMessage::Delta { changed, removed })
}
