//! The PostgreSQL catalog of Tide: its schema, and every SQL statement that Tide runs.
//!
//! ```text
//! outboxes ──< pipelines ──< relay_consumer_offsets   how far, under which epoch, by whom
//!    │             └───────< placements               where operators want it
//!    └─ outbox_<name>        agents ── holds          who is there, who takes no work
//!       (the messages)       operations, events       what was asked, and what happened
//! ```
//!
//! Ownership is in none of these tables: it is the advisory locks of [`lock_session`], seen by
//! everybody in `pg_locks`. Functions take a connection so that callers compose transactions.
//! Every statement begins with a comment that names its function, so `pg_stat_statements` points
//! here. Nothing in this crate decides anything about the fleet.

pub mod agents;
mod attentive;
pub mod balance;
mod catch_up;
pub mod connection;
pub mod dead_letters;
pub mod error;
pub mod events;
pub mod fleet;
pub mod gone;
pub mod handovers;
pub mod heads;
pub mod holds;
pub mod inboxes;
pub mod intent;
pub mod janitor;
pub mod leader;
pub mod listener;
pub mod lock_session;
pub mod locks;
pub mod messages;
pub mod newest;
pub mod offsets;
pub mod operations;
pub mod orders;
pub mod outbox_waits;
pub mod outboxes;
pub mod parking;
pub mod pipelines;
pub mod preflight;
pub mod reach;
pub mod rebalance;
pub mod rights;
pub mod schema;

pub use error::{CatalogError, ENCODING_HINT};
pub use sqlx::{PgConnection, PgPool};
