//! One agent's reporting side, without what it would report about.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use tide_daemon::Backoff;
use tide_model::{
    Epoch, PipelineState, UnitName,
    report::{
        AgentIdentity, Dialect, Lanes, OwnershipDigest, Pace, PipelineReport, PipelineReports,
    },
};
use tide_proto::{
    agent::v1::{
        Admission, Hello, ReportRequest, Welcome, agent_service_client::AgentServiceClient,
        report_request::Message, report_response::Message as Answer,
    },
    convert::to_duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;

/// Until the control plane says otherwise.
const LAG: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A changed pipeline stays so for longer than a watcher needs to hear of it.
const ILL_FOR: Duration = Duration::from_secs(10);

/// What is to happen to a pipeline.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) unit: UnitName,
    pub(super) reason: String,
}

pub(super) type ChangeSender = mpsc::Sender<Change>;

/// The way to tell an agent what happens to its pipelines.
pub(super) fn changes() -> (ChangeSender, mpsc::Receiver<Change>) {
    mpsc::channel(4)
}

/// A pipeline that has just been claimed, and is behind.
pub(super) fn first_report(epoch: Epoch) -> PipelineReport {
    PipelineReport {
        epoch,
        state: PipelineState::Running,
        reason: None,
        last_change_id: 0,
        lag_rows: 1,
        lag_seconds: 0.5,
    }
}

/// Reports until it is dropped.
pub(super) struct SimulatedAgent {
    url: Arc<str>,
    identity: AgentIdentity,
    reports: BTreeMap<UnitName, PipelineReport>,
    changes: mpsc::Receiver<Change>,
    /// What was changed, and when; it is as before some time later.
    changed: BTreeMap<UnitName, Instant>,
    /// What the control plane was told.
    told: Option<PipelineReports>,
}

impl SimulatedAgent {
    pub(super) fn new(
        url: Arc<str>,
        identity: AgentIdentity,
        reports: BTreeMap<UnitName, PipelineReport>,
        changes: mpsc::Receiver<Change>,
    ) -> Self {
        Self {
            url,
            identity,
            reports,
            changes,
            changed: BTreeMap::new(),
            told: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            // How it ended makes no difference: it connects again.
            drop(self.stream(&mut backoff).await);
            sleep(backoff.next().mul_f64(rand::random())).await;
        }
    }

    async fn stream(&mut self, backoff: &mut Backoff) -> Result<()> {
        let mut client = AgentServiceClient::connect(self.url.to_string()).await?;
        let (requests, outbox) = mpsc::channel(16);
        let mut sender = Sender {
            requests,
            sequence: 0,
        };
        let told = self.told.as_ref().map(|told| OwnershipDigest::of(told).0);
        let hello = Hello {
            ownership_digest: told,
            ..(&self.identity).into()
        };
        sender.send(Message::Hello(hello)).await?;
        let answers = client.report(ReceiverStream::new(outbox)).await?;
        let mut answers = answers.into_inner();
        let began = Instant::now();
        let mut lanes: Option<Lanes> = None;
        let mut lag = LAG;
        // Agents that start at different times look at their lags at different times.
        let mut lag_at = began + lag.mul_f64(rand::rng().random());
        loop {
            let mut asked = false;
            tokio::select! {
                answer = answers.message() => match answer?.context("the stream ended")?.message {
                    Some(Answer::Welcome(welcome)) => {
                        backoff.reset();
                        let new = self.lanes(&welcome, began.elapsed());
                        lag = new.pace().lag;
                        lag_at = Instant::now() + lag.mul_f64(rand::rng().random());
                        lanes = Some(new);
                        asked = welcome.admission() == Admission::Unspecified;
                    }
                    Some(Answer::SnapshotRequest(_)) => asked = true,
                    Some(Answer::Farewell(_)) => return Ok(()),
                    Some(Answer::Nudge(_)) | None => {}
                },
                change = self.changes.recv() => {
                    let change = change.context("the measurement is over")?;
                    let report = self.reports.get_mut(&change.unit).context("not its pipeline")?;
                    report.state = PipelineState::Retrying;
                    report.reason = Some(change.reason);
                    self.changed.insert(change.unit, Instant::now());
                }
                () = sleep_until(lag_at) => {
                    lag_at += lag;
                    self.live();
                }
            }
            let Some(lanes) = &mut lanes else {
                continue;
            };
            let messages = if asked {
                lanes.snapshot(&self.reports, began.elapsed())
            } else {
                lanes.due(&self.reports, began.elapsed())
            };
            for message in &messages {
                sender.send(message.into()).await?;
            }
            self.told = lanes.told().cloned();
        }
    }

    /// As an agent has them.
    fn lanes(&self, welcome: &Welcome, now: Duration) -> Lanes {
        let of = |wish: Option<_>, default| {
            let wish = wish.and_then(|wish| to_duration("welcome", wish).ok());
            wish.unwrap_or(default)
        };
        let pace = Pace {
            heartbeat: of(welcome.heartbeat_interval, HEARTBEAT),
            lag: of(welcome.lag_interval, LAG),
        };
        let dialect = match welcome.admission() {
            Admission::Unspecified => Dialect::Whole,
            Admission::Resume | Admission::Wait => Dialect::Chunked,
        };
        // The lags themselves change at this pace, each agent's at another moment.
        let mut lanes = Lanes::new(dialect, pace, now, 0.0);
        if welcome.admission() == Admission::Resume
            && let Some(told) = &self.told
        {
            lanes.resume(told.clone());
        }
        lanes
    }
}

impl SimulatedAgent {
    /// Every lag changes, and what was changed long enough ago is well again.
    fn live(&mut self) {
        for report in self.reports.values_mut() {
            report.last_change_id += 10;
            report.lag_rows = 1 + report.lag_rows % 1_000;
            report.lag_seconds += 0.1;
        }
        let well = self.changed.extract_if(.., |_, at| at.elapsed() > ILL_FOR);
        for (unit, _) in well {
            if let Some(report) = self.reports.get_mut(&unit) {
                report.state = PipelineState::Running;
                report.reason = None;
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
    async fn send(&mut self, message: Message) -> Result<()> {
        self.sequence += 1;
        let request = ReportRequest {
            sequence: self.sequence,
            message: Some(message),
        };
        self.requests
            .send(request)
            .await
            .context("the stream ended")
    }
}
