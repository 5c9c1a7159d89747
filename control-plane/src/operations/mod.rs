//! What operators ask of the fleet.
//!
//! ```text
//! operator ──▶ commands ──▶ holds, placements, operations in PostgreSQL ──▶ agents obey
//!                ▲                                 ▲
//! balancer ──────┘                settler ─────────┘  looks whether each is done, and records it
//! ```
//!
//! The catalog holds all truth: an operation goes on while this process is away, and any number of
//! settlers, here or in another replica, come to the same verdict. When this fails: a command that
//! could not be written is refused with the reason and has changed nothing; a settler that cannot
//! read tries again a second later.

pub(crate) mod balancer;
pub(crate) mod commands;
mod error;
mod holds;
pub(crate) mod rebalance;
mod settler;

pub(crate) use error::{CommandError, Unknown};
pub(crate) use settler::settle;
