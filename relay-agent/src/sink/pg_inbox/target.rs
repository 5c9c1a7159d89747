//! Where the inbox is: in the outbox's own database, or away.

use std::io;

use sqlx::{PgConnection, pool::PoolConnection};
use tide_catalog::{
    CatalogError,
    connection::Server,
    inboxes::{Whereabouts, inbox_find, whereabouts},
};
use tracing::info;

use super::{Context, Settings, SinkError, judge};
use crate::sink::{Home, secret};

const APPLICATION: &str = "tide-agent/inbox";
/// The outbox's own database, for people.
const HOME: &str = "the outbox's database";

/// Where to write, and on which session.
pub(super) enum Target {
    /// The outbox's own database.
    Home(Home),
    /// Another one, and its session while it works.
    Away(Box<Server>, Option<PgConnection>),
}

/// A session that is being used.
pub(super) enum Session {
    Home(PoolConnection<sqlx::Postgres>),
    Away(PgConnection),
}

impl Target {
    /// Finds out where the inbox is and looks whether it is there.
    pub(super) async fn open(
        settings: &Settings,
        context: &Context,
    ) -> Result<(Self, String), SinkError> {
        let mut target = Self::find(settings, context).await?;
        let label = target.label();
        let failed = |error: CatalogError| judge::failed(&error, &settings.inbox, &label);
        let mut session = target.session().await.map_err(failed)?;
        let relation = inbox_find(session.connection(), &settings.inbox).await;
        match relation.map_err(failed)? {
            Some(relation) => {
                target.give_back(session);
                Ok((target, relation))
            }
            None => Err(judge::missing(&settings.inbox, &label)),
        }
    }

    async fn find(settings: &Settings, context: &Context) -> Result<Self, SinkError> {
        let home = Self::Home(context.home.clone());
        let Some(url) = &settings.postgres_url else {
            return Ok(home);
        };
        let url = secret::resolve_url("postgres_url", url)?;
        let server = Server::parse(&url, APPLICATION)
            .map_err(|_| SinkError::misconfigured("postgres_url is no PostgreSQL URL"))?;
        let mut away = Self::Away(Box::new(server), None);
        let mut home = home;
        // The server of the outbox may restart in between: then it is not who it was.
        let before = home.whereabouts(settings).await?;
        let there = away.whereabouts(settings).await?;
        if home.whereabouts(settings).await? != before {
            return Err(SinkError::transient(
                "the outbox's server restarted; looking again",
            ));
        }
        if there == before {
            info!(pipeline.id = %context.pipeline, "the inbox is in the outbox's own database: exactly once");
            return Ok(home);
        }
        Ok(away)
    }

    async fn whereabouts(&mut self, settings: &Settings) -> Result<Whereabouts, SinkError> {
        let label = self.label();
        let failed = |error: CatalogError| judge::failed(&error, &settings.inbox, &label);
        let mut session = self.session().await.map_err(failed)?;
        let found = whereabouts(session.connection()).await.map_err(failed)?;
        self.give_back(session);
        Ok(found)
    }

    /// Where it is, for messages. Never credentials.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Home(_) => HOME.to_owned(),
            Self::Away(server, _) => server.label(),
        }
    }

    /// A session to write on.
    pub(super) async fn session(&mut self) -> Result<Session, CatalogError> {
        match self {
            Self::Home(home) => {
                let connection = home.pool().acquire().await;
                connection
                    .map(Session::Home)
                    .map_err(|source| CatalogError::Database {
                        doing: "connecting for the inbox",
                        source,
                    })
            }
            Self::Away(server, idle) => match idle.take() {
                Some(connection) => Ok(Session::Away(connection)),
                None => server.connect().await.map(Session::Away).map_err(|error| {
                    // Of a server that has said nothing yet it means that there is no way to it.
                    match error {
                        CatalogError::Timeout(_) => CatalogError::Connect {
                            server: server.label(),
                            source: io::Error::from(io::ErrorKind::TimedOut).into(),
                        },
                        other => other,
                    }
                }),
            },
        }
    }

    /// Keeps a session for the next time. One that is not given back, because whoever used it was
    /// dropped or timed out, is closed with it.
    pub(super) fn give_back(&mut self, session: Session) {
        match (self, session) {
            (Self::Away(_, idle), Session::Away(connection)) => *idle = Some(connection),
            // The pool takes its own back.
            (_, session) => drop(session),
        }
    }
}

impl Session {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Home(connection) => connection,
            Self::Away(connection) => connection,
        }
    }

    /// Closes it.
    pub(super) fn discard(self) {
        match self {
            Self::Home(connection) => drop(connection.detach()),
            Self::Away(connection) => drop(connection),
        }
    }
}
