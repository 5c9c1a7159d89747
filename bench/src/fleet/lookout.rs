//! An operator who looks on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tide_proto::fleet::v1::{
    Agent, Pipeline, WatchFleetRequest, WatchFleetResponse,
    fleet_service_client::FleetServiceClient, watch_fleet_response::Event,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::stage::Stage;

/// A whole fleet in one message.
const LARGEST: usize = 1 << 30;
/// Between two attempts to reach the control plane.
const PAUSE: Duration = Duration::from_millis(50);

/// Who waits for which reason to be shown.
type Expected = Arc<Mutex<BTreeMap<String, oneshot::Sender<Instant>>>>;

/// A watch of the whole fleet.
pub(super) struct Lookout {
    expected: Expected,
    /// Ends with the lookout.
    _watch: JoinSet<()>,
}

impl Lookout {
    /// Watches, and returns once every agent reports and every pipeline shows what its agent says.
    pub(super) async fn whole(stage: &Stage, within: Duration) -> Result<Self> {
        let expected = Expected::default();
        let (progress_tx, mut progress) = watch::channel((0, 0));
        let mut watch = JoinSet::new();
        watch.spawn(look(
            stage.control.url(),
            Arc::clone(&expected),
            progress_tx,
        ));
        let whole = (stage.agents, stage.pipelines);
        let complete = timeout(within, progress.wait_for(|seen| *seen == whole)).await;
        let complete = complete.map(|seen| seen.is_ok());
        if complete != Ok(true) {
            let (agents, pipelines) = *progress.borrow();
            anyhow::bail!(
                "after {within:?} the control plane shows reports of {agents} of {} agents and {pipelines} of {} pipelines",
                whole.0,
                whole.1
            );
        }
        Ok(Self {
            expected,
            _watch: watch,
        })
    }

    /// Answers when a pipeline is shown with this reason.
    pub(super) fn expect(&self, reason: &str) -> oneshot::Receiver<Instant> {
        let (seen, answer) = oneshot::channel();
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.insert(reason.to_owned(), seen);
        answer
    }
}

/// Looks until it is dropped; begins anew when a watch ends.
async fn look(url: String, expected: Expected, progress: watch::Sender<(usize, usize)>) {
    loop {
        let mut seen = Seen::default();
        drop(look_once(&url, &expected, &progress, &mut seen).await);
        sleep(PAUSE).await;
    }
}

async fn look_once(
    url: &str,
    expected: &Expected,
    progress: &watch::Sender<(usize, usize)>,
    seen: &mut Seen,
) -> Result<()> {
    let client = FleetServiceClient::connect(url.to_owned()).await?;
    let mut client = client.max_decoding_message_size(LARGEST);
    let mut events = client
        .watch_fleet(WatchFleetRequest::default())
        .await?
        .into_inner();
    loop {
        let event = events.message().await?.context("the watch ended")?;
        let now = Instant::now();
        for reason in seen.note(event) {
            let mut expected = expected.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waiting) = expected.remove(&reason) {
                // Whoever gave up waiting needs no answer.
                waiting.send(now).ok();
            }
        }
        progress.send_replace((seen.reporting.len(), seen.told.len()));
    }
}

/// What a watch has shown so far.
#[derive(Default)]
struct Seen {
    /// Agents that report.
    reporting: BTreeSet<String>,
    /// Pipelines of which an agent has told: by the database none is behind.
    told: BTreeSet<String>,
}

impl Seen {
    /// Takes in an event and returns the reasons that it shows.
    fn note(&mut self, event: WatchFleetResponse) -> Vec<String> {
        let (agents, pipelines) = match event.event {
            Some(Event::Snapshot(fleet)) => (fleet.agents, fleet.pipelines),
            Some(Event::Delta(delta)) => (delta.agents, delta.pipelines),
            None => return Vec::new(),
        };
        for Agent {
            name, reporting, ..
        } in agents
        {
            if reporting {
                self.reporting.insert(name);
            } else {
                self.reporting.remove(&name);
            }
        }
        let mut reasons = Vec::new();
        for Pipeline {
            name,
            lag_rows,
            reason,
            ..
        } in pipelines
        {
            if lag_rows > 0 {
                self.told.insert(name);
            } else {
                self.told.remove(&name);
            }
            if !reason.is_empty() {
                reasons.push(reason);
            }
        }
        reasons
    }
}
