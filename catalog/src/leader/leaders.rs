//! Who leads, as everybody can read it.

use sqlx::{FromRow, PgConnection};
use tide_model::{Epoch, NodeId};
use time::OffsetDateTime;

use super::LeaderRole;
use crate::{CatalogError, error::Doing, fleet::parse};

/// What a leader wrote about itself, and what the server says about that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderInfo {
    /// The process.
    pub node_id: NodeId,
    /// Where others reach it, if they can.
    pub address: Option<String>,
    /// Its fencing token.
    pub epoch: Epoch,
    /// The session that took the lock.
    pub backend_pid: i32,
    /// Since when.
    pub acquired_at: OffsetDateTime,
    /// Until when its lease was paid.
    pub lease_until: OffsetDateTime,
    /// Whether that is still to come, by the server's clock.
    pub lease_alive: bool,
    /// Whether that very session holds the lock now.
    pub lock_held: bool,
}

impl LeaderInfo {
    /// Whether it works as far as one can see from outside.
    pub fn is_healthy(&self) -> bool {
        self.lease_alive && self.lock_held
    }
}

/// The leader of a role, or the last one that did not say goodbye.
pub async fn leader(
    connection: &mut PgConnection,
    role: &LeaderRole,
) -> Result<Option<LeaderInfo>, CatalogError> {
    let found: Option<Record> = sqlx::query_as(
        "-- leader\n\
         SELECT node_id, address, epoch, backend_pid, acquired_at, lease_until, lease_alive, lock_held\n\
         FROM tide.leader_list() WHERE role = $1 AND relay_group_id = $2",
    )
    .bind(role.name())
    .bind(role.group())
    .fetch_optional(connection)
    .await
    .doing("looking for the leader")?;
    found.map(TryInto::try_into).transpose()
}

#[derive(FromRow)]
struct Record {
    node_id: String,
    address: Option<String>,
    epoch: i64,
    backend_pid: i32,
    acquired_at: OffsetDateTime,
    lease_until: OffsetDateTime,
    lease_alive: bool,
    lock_held: bool,
}

impl TryFrom<Record> for LeaderInfo {
    type Error = CatalogError;

    fn try_from(record: Record) -> Result<Self, CatalogError> {
        Ok(Self {
            node_id: parse("leaders", "node_id", &record.node_id)?,
            address: record.address,
            epoch: Epoch(record.epoch),
            backend_pid: record.backend_pid,
            acquired_at: record.acquired_at,
            lease_until: record.lease_until,
            lease_alive: record.lease_alive,
            lock_held: record.lock_held,
        })
    }
}
