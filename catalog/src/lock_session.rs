//! The one session that holds all of an agent's advisory locks.
//!
//! PostgreSQL frees session locks when the session ends, and the server itself ends a session
//! that has been idle for longer than the lease (`idle_session_timeout`). So a frozen process, a
//! cut cable or a pooler's orphan loses its locks after the lease at the latest, without anybody
//! having to kill anything. The holder pings at a third of the lease to prevent just that.
//!
//! Session locks stack: locking twice needs unlocking twice. This type never locks what it holds,
//! except for two pipelines whose names hash alike, which share one server lock and stack on
//! purpose, so that each of them can be released on its own.

use std::{collections::BTreeSet, time::Duration};

use sqlx::{Connection, PgConnection};
use tide_model::{AgentName, GroupName, UnitName};

use crate::{CatalogError, connection::Server, error::Doing};

/// A dedicated session and the locks it holds.
pub struct LockSession {
    connection: PgConnection,
    group: GroupName,
    backend_pid: i32,
    held: BTreeSet<UnitName>,
}

impl LockSession {
    /// Opens the session. From its first moment the server ends it after `lease` without a word
    /// from us.
    pub async fn open(
        server: &Server,
        group: &GroupName,
        lease: Duration,
    ) -> Result<Self, CatalogError> {
        let lease = lease.as_millis().to_string();
        let settings = [
            ("idle_session_timeout", lease.clone()),
            // A peer that vanished without a word is noticed by the kernel as well.
            ("tcp_user_timeout", lease),
            ("tcp_keepalives_idle", "1".to_owned()),
            ("tcp_keepalives_interval", "1".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            ("statement_timeout", "0".to_owned()),
        ];
        let mut connection = server.with_settings(&settings).connect().await?;
        let backend_pid = sqlx::query_scalar("-- lock_session\nSELECT pg_backend_pid()")
            .fetch_one(&mut connection)
            .await
            .doing("opening the lock session")?;
        Ok(Self {
            connection,
            group: group.clone(),
            backend_pid,
            held: BTreeSet::new(),
        })
    }

    /// The backend, as `pg_locks` and `pg_stat_activity` name it.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// The pipelines whose locks this session holds.
    pub fn held(&self) -> &BTreeSet<UnitName> {
        &self.held
    }

    /// The session itself, for statements that must fail if the locks are gone.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Takes the lock on the agent's own name; false if another session holds it.
    pub async fn lock_name(&mut self, agent: &AgentName) -> Result<bool, CatalogError> {
        sqlx::query_scalar(
            "-- lock_name\nSELECT pg_try_advisory_lock(tide.agent_lock_class($1), hashtext($2))",
        )
        .bind(self.group.as_str())
        .bind(agent.as_str())
        .fetch_one(&mut self.connection)
        .await
        .doing("locking the agent's name")
    }

    /// Tries to lock pipelines and returns those that it got. Never waits, and leaves out what it
    /// holds already.
    pub async fn try_lock(
        &mut self,
        pipelines: &[UnitName],
    ) -> Result<Vec<UnitName>, CatalogError> {
        let wanted: Vec<&str> = pipelines
            .iter()
            .filter(|name| !self.held.contains(*name))
            .map(UnitName::as_str)
            .collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let got: Vec<i64> = sqlx::query_scalar(
            "-- try_lock\n\
             SELECT w.position FROM unnest($2::text[]) WITH ORDINALITY AS w (name, position)\n\
             WHERE pg_try_advisory_lock(hashtext($1), hashtext(w.name))",
        )
        .bind(self.group.as_str())
        .bind(&wanted)
        .fetch_all(&mut self.connection)
        .await
        .doing("locking pipelines")?;
        let wanted: Vec<UnitName> = pipelines
            .iter()
            .filter(|name| !self.held.contains(*name))
            .cloned()
            .collect();
        let locked: Vec<UnitName> = got
            .into_iter()
            .filter_map(|position| wanted.get(position as usize - 1).cloned())
            .collect();
        self.held.extend(locked.iter().cloned());
        Ok(locked)
    }

    /// Releases pipelines; what it does not hold is left alone.
    pub async fn unlock(&mut self, pipelines: &[UnitName]) -> Result<(), CatalogError> {
        let held: Vec<&str> = pipelines
            .iter()
            .filter(|name| self.held.contains(*name))
            .map(UnitName::as_str)
            .collect();
        let released: Vec<bool> = sqlx::query_scalar(
            "-- unlock\n\
             SELECT pg_advisory_unlock(hashtext($1), hashtext(w.name)) FROM unnest($2::text[]) AS w (name)",
        )
        .bind(self.group.as_str())
        .bind(&held)
        .fetch_all(&mut self.connection)
        .await
        .doing("unlocking pipelines")?;
        for name in pipelines {
            self.held.remove(name);
        }
        if released.contains(&false) {
            return Err(CatalogError::inconsistent(
                "pg_locks",
                "granted",
                "a lock that we held is not ours",
            ));
        }
        Ok(())
    }

    /// Proves that the session lives, and with it every lock.
    pub async fn ping(&mut self) -> Result<(), CatalogError> {
        sqlx::query("-- ping\nSELECT 1")
            .execute(&mut self.connection)
            .await
            .map(drop)
            .doing("pinging")
    }

    /// Ends the session in good order; every lock is free when this returns.
    pub async fn close(self) -> Result<(), CatalogError> {
        self.connection
            .close()
            .await
            .doing("closing the lock session")
    }
}
