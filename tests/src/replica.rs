//! Control planes as processes: several of them, one of which is active.

use std::{process::ExitStatus, time::Duration};

use anyhow::{Context as _, Result};
use tide_proto::fleet::v1::{
    fleet_service_client::FleetServiceClient, operation_service_client::OperationServiceClient,
};
use tide_sandbox::{
    binaries,
    process::{Process, ProcessSpec},
};
use tonic::transport::Channel;

use crate::{
    Fleet, SOON,
    scrape::{self, Answer},
};

/// A control plane's process.
#[derive(Debug)]
pub struct Replica {
    /// The process, to signal it and to read its log.
    pub process: Process,
    scheme: &'static str,
    grpc: String,
    http: String,
}

impl Replica {
    /// Starts one for the fleet, under whatever name the log shall have, and waits until it serves.
    pub async fn start(fleet: &Fleet, name: &str, lease: Duration) -> Result<Self> {
        Self::start_with(fleet, name, lease, &[]).await
    }

    /// As [`start`](Self::start), with more flags.
    pub async fn start_with(
        fleet: &Fleet,
        name: &str,
        lease: Duration,
        more: &[(&str, &str)],
    ) -> Result<Self> {
        let flags = [
            ("--listen", "127.0.0.1:0"),
            ("--metrics-addr", "127.0.0.1:0"),
            ("--relay-group-id", fleet.group().as_str()),
            ("--lease", &lease.as_secs_f64().to_string()),
        ];
        let mut process = Process::spawn(ProcessSpec {
            args: flags
                .iter()
                .chain(more)
                .flat_map(|(flag, value)| [flag.into(), value.into()])
                .collect(),
            env: vec![("TIDE_POSTGRES_URL".to_owned(), fleet.url())],
            ..ProcessSpec::new(name, binaries::find("tide-control-plane")?, &fleet.scratch)
        })?;
        let secure = more.iter().any(|(flag, _)| *flag == "--tls-cert");
        let scheme = if secure { "https" } else { "http" };
        let grpc = address(&process.wait_for_log("serving gRPC", SOON).await?)?;
        let http = address(&process.wait_for_log("serving metrics", SOON).await?)?;
        Ok(Self {
            process,
            scheme,
            grpc,
            http,
        })
    }

    /// Where it serves, as a URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.grpc)
    }

    /// A client of its reads.
    pub fn fleet(&self) -> Result<FleetServiceClient<Channel>> {
        Ok(FleetServiceClient::new(self.channel()?))
    }

    /// A client of its commands.
    pub fn operations(&self) -> Result<OperationServiceClient<Channel>> {
        Ok(OperationServiceClient::new(self.channel()?))
    }

    /// Gets one of its pages.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        scrape::get(&self.http, path).await
    }

    /// Whether it says that it is certainly the active one.
    pub async fn is_active(&self) -> Result<bool> {
        let metrics = self.get("/metrics").await?.body;
        let active = scrape::samples(&metrics, "tide_control_plane_active", "")?;
        Ok(active.values().sum::<f64>() > 0.0)
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.process.terminate()?;
        Ok(self.process.wait(SOON).await?)
    }

    /// A channel of its own for each client: what one waits for must not hold up another.
    pub fn channel(&self) -> Result<Channel> {
        Ok(Channel::from_shared(self.url())?
            .timeout(SOON)
            .connect_lazy())
    }
}

/// The address that a line of the log names.
fn address(line: &str) -> Result<String> {
    let (_, rest) = line
        .split_once("address=")
        .with_context(|| format!("no address in: {line}"))?;
    let end = rest
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))
        .unwrap_or(rest.len());
    Ok(rest[..end].to_owned())
}
