//! A session to the catalog that opens when it is needed, and again after it broke.

use std::time::Duration;

use tide_catalog::{PgConnection, connection::Server, schema};
use tokio::time::timeout;

use crate::error::CliError;

/// One session at a time; every use of it has a deadline.
#[derive(Debug)]
pub struct Session {
    server: Server,
    deadline: Duration,
    connection: Option<PgConnection>,
}

impl Session {
    /// A session that is not open yet.
    pub fn new(server: Server, deadline: Duration) -> Self {
        Self {
            server,
            deadline,
            connection: None,
        }
    }

    /// Opens a session now, and makes sure that this binary knows the catalog.
    pub async fn open(server: Server, deadline: Duration) -> Result<Self, CliError> {
        let mut session = Self::new(server, deadline);
        session.run(async |_| Ok(())).await?;
        Ok(session)
    }

    /// Host, port and database. Never credentials.
    pub fn label(&self) -> String {
        self.server.label()
    }

    /// Runs statements. A session that failed or took too long is not used again.
    pub async fn run<T>(
        &mut self,
        statements: impl AsyncFnOnce(&mut PgConnection) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let work = async {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => connect(&self.server).await?,
            };
            let result = statements(&mut connection).await;
            if !matches!(&result, Err(error) if error.is_transient()) {
                self.connection = Some(connection);
            }
            result
        };
        match timeout(self.deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(CliError::DatabaseSilent {
                server: self.server.label(),
                within: self.deadline,
            }),
        }
    }
}

async fn connect(server: &Server) -> Result<PgConnection, CliError> {
    let mut connection = server.connect().await?;
    schema::verify(&mut connection).await?;
    Ok(connection)
}
