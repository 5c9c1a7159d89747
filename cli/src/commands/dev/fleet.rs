//! The whole throw-away fleet: started in order, looked at, stopped in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use tide_catalog::{PgConnection, connection::Server, fleet::database_view, schema};
use tide_model::{
    AgentName, Epoch, GroupName, PipelineState, UnitName,
    fleet::{DatabaseView, FleetView},
};
use tide_sandbox::{binaries, wait::eventually};
use tokio::time::sleep;

use super::{
    PATIENCE,
    agents::{self, Agents, Orders},
    args::DevArgs,
    control::{self, Control},
    pipelines,
    story::Story,
    surroundings::{Needs, Settled, Surroundings},
};
use crate::{
    output::humanize::counted,
    source::{Database, Session, Source},
};

/// The name in `pg_stat_activity`.
const APPLICATION: &str = "tidectl dev";
/// One answer of the database may take this long.
const ANSWER: Duration = Duration::from_secs(10);
/// The pause between two looks at the fleet.
const POLL: Duration = Duration::from_millis(30);

/// Everything that runs. Dropping it kills it; [`stop`](Self::stop) ends it in good order.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) agents: Agents,
    pub(super) control: Option<Control>,
    pub(super) surroundings: Surroundings,
    group: GroupName,
    server: Server,
    session: Session,
}

impl Fleet {
    /// Starts everything and returns when every pipeline runs where it belongs.
    pub(super) async fn start(
        args: &DevArgs,
        group: &GroupName,
        story: &mut Story,
    ) -> anyhow::Result<Self> {
        // What is missing is told before anything is started.
        binaries::find(agents::PROGRAM)?;
        if !args.without_control_plane {
            binaries::find(control::PROGRAM)?;
        }
        let settled = match args.scenario {
            Some(_) => Settled::InTheEnd,
            None => Settled::Never,
        };
        let surroundings = Surroundings::start(Needs {
            brokers: args.brokers.as_deref(),
            agents: args.agents,
            settled,
        })
        .await?;
        let port = surroundings.postgres.port();
        story.tell(format_args!("PostgreSQL listens on 127.0.0.1:{port}"));
        let kafka = &surroundings.kafka;
        story.tell(format_args!(
            "Kafka is at {} ({})",
            kafka.bootstrap(),
            kafka.kind()
        ));

        let server = Server::parse(&surroundings.postgres_url, APPLICATION)?;
        let mut connection = server.connect().await?;
        schema::migrate(&mut connection)
            .await
            .context("could not install the catalog")?;
        let plans = &surroundings.plans;
        pipelines::create(&mut connection, plans, &surroundings.addresses())
            .await
            .context("could not create the pipelines")?;
        story.tell(format_args!(
            "catalog installed; {} on {}",
            counted(plans.len(), "pipeline"),
            pipelines::OUTBOXES.join(", "),
        ));

        let orders = Orders {
            group,
            postgres_url: &surroundings.postgres_url,
            control_plane: None,
        };
        let scratch = &surroundings.scratch;
        let control = (!args.without_control_plane)
            .then(|| Control::start(orders, scratch))
            .transpose()
            .context("could not start the control plane")?;
        let url = control.as_ref().map(Control::url);
        let orders = Orders {
            control_plane: url.as_deref(),
            ..orders
        };
        let agents = Agents::start(args.agents, orders, scratch)?;
        let session = Session::open(server.clone(), ANSWER).await?;
        let mut fleet = Self {
            agents,
            control,
            surroundings,
            group: group.clone(),
            server,
            session,
        };
        fleet.ready(story).await?;
        Ok(fleet)
    }

    async fn ready(&mut self, story: &mut Story) -> anyhow::Result<()> {
        let expected: BTreeSet<AgentName> = self.agents.running().into_keys().collect();
        self.until("every pipeline to run", |view| {
            alive(view, &expected)?;
            in_place(view)
        })
        .await?;
        story.tell(format_args!(
            "every pipeline runs, shared by {}",
            counted(expected.len(), "agent")
        ));
        if let Some(control) = &mut self.control {
            control.ready(|fleet| reporting(fleet, &expected)).await?;
            story.tell(format_args!(
                "the control plane answers at {}",
                control.url()
            ));
        }
        Ok(())
    }

    /// What PostgreSQL knows now.
    pub(super) async fn view(&mut self) -> anyhow::Result<DatabaseView> {
        look(&mut self.session, &self.group).await
    }

    /// Whom an operator would ask: the control plane, or without one the database.
    pub(super) async fn source(&self) -> anyhow::Result<Source> {
        if let Some(control) = &self.control {
            return control.connect().await;
        }
        let session = Session::open(self.server.clone(), ANSWER).await?;
        Ok(Source::Database(Box::new(Database::new(
            session,
            self.group.clone(),
        ))))
    }

    /// Waits until what PostgreSQL knows is as `judge` wants it; what is missing is its error.
    ///
    /// Fails at once when an agent falls that should run.
    pub(super) async fn until<T>(
        &mut self,
        what: &str,
        judge: impl Fn(&DatabaseView) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        eventually(PATIENCE, what, async || {
            if let Some(fallen) = self.agents.fallen().pop() {
                return Ok(Some(Err(fallen.into())));
            }
            let view = look(&mut self.session, &self.group).await?;
            match judge(&view) {
                Ok(seen) => Ok(Some(Ok(seen))),
                Err(missing) => {
                    sleep(POLL).await;
                    Err(anyhow::Error::msg(missing))
                }
            }
        })
        .await?
    }

    /// Stops everything in order, and returns where its directory was kept, if it was.
    ///
    /// All is tried even if some of it fails; the first failure is returned.
    pub(super) async fn stop(mut self, keep: bool) -> anyhow::Result<Option<PathBuf>> {
        let agents = self.agents.stop().await;
        let control = match &mut self.control {
            Some(control) => control.stop().await,
            None => Ok(()),
        };
        let surroundings = self.surroundings.stop().await;
        let kept = keep
            .then(|| self.surroundings.scratch.clone().keep())
            .transpose()?;
        agents.and(control).and(surroundings).map(|()| kept)
    }
}

async fn look(session: &mut Session, group: &GroupName) -> anyhow::Result<DatabaseView> {
    let read = async |connection: &mut PgConnection| Ok(database_view(connection, group).await?);
    Ok(session.run(read).await?)
}

/// Whether these agents hold their names, and no other.
pub(super) fn alive(view: &DatabaseView, expected: &BTreeSet<AgentName>) -> Result<(), String> {
    let alive: BTreeSet<AgentName> = view
        .agents
        .iter()
        .filter(|agent| agent.alive)
        .map(|agent| agent.name.clone())
        .collect();
    if alive == *expected {
        return Ok(());
    }
    Err(format!("of {expected:?} alive are {alive:?}"))
}

/// Whether every pipeline runs, and where everybody's calculation says that it belongs.
pub(super) fn in_place(view: &DatabaseView) -> Result<(), String> {
    let assignments = view.assignments();
    for row in view.pipelines.iter().filter(|row| row.enabled) {
        let wanted = assignments
            .get(&row.name)
            .map(|assignment| &assignment.agent);
        if row.owner.is_none() || row.owner.as_ref() != wanted {
            return Err(format!(
                "{} is with {:?}, not with {wanted:?}",
                row.name, row.owner
            ));
        }
        if row.state != Some(PipelineState::Running) {
            return Err(format!(
                "{} is {:?}: {:?}",
                row.name, row.state, row.state_reason
            ));
        }
    }
    Ok(())
}

/// What an agent owns, and under which epochs.
pub(super) fn owned(view: &DatabaseView, agent: &AgentName) -> BTreeMap<UnitName, Epoch> {
    let rows = view
        .pipelines
        .iter()
        .filter(|row| row.owner.as_ref() == Some(agent));
    rows.filter_map(|row| Some((row.name.clone(), row.epoch?)))
        .collect()
}

/// Whether these agents report to the control plane.
pub(super) fn reporting(fleet: &FleetView, expected: &BTreeSet<AgentName>) -> Result<(), String> {
    let silent = expected.iter().find(|name| {
        !fleet
            .agents
            .iter()
            .any(|agent| agent.name == **name && agent.reporting)
    });
    match silent {
        None => Ok(()),
        Some(name) => Err(format!("{name} does not report")),
    }
}
