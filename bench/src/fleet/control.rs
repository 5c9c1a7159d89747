//! The control plane's process, always at the same address.

use anyhow::{Context as _, Result};
use tide_sandbox::{
    binaries,
    ports::{self, Port},
    process::{Process, ProcessSpec},
};

use crate::rig::Rig;

/// A control plane that can be killed and started again.
pub(super) struct Control {
    process: Process,
    spec: ProcessSpec,
    port: Port,
}

impl Control {
    /// Starts it; it may not answer yet.
    pub(super) fn start(rig: &Rig) -> Result<Self> {
        let port = ports::reserve()?;
        let program = binaries::find("tide-control-plane")
            .context("build it with: cargo build --release -p tide-control-plane")?;
        let listen = format!("127.0.0.1:{}", port.number());
        let args = [
            "--postgres-url",
            &rig.url,
            "--listen",
            &listen,
            "--metrics-addr",
            "127.0.0.1:0",
        ];
        let spec = ProcessSpec {
            args: args.iter().map(Into::into).collect(),
            ..ProcessSpec::new("control-plane", program, &rig.scratch)
        };
        Ok(Self {
            process: Process::spawn(spec.clone())?,
            spec,
            port,
        })
    }

    /// Where it answers.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// The process that runs now.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it without a word and starts the next one at once.
    pub(super) async fn restart(&mut self) -> Result<()> {
        self.process.kill9()?;
        self.process
            .wait(std::time::Duration::from_secs(10))
            .await?;
        self.process = Process::spawn(self.spec.clone())?;
        Ok(())
    }
}
