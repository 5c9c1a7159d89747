//! Leader election: one process at a time per role, by an advisory lock.
//!
//! ```text
//!              lock free, or held by a zombie            lock lost, lease not renewed
//!  standby ───────────────────────────────────▶ leader ──────────────────────────────▶ standby
//!     ▲   epoch drawn, lease written                │
//!     └──────────── released: NOTIFY ◀──────────────┘ stop
//! ```
//!
//! - The **lock** decides who leads. It lives on a session of its own, which the server ends after
//!   a lease of silence, so that a frozen or cut-off leader cannot keep it.
//! - The **lease** in `tide.leaders` tells everybody else who leads and where, and tells a leader
//!   that works from one whose session somebody keeps alive in its stead.
//! - The **trust window** ends before the server's lease can: [`LeaderElection::is_leader`] turns
//!   false by the monotonic clock, without asking anybody.
//! - The **epoch** fences what is written all the same: `tide.leader_is` in the writing
//!   transaction, and a successor's epoch waits until that transaction has ended.
//!
//! Used for what must be single and is not a pipeline: the active control plane, the janitor. No
//! message waits for any of it.

mod bus;
mod config;
mod election;
mod leaders;
mod run;
mod session;
mod trust;

use std::fmt;

use tide_model::GroupName;

pub use self::{
    bus::{Heard, PgNotifyBus, Subscription},
    config::LeaderConfig,
    election::LeaderElection,
    leaders::{LeaderInfo, leader},
};

/// Said when a leader gave its role up; the payload names role and group.
pub const RELEASED: &str = "tide_leader_released";

/// What there is one leader for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LeaderRole {
    /// The control plane that serves a group.
    ControlPlane(GroupName),
    /// Whoever deletes what nobody needs any more; outboxes belong to no group.
    Janitor,
}

impl LeaderRole {
    /// Its name in the catalog.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ControlPlane(_) => "control_plane",
            Self::Janitor => "janitor",
        }
    }

    /// The group that it is for; empty if it is for the whole database.
    pub fn group(&self) -> &str {
        match self {
            Self::ControlPlane(group) => group.as_str(),
            Self::Janitor => "",
        }
    }
}

impl fmt::Display for LeaderRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
