//! The built program against a real PostgreSQL and a stand-in control plane: what it prints, what
//! it changes, and how it exits.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agent;
mod control_plane;
mod dlq;
mod doctor;
mod events;
mod explain;
mod fixture;
mod flow;
mod inbox;
mod intent;
mod migrate;
mod outbox;
mod pipeline;
mod pipeline_test;
mod plain;
mod rebalance;
mod remote;
mod select;
mod status;
mod terminal;
