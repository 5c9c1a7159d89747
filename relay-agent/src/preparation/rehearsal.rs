//! Goes through what a new owner asks of the database, on nothing.
//!
//! A session that is new plans each statement once and reads the system catalogs for it, which takes
//! several times as long as the statement itself. Where an owner is about to hand over, that time
//! passes while it still delivers.

use std::collections::BTreeSet;

use tide_catalog::{
    CatalogError, PgPool,
    messages::{Source, read_nothing},
    offsets::{offsets_advance, offsets_set_state},
};
use tide_model::GroupName;
use tokio::task::JoinSet;
use tracing::debug;

/// Outboxes whose statements are gone through at most.
const MOST: usize = 16;

/// Goes through it on as many sessions as the pool may have, at the same time, so that each of them
/// is one of them.
pub(super) async fn rehearse(pool: &PgPool, group: &GroupName, sources: BTreeSet<Source>) {
    let sources: Vec<Source> = sources.into_iter().take(MOST).collect();
    let mut sessions = JoinSet::new();
    for _ in 0..pool.options().get_max_connections() {
        let (pool, group, sources) = (pool.clone(), group.clone(), sources.clone());
        sessions.spawn(async move { one_session(&pool, &group, &sources).await });
    }
    while let Some(rehearsed) = sessions.join_next().await {
        if let Ok(Err(error)) = rehearsed {
            debug!(
                error = &error as &dyn std::error::Error,
                "could not make a session ready"
            );
        }
    }
}

async fn one_session(
    pool: &PgPool,
    group: &GroupName,
    sources: &[Source],
) -> Result<(), CatalogError> {
    let mut session = pool
        .acquire()
        .await
        .map_err(|source| CatalogError::Database {
            doing: "preparing a hand-over",
            source,
        })?;
    offsets_advance(&mut session, group, &[]).await?;
    offsets_set_state(&mut session, group, &[]).await?;
    for source in sources {
        read_nothing(&mut session, source).await?;
    }
    Ok(())
}
