//! Hears from PostgreSQL that something changed, so that nobody waits for the next look. Every
//! notice may be lost: the hub looks every second anyway.

use std::{error::Error, time::Duration};

use tide_catalog::{
    CatalogError,
    listener::{Listener, Notice},
};
use tide_daemon::Backoff;
use tide_model::GroupName;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{database::Database, fleet::FleetHandle};

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Listens until the token is cancelled.
pub(crate) async fn listen(
    database: Database,
    fleet: FleetHandle,
    stop: CancellationToken,
) -> Result<(), CatalogError> {
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let mut deaf = false;
    while !stop.is_cancelled() {
        let heard = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            heard = listen_once(&database, &fleet, &mut backoff, &mut deaf) => heard,
        };
        if let Err(error) = heard
            && !deaf
        {
            let error: &dyn Error = &error;
            warn!(
                error,
                "notices of PostgreSQL are not heard, looking every second"
            );
            deaf = true;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(backoff.next()) => {}
        }
    }
    Ok(())
}

/// Listens on one connection until it fails.
async fn listen_once(
    database: &Database,
    fleet: &FleetHandle,
    backoff: &mut Backoff,
    deaf: &mut bool,
) -> Result<(), CatalogError> {
    let server = database
        .server()
        .with_application("tide-control-plane listener");
    let mut listener = Listener::connect(&server).await?;
    backoff.reset();
    if *deaf {
        info!("notices of PostgreSQL are heard again");
        *deaf = false;
    }
    // What happened before this moment was not heard.
    fleet.intent_changed();
    loop {
        let notice = listener.next().await?;
        let ours = |group: &GroupName| group == database.group();
        match notice {
            Notice::Config => fleet.look_again(),
            Notice::Intent(group) if ours(&group) => fleet.intent_changed(),
            Notice::Joined(group, _) | Notice::Gone(group, _) | Notice::Released(group, _, _)
                if ours(&group) =>
            {
                fleet.look_again();
            }
            Notice::Reconnected => fleet.intent_changed(),
            // Another group's, or agents that make ready: nothing has changed hands yet.
            Notice::Intent(_)
            | Notice::Joined(..)
            | Notice::Gone(..)
            | Notice::Released(..)
            | Notice::Prepare(_)
            | Notice::Ready(_) => {}
        }
    }
}
