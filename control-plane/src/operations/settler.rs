//! Looks after running operations: whenever the database was read, which is every second and at
//! once after a change of intent, asks the catalog whether each is done. Only the active control
//! plane does, and its epoch keeps a former one from having the last word.

use std::{collections::BTreeSet, error::Error};

use metrics::gauge;
use tide_catalog::{CatalogError, operations};
use tide_model::{OperationId, operation::OperationState};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    database::{Database, answer},
    fleet::{FleetHandle, Stopping},
    leadership::Leadership,
    metrics::RUNNING_OPERATIONS,
};

/// Runs until the token is cancelled.
pub(crate) async fn settle(
    database: Database,
    fleet: FleetHandle,
    leadership: Leadership,
    stop: CancellationToken,
) -> Result<(), Stopping> {
    let mut reads = fleet.databases();
    let mut followed = BTreeSet::new();
    let mut trouble = None;
    loop {
        let round = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            round = settle_running(&database, &leadership, &mut followed) => round,
        };
        let failed = round.err().map(|error| (error.to_string(), error));
        if let Some((text, error)) = &failed
            && trouble.as_ref() != Some(text)
        {
            let error: &dyn Error = error;
            warn!(error, "operations could not be looked after, trying again");
        }
        trouble = failed.map(|(text, _)| text);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            read = reads.changed() => read.map_err(|_| Stopping)?,
        }
    }
}

/// One round. An operation that cannot be settled does not keep the others from it; the last error
/// is returned. `followed` is what ran in the round before: somebody else may have settled it.
async fn settle_running(
    database: &Database,
    leadership: &Leadership,
    followed: &mut BTreeSet<OperationId>,
) -> Result<(), CatalogError> {
    let Some(epoch) = leadership.confirmed() else {
        followed.clear();
        gauge!(RUNNING_OPERATIONS).set(0.0);
        return Ok(());
    };
    let mut session = database.session().await?;
    let running = operations::operation_running(session.connection(), database.group());
    followed.extend(answer(running).await?);
    let mut result = Ok(());
    for id in followed.clone() {
        match answer(operations::operation_settle_as(
            session.connection(),
            id,
            epoch,
        ))
        .await
        {
            Ok(operation) if operation.state == OperationState::Running => {}
            Ok(operation) => {
                let outcome = operation.outcome.as_deref().unwrap_or_default();
                info!(operation.id = %id, kind = %operation.kind, target = operation.target,
                      state = %operation.state, outcome, "operation ended");
                followed.remove(&id);
            }
            Err(error) => {
                if error.is_not_found() {
                    followed.remove(&id);
                }
                result = Err(error);
                // After a timeout the session is still busy with it.
                session = database.session().await?;
            }
        }
    }
    gauge!(RUNNING_OPERATIONS).set(followed.len() as f64);
    session.done();
    result
}
