//! Notices within milliseconds that an agent is gone.
//!
//! Each agent holds an advisory lock on its own name. Its neighbour waits for that lock, in the
//! server, in short slices; when the wait is over the agent is gone, because nothing else frees
//! the lock. The watcher tells everybody, and all look at the fleet at once. The periodic
//! discovery stays as the fallback.

use tide_catalog::{
    CatalogError, PgConnection,
    agents::{agent_gone, announce_gone},
    connection::Server,
};
use tide_daemon::backoff::Backoff;
use tide_model::{AgentName, GroupName};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tracing::{debug, info};

/// Watches whom `neighbour` names, and sends the names of those that are gone.
pub(crate) async fn run(
    server: Server,
    group: GroupName,
    mut neighbour: watch::Receiver<Option<AgentName>>,
    gone: mpsc::Sender<AgentName>,
) {
    let mut backoff = Backoff::new(
        std::time::Duration::from_millis(100),
        std::time::Duration::from_secs(5),
    );
    loop {
        match watch_on_one_connection(&server, &group, &mut neighbour, &gone, &mut backoff).await {
            Ok(()) => return,
            Err(error) => {
                debug!(
                    error = &error as &dyn std::error::Error,
                    "crash watch interrupted"
                );
                sleep(backoff.next()).await;
            }
        }
    }
}

/// Ends without error when nobody is interested any more.
async fn watch_on_one_connection(
    server: &Server,
    group: &GroupName,
    neighbour: &mut watch::Receiver<Option<AgentName>>,
    gone: &mpsc::Sender<AgentName>,
    backoff: &mut Backoff,
) -> Result<(), CatalogError> {
    let mut connection: Option<PgConnection> = None;
    loop {
        let watched = neighbour.borrow_and_update().clone();
        let Some(watched) = watched else {
            if neighbour.changed().await.is_err() {
                return Ok(());
            }
            continue;
        };
        let session = match &mut connection {
            Some(session) => session,
            None => connection.insert(server.connect().await?),
        };
        // The slice bounds the wait in the server; an answer that is later still means that the
        // server or the network is gone.
        let patience = tide_catalog::agents::WATCH_SLICE * 5;
        let is_gone = timeout(patience, agent_gone(session, group, &watched))
            .await
            .unwrap_or(Err(CatalogError::Timeout(patience)))?;
        backoff.reset();
        if !is_gone {
            if neighbour.has_changed().is_err() {
                return Ok(());
            }
            continue;
        }
        info!(agent = %watched, "agent is gone");
        if gone.send(watched.clone()).await.is_err() {
            return Ok(());
        }
        announce_gone(session, group, &watched).await?;
        // Discovery names another neighbour, or this one again if it is back.
        let renamed = neighbour.wait_for(|now| now.as_ref() != Some(&watched));
        if let Ok(Err(_)) = timeout(tide_catalog::agents::WATCH_SLICE, renamed).await {
            return Ok(());
        }
    }
}
