//! The session that holds the lock of a role, and everything that is said on it.
//!
//! It is opened for this purpose and belongs to no pool, so nobody else can run a statement on it,
//! and it ends when it is dropped. Lease and lock are handled on this one session: if it dies
//! between the two, the server takes both back.

use std::{future::Future, time::Duration};

use sqlx::{Connection as _, PgConnection, PgPool, postgres::types::PgInterval};
use tide_model::{Epoch, NodeId};
use tokio::time::timeout;

use super::LeaderRole;
use crate::{CatalogError, connection::CONNECT_TIMEOUT, error::Doing};

/// How long the server waits for a session that it was told to end.
const TERMINATION: Duration = Duration::from_secs(2);

/// A goodbye takes no longer: the session's end frees the lock as well.
const GOODBYE: Duration = Duration::from_secs(3);

/// What became of the attempt to evict a leader that is presumed dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Preemption {
    /// Nothing to evict: the lease is alive, or whoever holds the lock is not who wrote the lease.
    NoZombie,
    /// Its session has ended.
    Evicted {
        /// The process that it belonged to.
        node_id: String,
        /// Its backend.
        backend_pid: i32,
    },
    /// The server did not do it.
    Refused {
        /// The zombie's epoch.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
}

/// A session for one lock.
pub(super) struct LeaderSession {
    connection: PgConnection,
    lease: Duration,
}

impl LeaderSession {
    /// Opens the session. From its first moment the server ends it after `lease` without a word.
    pub(super) async fn open(
        pool: &PgPool,
        role: &LeaderRole,
        lease: Duration,
    ) -> Result<Self, CatalogError> {
        let millis = lease.as_millis().to_string();
        let settings = [
            ("idle_session_timeout", millis.clone()),
            ("tcp_user_timeout", millis),
            ("tcp_keepalives_idle", "1".to_owned()),
            ("tcp_keepalives_interval", "1".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            ("statement_timeout", "0".to_owned()),
        ];
        let options = (*pool.connect_options())
            .clone()
            .application_name(&format!("tide-leader/{role}"))
            .options(settings);
        let server = format!("{}:{}", options.get_host(), options.get_port());
        let connection = timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options))
            .await
            .map_err(|_| CatalogError::Timeout(CONNECT_TIMEOUT))?
            .map_err(|source| CatalogError::Connect { server, source })?;
        Ok(Self { connection, lease })
    }

    /// Tries to get the lock; never waits for it.
    pub(super) async fn try_lock(&mut self, role: &LeaderRole) -> Result<bool, CatalogError> {
        let locked = sqlx::query_scalar(
            "-- leader_try_lock\n\
             SELECT pg_try_advisory_lock(tide.leader_lock_class($1), hashtext($2))",
        )
        .bind(role.name())
        .bind(role.group())
        .fetch_one(&mut self.connection);
        answered(self.lease, locked, "locking the role").await
    }

    /// Draws an epoch and writes the lease; the lock is held.
    pub(super) async fn take(
        &mut self,
        role: &LeaderRole,
        node_id: &NodeId,
        address: Option<&str>,
    ) -> Result<Epoch, CatalogError> {
        let taken =
            sqlx::query_scalar("-- leader_take\nSELECT tide.leader_take($1, $2, $3, $4, $5)")
                .bind(role.name())
                .bind(role.group())
                .bind(node_id.as_str())
                .bind(address)
                .bind(interval(self.lease))
                .fetch_one(&mut self.connection);
        answered(self.lease, taken, "taking the lead")
            .await
            .map(Epoch)
    }

    /// Whether the server knows this session as the holder of the lock.
    pub(super) async fn holds(&mut self, role: &LeaderRole) -> Result<bool, CatalogError> {
        let holds = sqlx::query_scalar(
            "-- leader_validate\n\
             SELECT coalesce(tide.leader_lock_holder($1, $2) = pg_backend_pid(), false)",
        )
        .bind(role.name())
        .bind(role.group())
        .fetch_one(&mut self.connection);
        answered(self.lease, holds, "validating the lock of the role").await
    }

    /// Extends the lease; false if the lock is gone or a newer epoch exists.
    pub(super) async fn renew(
        &mut self,
        role: &LeaderRole,
        epoch: Epoch,
    ) -> Result<bool, CatalogError> {
        let renewed =
            sqlx::query_scalar("-- leader_renew\nSELECT tide.leader_renew($1, $2, $3, $4)")
                .bind(role.name())
                .bind(role.group())
                .bind(epoch.0)
                .bind(interval(self.lease))
                .fetch_one(&mut self.connection);
        answered(self.lease, renewed, "renewing the lease").await
    }

    /// Says something.
    pub(super) async fn ping(&mut self) -> Result<(), CatalogError> {
        let answer = sqlx::query_scalar::<_, i32>("-- leader_keepalive\nSELECT 1")
            .fetch_one(&mut self.connection);
        answered(self.lease, answer, "keeping the session alive")
            .await
            .map(drop)
    }

    /// Gives the role up and wakes whoever waits for it.
    pub(super) async fn release(
        &mut self,
        role: &LeaderRole,
        epoch: Epoch,
    ) -> Result<(), CatalogError> {
        let released = sqlx::query("-- leader_release\nSELECT tide.leader_release($1, $2, $3)")
            .bind(role.name())
            .bind(role.group())
            .bind(epoch.0)
            .execute(&mut self.connection);
        answered(GOODBYE, released, "giving the lead up")
            .await
            .map(drop)
    }

    /// Ends the session that holds the lock, if its lease has run out and it is the one that wrote
    /// that lease: anything else that holds the lock is in the middle of taking it.
    pub(super) async fn preempt(&mut self, role: &LeaderRole) -> Result<Preemption, CatalogError> {
        let zombie = sqlx::query_as(
            "-- leader_zombie\n\
             SELECT node_id, epoch, backend_pid FROM tide.leader_list()\n\
             WHERE role = $1 AND relay_group_id = $2 AND NOT lease_alive AND lock_held",
        )
        .bind(role.name())
        .bind(role.group())
        .fetch_optional(&mut self.connection);
        let zombie: Option<(String, i64, i32)> =
            answered(self.lease, zombie, "looking for a zombie").await?;
        let Some((node_id, epoch, backend_pid)) = zombie else {
            return Ok(Preemption::NoZombie);
        };
        let ended =
            sqlx::query_scalar("-- leader_preempt\nSELECT pg_terminate_backend($1, $2::bigint)")
                .bind(backend_pid)
                .bind(TERMINATION.as_millis() as i64)
                .fetch_one(&mut self.connection);
        let ended = answered(self.lease + TERMINATION, ended, "ending a zombie's session").await;
        match ended {
            Ok(true) => Ok(Preemption::Evicted {
                node_id,
                backend_pid,
            }),
            Ok(false) => Ok(Preemption::Refused {
                epoch: Epoch(epoch),
                reason: "its session is gone already, or does not end".to_owned(),
            }),
            Err(error) if error.is_permission_denied() => Ok(Preemption::Refused {
                epoch: Epoch(epoch),
                reason: error.to_string(),
            }),
            Err(error) => Err(error),
        }
    }

    /// Ends the session in good order.
    pub(super) async fn close(self) -> Result<(), CatalogError> {
        let closed = self.connection.close();
        answered(GOODBYE, closed, "closing the leader's session").await
    }
}

/// Waits for the server, but never longer than `patience`: by then it has ended the session.
async fn answered<T>(
    patience: Duration,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
    doing: &'static str,
) -> Result<T, CatalogError> {
    timeout(patience, statement)
        .await
        .map_err(|_| CatalogError::Timeout(patience))?
        .doing(doing)
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: duration.as_micros() as i64,
    }
}
