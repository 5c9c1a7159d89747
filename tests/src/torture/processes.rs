//! The control plane, and `tidectl`.

use anyhow::Result;
use tide_sandbox::{
    binaries,
    ports::{self, Port},
    process::{Process, ProcessSpec},
};

use super::execute::Run;
use crate::{Fleet, SOON, command};

/// A control plane that may be down; always on the same port.
#[derive(Debug)]
pub(super) struct ControlPlane {
    spec: ProcessSpec,
    process: Process,
    port: Port,
}

impl ControlPlane {
    pub(super) fn start(fleet: &Fleet) -> Result<Self> {
        let port = ports::reserve()?;
        let listen = format!("127.0.0.1:{}", port.number());
        let flags = [
            ("--listen", listen.as_str()),
            ("--metrics-addr", "127.0.0.1:0"),
            ("--relay-group-id", fleet.group().as_str()),
            ("--shutdown-timeout", "10"),
        ];
        let program = binaries::find("tide-control-plane")?;
        let spec = ProcessSpec {
            args: flags
                .iter()
                .flat_map(|(flag, value)| [flag.into(), value.into()])
                .collect(),
            env: vec![("TIDE_POSTGRES_URL".to_owned(), fleet.url())],
            ..ProcessSpec::new("control-plane", program, &fleet.scratch)
        };
        let process = Process::spawn(spec.clone())?;
        Ok(Self {
            spec,
            process,
            port,
        })
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    pub(super) async fn kill(&mut self) -> Result<String> {
        if !self.process.is_running()? {
            return Ok("it had ended".to_owned());
        }
        self.process.kill9()?;
        self.process.wait(SOON).await?;
        Ok(String::new())
    }

    pub(super) fn start_again(&mut self) -> Result<()> {
        if !self.process.is_running()? {
            self.process = Process::spawn(self.spec.clone())?;
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Evens out the load, beside everything else: what comes of it is told when it is known.
    pub(super) fn rebalance(&mut self) {
        let (database, control_plane) = (self.fleet.url(), self.control_plane.url());
        let group = self.fleet.group().to_string();
        self.beside.spawn(async move {
            let arguments = [
                "--relay-group-id",
                &group,
                "--control-plane",
                &control_plane,
                "rebalance",
                "apply",
                "--yes",
                "--detach",
                "--reason",
                "torture",
            ];
            let environment = [("TIDE_POSTGRES_URL", &*database)];
            match command::run("tidectl", &arguments, &environment, SOON).await {
                Ok(finished) => {
                    let code = finished
                        .code
                        .map_or_else(|| "-".to_owned(), |code| code.to_string());
                    let last = finished
                        .stderr
                        .lines()
                        .last()
                        .unwrap_or_default()
                        .to_owned();
                    format!("rebalance ended with {code}: {last}")
                }
                Err(error) => format!("rebalance: {error:#}"),
            }
        });
    }
}
