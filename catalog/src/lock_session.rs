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

use std::{collections::BTreeSet, fmt, time::Duration};

use sqlx::PgConnection;
use tide_model::{AgentName, GroupName, HandoverKind, Incarnation, UnitName};
use tracing::debug;

use crate::{
    CatalogError, attentive::AttentiveSession, connection::Server, error::Doing,
    handovers::Departure, offsets::offsets_claim,
};

/// Where a session has ended up. After a failover the same address leads to another timeline;
/// after a restore, to another system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// The cluster's `system_identifier`.
    pub system: i64,
    /// Rises with every promotion.
    pub timeline: i64,
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.system, self.timeline)
    }
}

/// What became of an attempt to lock pipelines; those in neither list are held by others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Held from now on.
    pub locked: Vec<UnitName>,
    /// The server's lock table had no room for them.
    pub full: Vec<UnitName>,
}

/// A dedicated session and the locks it holds.
pub struct LockSession {
    session: AttentiveSession,
    group: GroupName,
    backend_pid: i32,
    home: Home,
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
            // For whoever freezes between two statements of one transaction.
            ("idle_in_transaction_session_timeout", lease.clone()),
            // A peer that vanished without a word is noticed by the kernel as well.
            ("tcp_user_timeout", lease),
            ("tcp_keepalives_idle", "1".to_owned()),
            ("tcp_keepalives_interval", "1".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            ("statement_timeout", "0".to_owned()),
        ];
        let mut session = AttentiveSession::open(&server.with_settings(&settings)).await?;
        // A standby grants advisory locks too, its own, which mean nothing to anybody.
        let (backend_pid, standby, system, timeline): (i32, bool, i64, Option<i64>) = sqlx::query_as(
            "-- lock_session\n\
             SELECT pg_backend_pid(), pg_is_in_recovery(),\n\
                    (SELECT c.system_identifier FROM pg_control_system() c),\n\
                    CASE WHEN NOT pg_is_in_recovery()\n\
                         THEN ('x' || lpad(left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), 16, '0'))::bit(64)::bigint END",
        )
        .fetch_one(session.connection().await?)
        .await
        .doing("opening the lock session")?;
        let (false, Some(timeline)) = (standby, timeline) else {
            return Err(CatalogError::Standby);
        };
        Ok(Self {
            session,
            group: group.clone(),
            backend_pid,
            home: Home { system, timeline },
            held: BTreeSet::new(),
        })
    }

    /// The backend, as `pg_locks` and `pg_stat_activity` name it.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// The server that it is on.
    pub fn home(&self) -> Home {
        self.home
    }

    /// The pipelines whose locks this session holds.
    pub fn held(&self) -> &BTreeSet<UnitName> {
        &self.held
    }

    /// The session itself, for statements that must fail if the locks are gone.
    pub async fn connection(&mut self) -> Result<&mut PgConnection, CatalogError> {
        self.session.connection().await
    }

    /// Waits for the end of an idle session, and with it of every lock. Cancel-safe.
    pub async fn ended(&mut self) -> CatalogError {
        self.session.ended().await
    }

    /// Takes the lock on the agent's own name; false if another session holds it.
    pub async fn lock_name(&mut self, agent: &AgentName) -> Result<bool, CatalogError> {
        sqlx::query_scalar(
            "-- lock_name\nSELECT pg_try_advisory_lock(tide.agent_lock_class($1), hashtext($2))",
        )
        .bind(self.group.as_str())
        .bind(agent.as_str())
        .fetch_one(self.session.connection().await?)
        .await
        .doing("locking the agent's name")
    }

    /// Tries to lock pipelines and returns those that it got. Never waits, and leaves out what it
    /// holds already.
    pub async fn try_lock(
        &mut self,
        pipelines: &[UnitName],
    ) -> Result<Vec<UnitName>, CatalogError> {
        Ok(self.attempt(pipelines).await?.locked)
    }

    /// As [`try_lock`](Self::try_lock), and says which found no room in the server's lock table.
    /// What was locked before it was full stays locked.
    pub async fn attempt(&mut self, pipelines: &[UnitName]) -> Result<Attempt, CatalogError> {
        let wanted: Vec<&UnitName> = pipelines
            .iter()
            .filter(|name| !self.held.contains(*name))
            .collect();
        if wanted.is_empty() {
            return Ok(Attempt::default());
        }
        let names: Vec<&str> = wanted.iter().map(|name| name.as_str()).collect();
        let outcomes = self.try_locks(&names).await?;
        let with = |outcome: Option<bool>| {
            wanted
                .iter()
                .zip(&outcomes)
                .filter(move |(_, found)| **found == outcome)
                .map(|(name, _)| (*name).clone())
                .collect::<Vec<_>>()
        };
        let attempt = Attempt {
            locked: with(Some(true)),
            full: with(None),
        };
        self.held.extend(attempt.locked.iter().cloned());
        Ok(attempt)
    }

    async fn try_locks(&mut self, names: &[&str]) -> Result<Vec<Option<bool>>, CatalogError> {
        sqlx::query_scalar(
            "-- try_lock\nSELECT locked FROM tide.try_locks($1, $2) ORDER BY position",
        )
        .bind(self.group.as_str())
        .bind(names)
        .fetch_all(self.session.connection().await?)
        .await
        .doing("locking pipelines")
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
        .fetch_all(self.session.connection().await?)
        .await
        .doing("unlocking pipelines")?;
        for name in pipelines {
            self.held.remove(name);
        }
        if released.contains(&false) {
            return Err(lost_lock());
        }
        Ok(())
    }

    /// Gives pipelines away in one statement: stamps since when they have been silent, unlocks them,
    /// and tells their successors by name. A successor that finds no stamp takes it for a crash.
    /// Returns why there are none, if that is so; everything else is done all the same.
    ///
    /// What it does not hold is left alone.
    pub async fn release(
        &mut self,
        agent: &AgentName,
        incarnation: Incarnation,
        departures: &[Departure],
    ) -> Result<Option<String>, CatalogError> {
        let held: Vec<&Departure> = departures
            .iter()
            .filter(|departure| self.held.contains(&departure.pipeline))
            .collect();
        let names: Vec<&str> = held.iter().map(|one| one.pipeline.as_str()).collect();
        let kinds: Vec<Option<&str>> = held
            .iter()
            .map(|one| one.kind.map(HandoverKind::as_str))
            .collect();
        let quiet: Vec<f64> = held
            .iter()
            .map(|one| one.quiet.as_secs_f64() * 1e3)
            .collect();
        let successors: Vec<Option<&str>> = held
            .iter()
            .map(|one| one.to.as_ref().map(AgentName::as_str))
            .collect();
        let (all_held, unstamped): (bool, Option<String>) = sqlx::query_as(
            "-- release\n\
             SELECT all_held, unstamped FROM tide.relay_release($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(self.group.as_str())
        .bind(agent.as_str())
        .bind(incarnation.0)
        .bind(names)
        .bind(kinds)
        .bind(quiet)
        .bind(successors)
        .fetch_one(self.session.connection().await?)
        .await
        .doing("releasing pipelines")?;
        for departure in departures {
            self.held.remove(&departure.pipeline);
        }
        if all_held {
            Ok(unstamped)
        } else {
            Err(lost_lock())
        }
    }

    /// Goes through all that an owner asks of this session: it is quicker at it from then on, because
    /// PostgreSQL compiles and plans what a session runs once per session.
    ///
    /// It is done with a real pipeline, if there is one, for a group that nobody is in, and taken
    /// back: only what finds a row goes all the way, triggers included. Locks are of that group, too.
    /// Fails only if the session does.
    pub async fn rehearse(
        &mut self,
        agent: &AgentName,
        incarnation: Incarnation,
    ) -> Result<(), CatalogError> {
        const DOING: &str = "rehearsing a claim";
        let nobodys = GroupName::try_from(format!("rehearsal-{}", incarnation.0))
            .map_err(|error| CatalogError::inconsistent("rehearsal", "group", error))?;
        sqlx::query("-- rehearse\nBEGIN")
            .execute(self.session.connection().await?)
            .await
            .doing(DOING)?;
        let group = std::mem::replace(&mut self.group, nobodys);
        let rehearsed = self.claim_and_release(agent, incarnation).await;
        let rolled_back = sqlx::query("-- rehearsed\nROLLBACK")
            .execute(self.session.connection().await?)
            .await
            .doing(DOING);
        // A rollback keeps a session's locks.
        let left: Vec<UnitName> = self.held.iter().cloned().collect();
        let unlocked = self.unlock(&left).await;
        self.group = group;
        rolled_back.and(unlocked)?;
        // What is wrong will be said when it matters, by whoever knows for which pipeline.
        if let Err(error) = rehearsed {
            debug!(error = &error as &dyn std::error::Error, "{DOING} failed");
        }
        Ok(())
    }

    async fn claim_and_release(
        &mut self,
        agent: &AgentName,
        incarnation: Incarnation,
    ) -> Result<(), CatalogError> {
        let any: Option<String> =
            sqlx::query_scalar("-- rehearse\nSELECT name FROM tide.pipelines LIMIT 1")
                .fetch_optional(self.session.connection().await?)
                .await
                .doing("looking for a pipeline to rehearse with")?;
        let units: Vec<UnitName> = any
            .into_iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        self.attempt(&units).await?;
        let group = self.group.clone();
        offsets_claim(
            self.session.connection().await?,
            &group,
            agent,
            incarnation,
            &units,
        )
        .await?;
        let departures: Vec<Departure> = units
            .into_iter()
            .map(|pipeline| Departure {
                pipeline,
                kind: Some(HandoverKind::Rebalance),
                quiet: Duration::ZERO,
                to: Some(agent.clone()),
            })
            .collect();
        self.release(agent, incarnation, &departures).await?;
        Ok(())
    }

    /// Proves that the session lives, and with it every lock.
    pub async fn ping(&mut self) -> Result<(), CatalogError> {
        sqlx::query("-- ping\nSELECT 1")
            .execute(self.session.connection().await?)
            .await
            .map(drop)
            .doing("pinging")
    }

    /// Ends the session in good order; every lock is free when this returns.
    pub async fn close(self) {
        self.session.close().await;
    }
}

fn lost_lock() -> CatalogError {
    CatalogError::inconsistent("pg_locks", "granted", "a lock that we held is not ours")
}
