//! The agents of one measurement: started alike, disturbed one at a time, and looked at.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tide_sandbox::{process::Process, proxy::Proxy, wait::eventually};

use crate::rig::Rig;

/// The group of every agent here.
pub(super) const GROUP: &str = "default";

/// How long anything that is not measured may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// How agents reach the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cabling {
    Straight,
    /// Each through a proxy of its own.
    Cuttable,
}

/// Who owns a pipeline, under which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) agent: String,
    pub(super) epoch: i64,
}

/// Pipelines and their owners.
pub(super) type Owners = BTreeMap<String, Owner>;

pub(super) struct Crew<'a> {
    rig: &'a Rig,
    flags: Vec<String>,
    members: BTreeMap<String, Member>,
    pipelines: usize,
}

struct Member {
    process: Process,
    url: String,
    cable: Option<Proxy>,
}

impl<'a> Crew<'a> {
    /// Starts `relay-1` to `relay-N`.
    pub(super) async fn start(
        rig: &'a Rig,
        agents: usize,
        pipelines: usize,
        cabling: Cabling,
        flags: Vec<String>,
    ) -> Result<Self> {
        let mut crew = Self {
            rig,
            flags,
            members: BTreeMap::new(),
            pipelines,
        };
        for number in 1..=agents {
            let name = format!("relay-{number}");
            let (cable, url) = match cabling {
                Cabling::Straight => (None, rig.url.clone()),
                Cabling::Cuttable => {
                    let (proxy, url) = rig.cable().await?;
                    (Some(proxy), url)
                }
            };
            let process = crew.spawn(&name, &url).await?;
            let member = Member {
                process,
                url,
                cable,
            };
            crew.members.insert(name, member);
        }
        Ok(crew)
    }

    /// An agent, taking turns.
    pub(super) fn in_turn(&self, turn: usize) -> String {
        let names: Vec<&String> = self.members.keys().collect();
        names[turn % names.len()].clone()
    }

    /// The agent that owns the most.
    pub(super) async fn busiest(&self) -> Result<String> {
        let mut loads: BTreeMap<String, usize> = BTreeMap::new();
        for owner in self.owners().await?.into_values() {
            *loads.entry(owner.agent).or_default() += 1;
        }
        let busiest = loads.into_iter().max_by_key(|(_, load)| *load);
        busiest
            .map(|(agent, _)| agent)
            .context("nobody owns anything")
    }

    /// Who owns what now.
    pub(super) async fn owners(&self) -> Result<Owners> {
        Ok(self.look().await?.0)
    }

    /// What one agent owns now.
    pub(super) async fn owned_by(&self, agent: &str) -> Result<Owners> {
        let mut owners = self.owners().await?;
        owners.retain(|_, owner| owner.agent == agent);
        ensure!(!owners.is_empty(), "{agent} owns nothing");
        Ok(owners)
    }

    /// Waits until every pipeline runs.
    pub(super) async fn running(&self) -> Result<()> {
        eventually(PATIENCE, "every pipeline to run", async || {
            let (owners, running) = self.look().await?;
            anyhow::Ok((owners.len() == self.pipelines && running).then_some(()))
        })
        .await?;
        Ok(())
    }

    /// Waits until every pipeline runs, evenly spread over so many agents.
    pub(super) async fn even(&self, agents: usize) -> Result<()> {
        eventually(PATIENCE, "the pipelines to be evenly spread", async || {
            let (owners, running) = self.look().await?;
            let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
            for owner in owners.values() {
                *loads.entry(&owner.agent).or_default() += 1;
            }
            let spread = loads.values().max().unwrap_or(&0) - loads.values().min().unwrap_or(&0);
            let even = loads.len() == agents && spread <= 1;
            if running && even && owners.len() == self.pipelines {
                return Ok(Some(()));
            }
            anyhow::bail!("{loads:?}")
        })
        .await?;
        Ok(())
    }

    /// As [`even`](Self::even), over all agents.
    pub(super) async fn all_even(&self) -> Result<()> {
        self.even(self.members.len()).await
    }

    pub(super) fn process(&mut self, agent: &str) -> Result<&mut Process> {
        Ok(&mut self.member(agent)?.process)
    }

    pub(super) fn cable(&mut self, agent: &str) -> Result<&Proxy> {
        let cable = self.member(agent)?.cable.as_ref();
        cable.context("this agent is not connected through a proxy")
    }

    /// Waits for the end of an agent that was told to end, and starts it again.
    pub(super) async fn restart(&mut self, agent: &str) -> Result<()> {
        let member = self.member(agent)?;
        member.process.wait(PATIENCE).await?;
        let url = member.url.clone();
        let process = self.spawn(agent, &url).await?;
        self.member(agent)?.process = process;
        Ok(())
    }

    /// Ends every agent in good order.
    pub(super) async fn dismiss(mut self) -> Result<()> {
        for member in self.members.values_mut() {
            member.process.terminate()?;
        }
        for member in self.members.values_mut() {
            member.process.wait(PATIENCE).await?;
        }
        Ok(())
    }

    async fn spawn(&self, name: &str, url: &str) -> Result<Process> {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.rig.agent_at(url, name, &flags).await
    }

    fn member(&mut self, agent: &str) -> Result<&mut Member> {
        self.members.get_mut(agent).context("no such agent")
    }

    /// Owners, and whether everything that is owned runs.
    async fn look(&self) -> Result<(Owners, bool)> {
        let rows: Vec<(String, String, i64, bool)> = sqlx::query_as(
            "SELECT name, owner, epoch, state IS NOT DISTINCT FROM 'running'
             FROM tide.relay_ownership($1) WHERE owner IS NOT NULL AND epoch IS NOT NULL",
        )
        .bind(GROUP)
        .fetch_all(&self.rig.pool)
        .await?;
        let running = rows.iter().all(|(.., running)| *running);
        let owners = rows
            .into_iter()
            .map(|(name, agent, epoch, _)| (name, Owner { agent, epoch }));
        Ok((owners.collect(), running))
    }
}
