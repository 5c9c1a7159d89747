//! Streams what this agent does to the control plane, if there is one.
//!
//! Nothing here is needed for correctness, and nothing here can slow a worker: it samples gauges.
//! What waits to be sent is no queue but the difference between what was told and what is ([`Lanes`]),
//! so however long the control plane is away or slow, it is as large as the number of pipelines. It
//! says once that no control plane can be reached, and once that one can again. Of several control
//! planes one is active; the others name it, and so does the database.

use std::{future::Future, time::Duration};

use metrics::gauge;
use tide_daemon::backoff::Backoff;
use tide_model::{
    Incarnation,
    report::{
        AgentIdentity, Dialect, Lanes, OwnershipDigest, Pace, PipelineReports, ReportMessage,
    },
};
use tide_proto::{
    agent::v1::{
        Admission, Farewell, Hello, ReportRequest, Welcome,
        agent_service_client::AgentServiceClient, report_request::Message,
        report_response::Message as Answer,
    },
    convert::to_duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;
use tracing::{debug, info, warn};

use crate::{
    control_planes::ControlPlanes, gauge::Gauges, locks::Identity, metrics as names,
    wakeup::WakeupHandle,
};

/// Response metadata in which a standby names the active control plane.
const LEADER: &str = "tide-leader";

/// The connection must stand within this.
const CONNECT: Duration = Duration::from_secs(5);
/// How often to look at lags. Changes of ownership and state ring a bell.
const SAMPLE: Duration = Duration::from_millis(100);
/// What changes within this is sent together.
const TOGETHER: Duration = Duration::from_millis(10);
/// One that says farewell and not how to spread the return.
const RETURN_JITTER: Duration = Duration::from_secs(1);
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
    /// What was told on the last stream, of which run: a control plane that still knows it need not
    /// be told again.
    pub(crate) told: Option<(Incarnation, PipelineReports)>,
}

/// How one stream ended.
enum Ended {
    /// The agent stops.
    Stopped,
    /// Our lock session, and so our incarnation, is another one.
    Renewed,
    /// The control plane asked for it: come back after this.
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
    /// When a control plane that is too busy wants to hear of us again.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(status) => status.get_details_retry_info()?.retry_delay,
            Self::Connect(_)
            | Self::Timeout
            | Self::Closed
            | Self::Credentials(_)
            | Self::NobodyKnown => None,
        }
    }

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
                    after.unwrap_or_else(|| Duration::from_secs(30) + jittered(&mut backoff))
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
                    match error.retry_after() {
                        Some(after) => after + jittered(&mut backoff),
                        None => jittered(&mut backoff),
                    }
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
        let told = self.told.as_ref().filter(|(run, _)| *run == incarnation);
        let digest = told.map(|(_, told)| OwnershipDigest::of(told).0);
        let hello = Hello {
            ownership_digest: digest,
            ..(&identity).into()
        };
        sender.send(Message::Hello(hello)).await?;
        let request = self.planes.authorize(ReceiverStream::new(outbox));
        let request = request.map_err(StreamError::Credentials)?;
        let mut answers = within(client.report(request)).await??.into_inner();

        let began = Instant::now();
        let mut lanes: Option<Lanes> = None;
        let mut samples = interval(SAMPLE);
        samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            // Whether everything is to be told, by a control plane that has just asked for it.
            let mut asked = false;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    sender.say(&ReportMessage::Goodbye).await?;
                    break Ended::Stopped;
                }
                changed = self.incarnation.changed() => {
                    drop(changed);
                    break Ended::Renewed;
                }
                answer = answers.message() => match answer?.ok_or(StreamError::Closed)?.message {
                    Some(Answer::Welcome(welcome)) => {
                        if *unreachable {
                            info!("reporting to the control plane again");
                        }
                        *unreachable = false;
                        self.planes.prefer(endpoint);
                        backoff.reset();
                        gauge!(names::CONTROL_PLANE_CONNECTED).set(1.0);
                        let admission = welcome.admission();
                        lanes = Some(self.lanes(&welcome, began.elapsed()));
                        // One that knows of no admission does not ask either.
                        asked = admission == Admission::Unspecified;
                    }
                    Some(Answer::SnapshotRequest(_)) => asked = true,
                    // Losing a nudge costs time only, so a full queue is no reason to wait.
                    Some(Answer::Nudge(_)) => drop(self.nudges.try_send(())),
                    Some(Answer::Farewell(farewell)) => {
                        debug!(reason = farewell.reason, "control plane said farewell");
                        break Ended::Farewell(return_after(&farewell));
                    }
                    None => {}
                },
                () = self.gauges.changed() => sleep_until(Instant::now() + TOGETHER).await,
                _ = samples.tick() => {}
            }
            let Some(lanes) = &mut lanes else {
                continue;
            };
            let current = self.gauges.reports(&self.wakeups);
            let messages = if asked {
                lanes.snapshot(&current, began.elapsed())
            } else {
                lanes.due(&current, began.elapsed())
            };
            for message in &messages {
                sender.say(message).await?;
            }
            if !messages.is_empty()
                && let Some(told) = lanes.told()
            {
                self.told = Some((incarnation, told.clone()));
            }
        };
        Ok(ended)
    }

    /// What is told from a welcome on.
    fn lanes(&self, welcome: &Welcome, now: Duration) -> Lanes {
        let of = |wish: Option<_>, default| {
            let wish = wish.and_then(|wish| to_duration("welcome", wish).ok());
            wish.unwrap_or(default)
        };
        let pace = Pace {
            heartbeat: of(welcome.heartbeat_interval, HEARTBEAT),
            lag: of(welcome.lag_interval, LAG),
        };
        let admission = welcome.admission();
        let dialect = match admission {
            Admission::Unspecified => Dialect::Whole,
            Admission::Resume | Admission::Wait => Dialect::Chunked,
        };
        let mut lanes = Lanes::new(dialect, pace, now, rand::random());
        if admission == Admission::Resume
            && let Some((_, told)) = &self.told
        {
            lanes.resume(told.clone());
        }
        lanes
    }
}

/// When a control plane that ends the stream wants to hear of us again; none if it does not.
fn return_after(farewell: &Farewell) -> Option<Duration> {
    let duration = |wish: Option<_>| wish.and_then(|wish| to_duration("farewell", wish).ok());
    let after = duration(farewell.reconnect_after)?;
    let jitter = duration(farewell.jitter).unwrap_or(RETURN_JITTER);
    Some(after + jitter.mul_f64(rand::random()))
}

/// Many agents that failed together come back spread over the whole span.
fn jittered(backoff: &mut Backoff) -> Duration {
    backoff.next().mul_f64(rand::random())
}

/// Numbers what is sent.
struct Sender {
    requests: mpsc::Sender<ReportRequest>,
    sequence: u64,
}

impl Sender {
    async fn say(&mut self, message: &ReportMessage) -> Result<(), StreamError> {
        self.send(message.into()).await
    }

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
