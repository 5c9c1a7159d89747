//! Which of several control planes is the active one, and what the others answer.
//!
//! ```text
//!            elected                          somebody else is seen to lead
//!  standby ─────────▶ serving, confirmed ──┐ ◀─────────────────────────────┐
//!     ▲                      ▲             │ lock lost, database away      │
//!     │                      └── elected ──┼──────────── serving, unconfirmed
//!     └────────────────────────────────────┘
//! ```
//!
//! **Reads and agents' streams** go on as long as nobody else is known to lead: a view that says
//! how old it is beats none, and a second opinion of it hurts nobody. **Commands** and settling
//! need a confirmed lead: its epoch fences them, so that of two control planes only the newer one
//! can write what became of an operation. Without the database no lead can be confirmed, and no
//! command could be written either.
//!
//! No message waits for any of this: agents run without a control plane.

use std::{fmt, sync::Arc, time::Duration};

use tide_catalog::{
    CatalogError,
    leader::{LeaderConfig, LeaderElection, LeaderRole, PgNotifyBus, RELEASED},
};
use tide_model::{Epoch, NodeId};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{database::Database, metrics};

/// A command waits this long for a lead to be confirmed, as after a restart of the database.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(3);
/// The pause between two looks at a lead that is not confirmed.
const LOOK: Duration = Duration::from_millis(20);

/// What this process may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It leads, or did and knows of nobody else.
    Serving,
    /// Another one leads, or nobody yet.
    Standby(Option<ActiveOne>),
}

/// The control plane that leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActiveOne {
    node: NodeId,
    /// Where it says that it is reached.
    pub(crate) address: Option<String>,
}

/// Why a request is not answered here and now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotLeading {
    /// Another one leads, or nobody yet.
    #[error("this control plane is a standby{}", active(.0.as_ref()))]
    Standby(Option<ActiveOne>),
    /// The database does not say.
    #[error("this control plane cannot confirm that it is the active one")]
    Unconfirmed,
}

/// Knows whether this process leads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Leadership {
    election: Arc<LeaderElection>,
    standing: watch::Receiver<Standing>,
}

/// The election and what follows from it, to be run by the caller.
pub(crate) struct LeadershipTask {
    election: Arc<LeaderElection>,
    bus: Arc<PgNotifyBus>,
    node: NodeId,
    standing: watch::Sender<Standing>,
}

/// Tries to lead once, and looks who does.
pub(crate) async fn contend(
    database: &Database,
    node: NodeId,
    address: String,
    lease: Duration,
) -> Result<(Leadership, LeadershipTask), CatalogError> {
    let bus = Arc::new(PgNotifyBus::new(database.pool(), &[RELEASED]));
    let role = LeaderRole::ControlPlane(database.group().clone());
    let config = LeaderConfig::with_lease(lease);
    let election = LeaderElection::new(database.pool().clone(), node.clone(), role, config)
        .with_notify_bus(Arc::clone(&bus))
        .with_address(address);
    let election = Arc::new(election);
    election.try_become_leader().await?;
    let (sender, standing) = watch::channel(Standing::Standby(None));
    let task = LeadershipTask {
        election: Arc::clone(&election),
        bus,
        node,
        standing: sender,
    };
    task.look().await;
    Ok((Leadership { election, standing }, task))
}

impl Leadership {
    /// Whether this process answers at all.
    pub(crate) fn serves(&self) -> Result<(), NotLeading> {
        match &*self.standing.borrow() {
            Standing::Serving => Ok(()),
            Standing::Standby(active) => Err(NotLeading::Standby(active.clone())),
        }
    }

    /// The epoch to write under, if it is confirmed now.
    pub(crate) fn confirmed(&self) -> Option<Epoch> {
        self.election.epoch()
    }

    /// The epoch to write under, after a short wait if it is not confirmed.
    pub(crate) async fn epoch(&self) -> Result<Epoch, NotLeading> {
        let confirmed = async {
            loop {
                if let Some(epoch) = self.confirmed() {
                    return Ok(epoch);
                }
                self.serves()?;
                sleep(LOOK).await;
            }
        };
        timeout(CONFIRMED_WITHIN, confirmed)
            .await
            .unwrap_or(Err(NotLeading::Unconfirmed))
    }

    /// Returns, with the reason, when this process serves no more; never if it goes on. Cancel-safe.
    pub(crate) async fn deposed(&self) -> NotLeading {
        let mut standings = self.standing.clone();
        loop {
            if let Err(refusal) = self.serves() {
                return refusal;
            }
            if standings.changed().await.is_err() {
                // Nothing changes any more: the process ends.
                return std::future::pending().await;
            }
        }
    }

    /// What [`serves`](Self::serves) follows from, whenever it changes.
    pub(crate) fn standings(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// For people.
    pub(crate) fn describe(&self) -> serde_json::Value {
        match &*self.standing.borrow() {
            Standing::Serving => serde_json::json!({
                "role": "active",
                "confirmed": self.election.is_leader(),
            }),
            Standing::Standby(active) => serde_json::json!({
                "role": "standby",
                "active": active.as_ref().map(ToString::to_string),
            }),
        }
    }
}

impl LeadershipTask {
    /// Runs until the token is cancelled, and then gives the lead up.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let stopped = async {
            stop.cancelled().await;
            self.election.stop();
        };
        let following = stop.run_until_cancelled(self.follow());
        tokio::join!(
            self.election.run(),
            self.bus.run(stop.clone()),
            following,
            stopped
        );
        Ok(())
    }

    async fn follow(&self) {
        let mut terms = self.election.terms();
        let mut led = false;
        loop {
            let leads = terms.borrow_and_update().is_some();
            if leads != led {
                metrics::count_leadership_change(leads);
                led = leads;
            }
            self.look().await;
            let again = async {
                if leads {
                    std::future::pending::<()>().await;
                } else {
                    sleep(self.election.check_interval()).await;
                }
            };
            tokio::select! {
                changed = terms.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    }

    /// Brings the standing up to date. What the database does not say changes nothing.
    async fn look(&self) {
        if self.election.terms().borrow().is_some() {
            return self.stand(Standing::Serving);
        }
        match self.election.get_leader().await {
            Ok(Some(leader)) if leader.is_healthy() && leader.node_id != self.node => {
                self.stand(Standing::Standby(Some(ActiveOne {
                    node: leader.node_id,
                    address: leader.address,
                })));
            }
            // Nobody leads: whoever did last goes on until somebody does.
            Ok(_) if *self.standing.borrow() == Standing::Serving => {}
            Ok(_) => self.stand(Standing::Standby(None)),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                debug!(error, "who leads is unknown for now");
            }
        }
    }

    fn stand(&self, now: Standing) {
        // Between the look and this line the term may have begun.
        let now = match now {
            Standing::Standby(_) if self.election.terms().borrow().is_some() => Standing::Serving,
            other => other,
        };
        self.standing.send_if_modified(|standing| {
            let changed = *standing != now;
            if changed {
                match &now {
                    Standing::Serving => info!("this is the active control plane"),
                    Standing::Standby(active) => {
                        info!(
                            "this control plane is a standby{}",
                            self::active(active.as_ref())
                        );
                    }
                }
                *standing = now;
            }
            changed
        });
    }
}

impl fmt::Display for ActiveOne {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Some(address) => write!(f, "{} at {address}", self.node),
            None => write!(f, "{}", self.node),
        }
    }
}

fn active(active: Option<&ActiveOne>) -> String {
    active.map_or_else(
        || ", and no active one is known".to_owned(),
        |active| format!("; the active one is {active}"),
    )
}
