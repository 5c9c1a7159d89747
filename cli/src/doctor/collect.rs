//! Asks everybody; decides nothing.

use std::time::Duration;

use tide_catalog::{
    CatalogError, PgConnection,
    connection::Server as Address,
    fleet::{Lag, read_view},
    leader::{LeaderRole, leader},
    pipelines::pipeline_list,
    preflight, rights, schema,
};
use tide_model::GroupName;
use time::OffsetDateTime;
use tokio::time::timeout;

use super::facts::{
    Answer, Asked, Clock, ControlPlane, Database, Facts, Fleet, LEASE, Pooler, Rights, Server,
};
use crate::{args::Part, context::Context, error::CliError, source};

/// Asks everybody. Fails only if it is not known whom to ask.
pub(crate) async fn collect(context: &Context, part: Option<Part>) -> Result<Facts, CliError> {
    let settings = &context.settings;
    let address = settings.server()?;
    let asker = Asker {
        address: &address,
        patience: settings.timeout,
    };
    let (database, control_planes) =
        tokio::join!(asker.database(&settings.group), source::ask_each(context));
    Ok(Facts {
        group: settings.group.clone(),
        part,
        database: (address.label(), database),
        control_planes: control_planes?
            .into_iter()
            .map(|(address, answer)| ControlPlane {
                address,
                answer: heard(answer),
            })
            .collect(),
    })
}

fn heard(answer: Result<GroupName, CliError>) -> Answer {
    match answer {
        Ok(group) => Answer::Active(group),
        Err(error) => match error.leader() {
            Some(leader) => Answer::Standby(leader.to_owned()),
            None => Answer::Trouble(error.into()),
        },
    }
}

/// Asks one server, and waits for no answer for longer than the operator wants to.
struct Asker<'a> {
    address: &'a Address,
    patience: Duration,
}

impl Asker<'_> {
    async fn database(&self, group: &GroupName) -> Asked<Database> {
        let mut connection = self.answered(self.address.connect()).await?;
        let pooler = match self.in_time(self.address.check_pooler()).await {
            Ok(Ok(())) => Pooler::None,
            Ok(Err(CatalogError::Pooler)) => Pooler::Found,
            Ok(Err(error)) => Pooler::Unknown(CliError::from(error).into()),
            Err(problem) => Pooler::Unknown(problem),
        };
        let server = match pooler {
            Pooler::Found => None,
            Pooler::None | Pooler::Unknown(_) => {
                Some(Box::new(self.server(&mut connection, group).await?))
            }
        };
        Ok(Database { pooler, server })
    }

    async fn server(&self, connection: &mut PgConnection, group: &GroupName) -> Asked<Server> {
        // The first answer pays for preparing the statement, the second only for the way.
        self.answered(preflight::clock(connection)).await?;
        let asked = OffsetDateTime::now_utc();
        let clock = self.answered(preflight::clock(connection)).await?;
        let clock = Clock::of(asked, clock, OffsetDateTime::now_utc());
        let facts = self.answered(preflight::server_facts(connection)).await;
        let lease = preflight::lease_in_force(self.address, LEASE);
        let lease = self.answered(lease).await;
        let catalog = self.answered(schema::verify(connection)).await;
        let (mut found_rights, mut fleet) = (None, None);
        if catalog.is_ok() {
            found_rights = Some(self.answered(all_rights(connection)).await);
            fleet = Some(self.answered(whole_fleet(connection, group)).await);
        }
        Ok(Server {
            clock,
            facts,
            lease,
            catalog,
            rights: found_rights,
            fleet,
        })
    }

    async fn answered<T>(
        &self,
        question: impl Future<Output = Result<T, CatalogError>>,
    ) -> Asked<T> {
        let answer = self.in_time(question).await?;
        answer.map_err(|error| CliError::from(error).into())
    }

    async fn in_time<T>(&self, question: impl Future<Output = T>) -> Asked<T> {
        timeout(self.patience, question).await.map_err(|_| {
            let server = self.address.label();
            let within = self.patience;
            CliError::DatabaseSilent { server, within }.into()
        })
    }
}

async fn all_rights(connection: &mut PgConnection) -> Result<Rights, CatalogError> {
    Ok(Rights {
        agent: rights::missing_agent(connection).await?,
        operator: rights::missing_operator(connection).await?,
        publisher: rights::missing_publisher(connection).await?,
    })
}

async fn whole_fleet(
    connection: &mut PgConnection,
    group: &GroupName,
) -> Result<Fleet, CatalogError> {
    let role = LeaderRole::ControlPlane(group.clone());
    Ok(Fleet {
        view: read_view(connection, group, Lag::Skip).await?,
        pipelines: pipeline_list(connection).await?,
        leader: leader(connection, &role).await?,
    })
}
