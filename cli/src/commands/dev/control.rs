//! The control plane's process, always on the same port.

use std::time::Duration;

use anyhow::bail;
use tide_model::fleet::FleetView;
use tide_sandbox::{
    binaries,
    leftovers::Scratch,
    ports::{self, Port},
    process::{Process, ProcessError, ProcessSpec},
    wait::eventually,
};
use tokio::time::sleep;
use tonic::transport::Uri;

use super::{
    PATIENCE,
    agents::{Expected, Orders},
};
use crate::{
    access::Access,
    source::{ControlPlane, Source},
};

/// The control plane among the processes.
pub(super) const NAME: &str = "control-plane";
/// The control plane's program.
pub(super) const PROGRAM: &str = "tide-control-plane";
/// One answer may take this long.
const ANSWER: Duration = Duration::from_secs(5);
/// The pause between two questions.
const POLL: Duration = Duration::from_millis(30);

/// A control plane that may be down.
#[derive(Debug)]
pub(super) struct Control {
    spec: ProcessSpec,
    process: Process,
    expected: Expected,
    grpc: Port,
    metrics: Port,
}

impl Control {
    /// Starts the process. It answers only later: see [`ready`](Self::ready).
    pub(super) fn start(orders: Orders<'_>, scratch: &Scratch) -> anyhow::Result<Self> {
        let (grpc, metrics) = (ports::reserve()?, ports::reserve()?);
        let [listen, metrics_addr] =
            [&grpc, &metrics].map(|port| format!("127.0.0.1:{}", port.number()));
        let flags = [
            ("--listen", listen.as_str()),
            ("--metrics-addr", &metrics_addr),
            ("--relay-group-id", orders.group.as_str()),
            ("--shutdown-timeout", "10"),
            ("--log-format", "text"),
        ];
        let spec = ProcessSpec {
            args: flags
                .iter()
                .flat_map(|(flag, value)| [flag.into(), value.into()])
                .collect(),
            env: vec![(
                "TIDE_POSTGRES_URL".to_owned(),
                orders.postgres_url.to_owned(),
            )],
            ..ProcessSpec::new(NAME, binaries::find(PROGRAM)?, scratch)
        };
        Ok(Self {
            process: Process::spawn(spec.clone())?,
            expected: Expected::Up,
            spec,
            grpc,
            metrics,
        })
    }

    /// Where it answers.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc.number())
    }

    /// Where its metrics are.
    pub(super) fn metrics_url(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.metrics.number())
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Connects to it.
    pub(super) async fn connect(&self) -> anyhow::Result<Source> {
        let address: Uri = self.url().parse()?;
        let connected = ControlPlane::connect(&address, &Access::default(), ANSWER).await?;
        Ok(Source::ControlPlane(Box::new(connected)))
    }

    /// Waits until it answers and what it knows satisfies `enough`, which otherwise says what is
    /// missing.
    pub(super) async fn ready(
        &mut self,
        enough: impl Fn(&FleetView) -> Result<(), String>,
    ) -> anyhow::Result<FleetView> {
        eventually(
            PATIENCE,
            "the control plane to know the fleet",
            async || {
                sleep(POLL).await;
                if let Some(fallen) = self.fallen() {
                    return Ok(Some(Err(fallen.into())));
                }
                let fleet = self.connect().await?.fleet().await?;
                enough(&fleet).map_err(anyhow::Error::msg)?;
                Ok::<_, anyhow::Error>(Some(Ok(fleet)))
            },
        )
        .await?
    }

    /// Why it has ended, if it was not told to; reported once.
    pub(super) fn fallen(&mut self) -> Option<ProcessError> {
        self.expected.fallen(&mut self.process)
    }

    /// SIGKILL, and waits for the end.
    pub(super) async fn kill9(&mut self) -> anyhow::Result<()> {
        self.expected = Expected::Down;
        self.process.kill9()?;
        self.process.wait(PATIENCE).await?;
        Ok(())
    }

    /// Starts it again on the port that it had.
    pub(super) fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = Process::spawn(self.spec.clone())?;
        self.expected = Expected::Up;
        Ok(())
    }

    /// Ends it in good order.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        if !self.process.is_running()? {
            return Ok(());
        }
        self.expected = Expected::Down;
        self.process.terminate()?;
        let status = self.process.wait(PATIENCE).await?;
        if !status.success() {
            bail!("the control plane did not stop in good order: {status}");
        }
        Ok(())
    }
}
