//! What the complaints have in common: a control plane, agents that report to it, and operators who
//! type.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tide_sandbox::{
    http::{Behaviour, Outcome, Receiver, Request},
    wait::eventually,
};
use tide_tests::{
    Fleet, FleetOptions, SOON,
    by_hand::publish,
    command::{Finished, run},
    replica::Replica,
};

/// Longer than any scenario: nothing ends because of it.
pub(super) const LONG: Duration = Duration::from_mins(5);

/// Reports count as missing, and beats too, after 15 seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// A fleet that an operator looks after.
pub(super) struct Stage {
    pub(super) fleet: Fleet,
    pub(super) control: Replica,
}

impl Stage {
    /// A control plane and so many agents.
    pub(super) async fn with_agents(agents: usize) -> Result<Self> {
        let fleet = Fleet::start(FleetOptions {
            lease: LONG,
            ..FleetOptions::agents(0)
        })
        .await?;
        let control = Replica::start(&fleet, "control", LONG).await?;
        let mut stage = Self { fleet, control };
        for number in 1..=agents {
            stage.start_agent(&format!("relay-{number}")).await?;
        }
        stage.warm().await?;
        Ok(stage)
    }

    /// Waits until every agent has reported: before that the control plane drains nobody.
    async fn warm(&self) -> Result<()> {
        let told = |status: &Value| {
            let coverage = &status["coverage"];
            coverage["warming"] == false && coverage["told"] == coverage["agents"]
        };
        let status = ["fleet", "status"];
        self.shows_soon(&status, "all to have reported", told)
            .await?;
        Ok(())
    }

    /// A control plane, and an agent that has sent a message to `hook` which is not answered.
    pub(super) async fn with_a_hanging_request(agents: usize) -> Result<(Self, Arc<Receiver>)> {
        let mut stage = Self::with_agents(1).await?;
        let receiver = Arc::new(Receiver::start().await?);
        receiver.script("/hook", [Behaviour::Hang]);
        let fleet = &mut stage.fleet;
        fleet
            .add_webhook_pipeline("hook", "events", &receiver, json!({}))
            .await?;
        fleet.wait_until_running().await?;
        let message = fleet.drafts.draw("events", "k");
        publish(&mut *fleet.connection().await?, &message).await?;
        receiver
            .wait_until(SOON, "a request to hang", hangs)
            .await?;
        for number in 2..=agents {
            stage.start_agent(&format!("relay-{number}")).await?;
        }
        stage.warm().await?;
        Ok((stage, receiver))
    }

    /// One more agent that reports to the control plane.
    pub(super) async fn start_agent(&mut self, name: &str) -> Result<()> {
        let spec = self.fleet.spec(name);
        let spec = spec.with("--control-plane", &self.control.url());
        self.fleet.start_as(spec).await
    }

    /// The same, in an environment of its own.
    pub(super) async fn start_agent_with(
        &mut self,
        name: &str,
        env: &[(&str, &str)],
    ) -> Result<()> {
        let spec = self.fleet.spec(name);
        let mut spec = spec.with("--control-plane", &self.control.url());
        let env = env.iter();
        spec.env
            .extend(env.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.fleet.start_as(spec).await
    }

    /// What `tidectl` says through the control plane.
    pub(super) async fn says(&self, words: &[&str]) -> Result<Finished> {
        let url = self.control.url();
        let source = ["--source", "control-plane", "--control-plane", &url];
        self.run(&[words, &source].concat()).await
    }

    /// What `tidectl` says that asks PostgreSQL alone.
    pub(super) async fn says_database(&self, words: &[&str]) -> Result<Finished> {
        self.run(&[words, &["--source", "database"]].concat()).await
    }

    async fn run(&self, words: &[&str]) -> Result<Finished> {
        let url = self.fleet.url();
        let actor: &[&str] = if words.contains(&"--actor") {
            &[]
        } else {
            &["--actor", "ana"]
        };
        let words = [words, actor].concat();
        run("tidectl", &words, &[("TIDE_POSTGRES_URL", &url)], SOON).await
    }

    /// The document that a command prints which must succeed.
    pub(super) async fn shows(&self, words: &[&str]) -> Result<Value> {
        let ended = self.says(&[words, &["-o", "json"]].concat()).await?;
        ensure!(ended.code == Some(0), "{ended:?}");
        document(&ended)
    }

    /// Waits until what a command shows is as it should be, whatever its exit code.
    pub(super) async fn shows_soon(
        &self,
        words: &[&str],
        what: &str,
        mut holds: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let words = [words, &["-o", "json"]].concat();
        let seen = eventually(PATIENCE, what, async || {
            let shown = document(&self.says(&words).await?)?;
            ensure!(holds(&shown), "{shown}");
            Ok(Some(shown))
        });
        Ok(seen.await?)
    }

    /// As [`shows_soon`](Self::shows_soon), of a command that asks PostgreSQL alone.
    pub(super) async fn shows_database_soon(
        &self,
        words: &[&str],
        what: &str,
        mut holds: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let words = [words, &["-o", "json", "--source", "database"]].concat();
        let seen = eventually(PATIENCE, what, async || {
            let shown = document(&self.run(&words).await?)?;
            ensure!(holds(&shown), "{shown}");
            Ok(Some(shown))
        });
        Ok(seen.await?)
    }

    /// The operation that a command has begun and leaves alone.
    pub(super) async fn begins(&self, words: &[&str]) -> Result<String> {
        let begun = self.shows(&[words, &["--detach"]].concat()).await?;
        let id = begun["id"].as_str().context("no operation")?;
        Ok(id.to_owned())
    }
}

/// What a program printed as JSON.
pub(super) fn document(ended: &Finished) -> Result<Value> {
    serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))
}

/// The row of a list that has this name.
pub(super) fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut rows = list.as_array().into_iter().flatten();
    rows.find(|row| row["name"] == name).unwrap_or(&Value::Null)
}

/// Whether a request is not answered yet.
pub(super) fn hangs(requests: &[Request]) -> bool {
    requests
        .iter()
        .any(|request| request.outcome == Outcome::Pending)
}
