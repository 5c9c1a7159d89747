//! One agent process.

use std::process::ExitStatus;

use anyhow::{Context as _, Result, ensure};
use tide_sandbox::{
    binaries,
    leftovers::Scratch,
    process::{Process, ProcessSpec},
};

use super::FleetOptions;
use crate::{
    SOON,
    scrape::{self, Answer},
};

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct AgentSpec {
    /// Its name.
    pub name: String,
    /// Its flags.
    pub args: Vec<String>,
    /// Its environment; the URL of the database is there and not among the flags, where every user
    /// of the machine could read it.
    pub env: Vec<(String, String)>,
}

/// A started agent.
#[derive(Debug)]
pub struct Agent {
    /// The process, to signal it and to read its log.
    pub process: Process,
}

impl AgentSpec {
    pub(super) fn new(name: &str, url: String, options: &FleetOptions) -> Self {
        let seconds = |duration: std::time::Duration| duration.as_secs_f64().to_string();
        let flags = [
            ("--name", name.to_owned()),
            ("--relay-group-id", options.group.clone()),
            ("--lease", seconds(options.lease)),
            ("--discovery-interval", seconds(options.discovery_interval)),
            ("--shutdown-timeout", seconds(options.shutdown_timeout)),
            ("--metrics-addr", "127.0.0.1:0".to_owned()),
        ];
        Self {
            name: name.to_owned(),
            args: flags
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value])
                .collect(),
            env: vec![("TIDE_POSTGRES_URL".to_owned(), url)],
        }
    }

    /// With another value for a flag, or one flag more.
    #[must_use]
    pub fn with(mut self, flag: &str, value: &str) -> Self {
        match self.args.iter().position(|argument| argument == flag) {
            Some(at) => value.clone_into(&mut self.args[at + 1]),
            None => self.args.extend([flag.to_owned(), value.to_owned()]),
        }
        self
    }

    /// With a flag that has no value.
    #[must_use]
    pub fn with_flag(mut self, flag: &str) -> Self {
        self.args.push(flag.to_owned());
        self
    }

    /// Without a flag and its value.
    #[must_use]
    pub fn without(mut self, flag: &str) -> Self {
        if let Some(at) = self.args.iter().position(|argument| argument == flag) {
            self.args.drain(at..at + 2);
        }
        self
    }

    /// Connecting to another URL.
    #[must_use]
    pub fn at(mut self, url: &str) -> Self {
        self.env.retain(|(name, _)| name != "TIDE_POSTGRES_URL");
        self.env
            .push(("TIDE_POSTGRES_URL".to_owned(), url.to_owned()));
        self
    }
}

impl Agent {
    pub(super) fn spawn(spec: &AgentSpec, scratch: &Scratch) -> Result<Self> {
        let process = Process::spawn(ProcessSpec {
            args: spec.args.iter().map(Into::into).collect(),
            env: spec.env.clone(),
            ..ProcessSpec::new(&spec.name, binaries::find("tide-agent")?, scratch)
        })?;
        Ok(Self { process })
    }

    pub(super) async fn started(&mut self) -> Result<()> {
        self.log("agent started").await.map(drop)
    }

    /// The first line of its log that holds a text, now or soon.
    pub async fn log(&mut self, text: &str) -> Result<String> {
        Ok(self.process.wait_for_log(text, SOON).await?)
    }

    /// Everything that it has written to its log.
    pub fn whole_log(&self) -> String {
        self.process.log_tail(usize::MAX)
    }

    /// SIGKILL.
    pub fn kill9(&mut self) -> Result<()> {
        Ok(self.process.kill9()?)
    }

    /// SIGSTOP.
    pub fn freeze(&mut self) -> Result<()> {
        Ok(self.process.freeze()?)
    }

    /// SIGCONT.
    pub fn thaw(&mut self) -> Result<()> {
        Ok(self.process.thaw()?)
    }

    /// SIGTERM.
    pub fn terminate(&mut self) -> Result<()> {
        Ok(self.process.terminate()?)
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(self.process.wait(SOON).await?)
    }

    /// SIGTERM, and an end in good order.
    pub async fn stop(&mut self) -> Result<()> {
        self.terminate()?;
        let status = self.ended().await?;
        ensure!(
            status.code() == Some(0),
            "{} ended with {status}:\n{}",
            self.process.name(),
            self.process.log_tail(20)
        );
        Ok(())
    }

    /// Where it serves metrics and probes.
    pub async fn address(&mut self) -> Result<String> {
        let line = self.log("agent started").await?;
        let (_, rest) = line
            .split_once("address=")
            .with_context(|| format!("no address in: {line}"))?;
        let end = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))
            .unwrap_or(rest.len());
        Ok(rest[..end].to_owned())
    }

    /// Gets one of its pages.
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        scrape::get(&self.address().await?, path).await
    }
}
