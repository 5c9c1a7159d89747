//! Breaking agents, networks, servers and brokers, and noting from when to when.

use anyhow::{Context as _, Result};
use tide_sandbox::{
    history::{Cause, Disturbance, Reach},
    postgres::Mode,
};
use time::OffsetDateTime;
use tokio::time::{Duration, sleep};

use super::{
    execute::{Harm, Run},
    plan::{Restart, SinkKind},
};
use crate::fleet::Agent;

/// The name under which the brokers are broken.
const BROKERS: &str = "brokers";
/// The name under which the server of the streams is.
pub(super) const STREAMS: &str = "streams";

impl Run<'_> {
    pub(super) async fn launch(&mut self, agent: &str) -> Result<()> {
        let url = self.control_plane.url();
        let change = |spec: crate::fleet::AgentSpec| spec.with("--control-plane", &url);
        self.fleet.launch_changed(agent, change).await?;
        self.harm.down.remove(agent);
        Ok(())
    }

    pub(super) async fn crash(&mut self, agent: &str) -> Result<String> {
        let from = OffsetDateTime::now_utc();
        let process = self.fleet.agent(agent);
        if !process.process.is_running()? {
            return Ok(self.desert(agent));
        }
        process.kill9()?;
        process.ended().await?;
        self.harm.down.insert(agent.to_owned());
        self.harm.note(Cause::Crash, agent, from);
        Ok(String::new())
    }

    /// Starts an agent that was killed or asked to end, once it has.
    pub(super) async fn start_again(&mut self, agent: &str) -> Result<String> {
        let status = self.fleet.agent(agent).ended().await;
        let status = match status {
            Ok(status) => status.to_string(),
            Err(error) => {
                self.harm
                    .deserters
                    .push(format!("{agent} did not end: {error:#}"));
                let from = OffsetDateTime::now_utc();
                self.fleet.agent(agent).kill9()?;
                self.fleet.agent(agent).ended().await?;
                self.harm.note(Cause::Crash, agent, from);
                "killed".to_owned()
            }
        };
        self.launch(agent).await?;
        Ok(status)
    }

    pub(super) fn terminate(&mut self, agent: &str) -> Result<String> {
        let process = self.fleet.agent(agent);
        if !process.process.is_running()? {
            return Ok(self.desert(agent));
        }
        process.terminate()?;
        self.harm.down.insert(agent.to_owned());
        Ok(String::new())
    }

    pub(super) fn freeze(&mut self, agent: &str) -> Result<String> {
        self.harm.begin(Cause::Freeze, agent);
        self.signal(agent, Agent::freeze)
    }

    pub(super) fn thaw(&mut self, agent: &str) -> Result<String> {
        let told = self.signal(agent, Agent::thaw)?;
        self.harm.end(Cause::Freeze, agent);
        Ok(told)
    }

    pub(super) fn cut(&mut self, agent: &str) {
        self.harm.begin(Cause::Partition, agent);
        self.fleet.network(agent).cut();
    }

    pub(super) fn heal(&mut self, agent: &str) {
        self.fleet.network(agent).heal();
        self.harm.end(Cause::Partition, agent);
    }

    pub(super) async fn end_lock_session(&mut self, agent: &str) -> Result<String> {
        if !self.has_started(agent) {
            return Ok("it is starting".to_owned());
        }
        let Some(backend) = self.fleet.lock_backend(agent).await? else {
            return Ok("it has none".to_owned());
        };
        let from = OffsetDateTime::now_utc();
        self.fleet.end_backend(backend).await?;
        self.harm.note(Cause::LostSession, agent, from);
        Ok(String::new())
    }

    pub(super) async fn restart_postgres(&mut self, how: Restart) -> Result<()> {
        let mode = match how {
            Restart::Fast => Mode::Fast,
            Restart::Immediate => Mode::Immediate,
            Restart::Kill => Mode::Kill,
        };
        let from = OffsetDateTime::now_utc();
        self.fleet.postgres.restart(mode).await?;
        self.harm.note_all(Cause::ServerRestart, from);
        // An agent that finds no database when it starts says so and ends; its supervisor tries again.
        for agent in self.fleet.agent_names() {
            let ended = !self.fleet.agent(&agent).process.is_running()?;
            if ended && !self.harm.down.contains(&agent) && !self.has_started(&agent) {
                self.narrator
                    .say(&format!("{agent} found no database; started again"));
                self.launch(&agent).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn stall_postgres(&mut self, millis: u64) -> Result<()> {
        let from = OffsetDateTime::now_utc();
        self.fleet.postgres.freeze()?;
        sleep(Duration::from_millis(millis)).await;
        self.fleet.postgres.thaw()?;
        self.harm.note_all(Cause::Freeze, from);
        Ok(())
    }

    pub(super) fn brokers_down(&mut self) -> Result<()> {
        self.harm.begin(Cause::Retry, BROKERS);
        self.sinks.kafka.down()?;
        Ok(())
    }

    pub(super) fn brokers_up(&mut self) -> Result<()> {
        self.sinks.kafka.up()?;
        self.retried(BROKERS, &[SinkKind::Topic, SinkKind::PartitionedTopic]);
        Ok(())
    }

    pub(super) async fn streams_down(&mut self) -> Result<()> {
        self.harm.begin(Cause::Retry, STREAMS);
        Ok(self.sinks.streams()?.broker().kill().await?)
    }

    pub(super) async fn streams_up(&mut self) -> Result<()> {
        self.sinks.streams()?.start_again().await?;
        self.retried(STREAMS, &[SinkKind::Stream]);
        Ok(())
    }

    /// What these were sent while they were away was sent again.
    fn retried(&mut self, whom: &str, sinks: &[SinkKind]) {
        if let Some(from) = self.harm.open.remove(&(Cause::Retry, whom.to_owned())) {
            let theirs = self.pipelines.values();
            let theirs = theirs.filter(|known| sinks.contains(&known.plan.sink));
            let reach = Reach::only(theirs.map(|known| known.plan.name.clone()));
            let until = OffsetDateTime::now_utc();
            self.harm
                .done
                .push(Disturbance::new(Cause::Retry, reach, from, until));
        }
    }

    /// Notes an agent that is not there although nothing was done to it.
    pub(super) fn desert(&mut self, agent: &str) -> String {
        let process = &self.fleet.agent(agent).process;
        let last = process.log_tail(3);
        self.harm.down.insert(agent.to_owned());
        self.harm
            .deserters
            .push(format!("{agent} had ended: {last}"));
        "it had ended".to_owned()
    }

    fn has_started(&mut self, agent: &str) -> bool {
        self.fleet
            .agent(agent)
            .whole_log()
            .contains("agent started")
    }

    fn signal(&mut self, agent: &str, signal: fn(&mut Agent) -> Result<()>) -> Result<String> {
        if !self.fleet.agent(agent).process.is_running()? {
            return Ok(self.desert(agent));
        }
        signal(self.fleet.agent(agent)).context("signalling")?;
        Ok(String::new())
    }
}

impl Harm {
    /// Something broke.
    fn begin(&mut self, cause: Cause, whom: &str) {
        let now = OffsetDateTime::now_utc();
        self.open.entry((cause, whom.to_owned())).or_insert(now);
    }

    /// It is whole again.
    fn end(&mut self, cause: Cause, agent: &str) {
        if let Some(from) = self.open.remove(&(cause, agent.to_owned())) {
            self.note(cause, agent, from);
        }
    }

    /// Something was done to an agent from then until now.
    pub(super) fn note(&mut self, cause: Cause, agent: &str, from: OffsetDateTime) {
        let reach = Reach::Agent(agent.to_owned());
        let until = OffsetDateTime::now_utc();
        self.done.push(Disturbance::new(cause, reach, from, until));
    }

    fn note_all(&mut self, cause: Cause, from: OffsetDateTime) {
        let until = OffsetDateTime::now_utc();
        self.done
            .push(Disturbance::new(cause, Reach::All, from, until));
    }
}
