//! What a fleet needs around it: PostgreSQL, a broker, an endpoint for webhooks, a directory.

use std::{env, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use tide_sandbox::{
    http::Receiver,
    kafka::{MockBroker, Topic, create_topics, delete_topics},
    leftovers::Scratch,
    postgres::{Postgres, PostgresOptions},
    process::ProcessSpec,
};

use super::{
    PATIENCE,
    pipelines::{self, Addresses, Plan},
};

/// The database that holds the catalog.
const DATABASE: &str = "tide";
/// The subcommand of this program that is a mock broker.
const BROKER_COMMAND: &str = "dev-broker";
/// What a fleet that runs for hours remembers of the requests to its webhooks.
const REMEMBERED_REQUESTS: usize = 1_000;

/// Everything around the agents; dropping it ends it, the directory last.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) plans: Vec<Plan>,
    pub(super) receiver: Arc<Receiver>,
    pub(super) kafka: Kafka,
    pub(super) postgres: Postgres,
    pub(super) postgres_url: String,
    pub(super) sinks: PathBuf,
    pub(super) scratch: Scratch,
}

/// Where messages for Kafka go.
#[derive(Debug)]
pub(super) enum Kafka {
    /// librdkafka's mock cluster, in a process of its own.
    Mock(Box<MockBroker>),
    /// A cluster of the user's, and what we made in it.
    Real {
        bootstrap: String,
        topics: Vec<Topic>,
    },
}

/// What the surroundings depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs<'a> {
    /// A cluster to use instead of a mock.
    pub(super) brokers: Option<&'a str>,
    pub(super) agents: u16,
    /// Whether everything that arrives is asked for later.
    pub(super) settled: Settled,
}

/// Whether accounts are settled in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    InTheEnd,
    Never,
}

impl Surroundings {
    /// Starts everything at once.
    pub(super) async fn start(needs: Needs<'_>) -> anyhow::Result<Self> {
        let scratch = Scratch::create("dev").await?;
        let sinks = scratch.directory("sinks")?;
        let label = scratch
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        // In somebody's own Kafka, our topics must be told from theirs.
        let prefix = needs
            .brokers
            .map_or_else(String::new, |_| format!("tide-{label}-"));
        let plans = pipelines::plans(&prefix, &sinks);
        let postgres = Postgres::start(PostgresOptions {
            // Seven sessions an agent; the rest is for everybody else.
            max_connections: 60 + 10 * u32::from(needs.agents),
            scratch: Some(scratch.clone()),
            ..PostgresOptions::default()
        });
        let kafka = Kafka::start(needs.brokers, pipelines::topics(&plans), &scratch);
        let receiver = match needs.settled {
            Settled::InTheEnd => Receiver::start().await,
            Settled::Never => Receiver::start_forgetful(REMEMBERED_REQUESTS).await,
        };
        let receiver = receiver?;
        let (postgres, kafka) = tokio::try_join!(
            async { postgres.await.context("could not start PostgreSQL") },
            async { kafka.await.context("could not set up Kafka") },
        )?;
        let postgres_url = postgres.create_database(DATABASE).await?;
        Ok(Self {
            plans,
            receiver: Arc::new(receiver),
            kafka,
            postgres,
            postgres_url,
            sinks,
            scratch,
        })
    }

    /// Where the pipelines find their sinks.
    pub(super) fn addresses(&self) -> Addresses {
        Addresses {
            brokers: self.kafka.bootstrap().to_owned(),
            webhooks: self.receiver.url(""),
        }
    }

    /// Ends it in good order; what cannot be ended so is reported, and ends with the drop.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        let kafka = self.kafka.stop().await;
        self.postgres
            .stop_fast()
            .await
            .context("could not stop PostgreSQL")?;
        kafka
    }
}

impl Kafka {
    async fn start(
        brokers: Option<&str>,
        topics: Vec<Topic>,
        scratch: &Scratch,
    ) -> anyhow::Result<Self> {
        if let Some(bootstrap) = brokers {
            create_topics(bootstrap, &topics).await?;
            return Ok(Self::Real {
                bootstrap: bootstrap.to_owned(),
                topics,
            });
        }
        let own = env::current_exe().context("could not find this program's own file")?;
        let names = topics
            .iter()
            .map(|topic| format!("{}:{}", topic.name, topic.partitions));
        let args = std::iter::once(BROKER_COMMAND.to_owned()).chain(names);
        let spec = ProcessSpec {
            args: args.map(Into::into).collect(),
            ..ProcessSpec::new("kafka", own, scratch)
        };
        Ok(Self::Mock(Box::new(MockBroker::spawn(spec).await?)))
    }

    /// The address for `bootstrap.servers`.
    pub(super) fn bootstrap(&self) -> &str {
        match self {
            Self::Mock(broker) => broker.bootstrap(),
            Self::Real { bootstrap, .. } => bootstrap,
        }
    }

    /// What it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Mock(_) => "librdkafka's mock cluster",
            Self::Real { .. } => "yours",
        }
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Mock(broker) => {
                broker.process().terminate()?;
                broker.process().wait(PATIENCE).await?;
            }
            Self::Real { bootstrap, topics } => delete_topics(bootstrap, topics).await?,
        }
        Ok(())
    }
}
