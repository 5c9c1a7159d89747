//! The agents' processes.

use std::{collections::BTreeMap, process::ExitStatus};

use anyhow::{Context as _, bail};
use tide_model::{AgentName, GroupName};
use tide_sandbox::{
    binaries,
    leftovers::Scratch,
    process::{Process, ProcessError, ProcessSpec},
};

use super::PATIENCE;

/// The agents' program.
pub(super) const PROGRAM: &str = "tide-agent";
/// After how much silence the server frees an agent's locks, as the flag says it.
const LEASE: &str = "2s";
/// The same for those who wait for it.
pub(super) const LEASE_TIME: std::time::Duration = std::time::Duration::from_secs(2);

/// What all agents are told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Orders<'a> {
    pub(super) group: &'a GroupName,
    pub(super) postgres_url: &'a str,
    pub(super) control_plane: Option<&'a str>,
}

/// All agents by name.
#[derive(Debug)]
pub(super) struct Agents {
    agents: BTreeMap<AgentName, Agent>,
}

#[derive(Debug)]
struct Agent {
    spec: ProcessSpec,
    process: Process,
    expected: Expected,
}

/// Whether a process should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Up,
    Down,
}

/// The agent with this number, from 1.
pub(super) fn name(number: u16) -> AgentName {
    format!("relay-{number}")
        .parse()
        .expect("a word and a number are a valid agent name")
}

impl Expected {
    /// Why a process has ended that should be there; from then on it should not.
    pub(super) fn fallen(&mut self, process: &mut Process) -> Option<ProcessError> {
        match (*self, process.is_running()) {
            (Self::Down, _) | (Self::Up, Ok(true)) => None,
            (Self::Up, Ok(false)) => {
                *self = Self::Down;
                // Signalling what has ended is the error that shows its last words.
                process.thaw().err()
            }
            (Self::Up, Err(error)) => Some(error),
        }
    }
}

impl Agents {
    /// Starts agents `relay-1` to `relay-<count>`.
    pub(super) fn start(count: u16, orders: Orders<'_>, scratch: &Scratch) -> anyhow::Result<Self> {
        let mut agents = BTreeMap::new();
        for name in (1..=count).map(name) {
            let spec = spec(&name, orders, scratch)?;
            let process = Process::spawn(spec.clone())?;
            let expected = Expected::Up;
            agents.insert(
                name,
                Agent {
                    spec,
                    process,
                    expected,
                },
            );
        }
        Ok(Self { agents })
    }

    /// Names and process ids of all that should be there.
    pub(super) fn running(&self) -> BTreeMap<AgentName, u32> {
        let up = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.expected == Expected::Up);
        up.map(|(name, agent)| (name.clone(), agent.process.pid()))
            .collect()
    }

    /// Agents that ended without being told to, each reported once.
    pub(super) fn fallen(&mut self) -> Vec<ProcessError> {
        let agents = self.agents.values_mut();
        agents
            .filter_map(|agent| agent.expected.fallen(&mut agent.process))
            .collect()
    }

    /// Starts an agent that has ended.
    pub(super) fn start_again(&mut self, name: &AgentName) -> anyhow::Result<()> {
        let agent = self.get(name)?;
        agent.process = Process::spawn(agent.spec.clone())?;
        agent.expected = Expected::Up;
        Ok(())
    }

    /// SIGKILL. Returns at once.
    pub(super) fn kill9(&mut self, name: &AgentName) -> anyhow::Result<()> {
        let agent = self.get(name)?;
        agent.expected = Expected::Down;
        Ok(agent.process.kill9()?)
    }

    /// SIGSTOP.
    pub(super) fn freeze(&mut self, name: &AgentName) -> anyhow::Result<()> {
        Ok(self.get(name)?.process.freeze()?)
    }

    /// SIGCONT.
    pub(super) fn thaw(&mut self, name: &AgentName) -> anyhow::Result<()> {
        Ok(self.get(name)?.process.thaw()?)
    }

    /// SIGTERM. Returns at once; [`ended`](Self::ended) waits for the end.
    pub(super) fn terminate(&mut self, name: &AgentName) -> anyhow::Result<()> {
        let agent = self.get(name)?;
        agent.expected = Expected::Down;
        Ok(agent.process.terminate()?)
    }

    /// Waits until an agent has ended.
    pub(super) async fn ended(&mut self, name: &AgentName) -> anyhow::Result<ExitStatus> {
        Ok(self.get(name)?.process.wait(PATIENCE).await?)
    }

    /// Ends all that run in good order, all at once.
    ///
    /// Every one is tried; fails if one does not end so.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        let mut troubles = Vec::new();
        let fallen = self.fallen().into_iter();
        troubles.extend(fallen.map(|fallen| anyhow::Error::new(fallen).to_string()));
        let running: Vec<AgentName> = self.running().into_keys().collect();
        for name in &running {
            // A frozen one would not hear that it shall end.
            let asked = self.thaw(name).and_then(|()| self.terminate(name));
            troubles.extend(asked.err().map(|error| error.to_string()));
        }
        for name in &running {
            match self.ended(name).await {
                Ok(status) if status.success() => {}
                Ok(status) => troubles.push(format!("{name} did not stop in good order: {status}")),
                Err(error) => troubles.push(error.to_string()),
            }
        }
        if troubles.is_empty() {
            return Ok(());
        }
        bail!("{}", troubles.join("; "))
    }

    fn get(&mut self, name: &AgentName) -> anyhow::Result<&mut Agent> {
        self.agents
            .get_mut(name)
            .with_context(|| format!("there is no agent {name}"))
    }
}

fn spec(name: &AgentName, orders: Orders<'_>, scratch: &Scratch) -> anyhow::Result<ProcessSpec> {
    let group = orders.group.as_str();
    let flags = [
        ("--name", name.as_str()),
        ("--relay-group-id", group),
        ("--lease", LEASE),
        ("--discovery-interval", "5"),
        ("--shutdown-timeout", "10"),
        ("--metrics-addr", "127.0.0.1:0"),
        ("--log-format", "text"),
    ];
    let control_plane = orders.control_plane.map(|url| ("--control-plane", url));
    let flags = flags.into_iter().chain(control_plane);
    Ok(ProcessSpec {
        args: flags
            .flat_map(|(flag, value)| [flag.into(), value.into()])
            .collect(),
        env: vec![(
            "TIDE_POSTGRES_URL".to_owned(),
            orders.postgres_url.to_owned(),
        )],
        ..ProcessSpec::new(name.as_str(), binaries::find(PROGRAM)?, scratch)
    })
}
