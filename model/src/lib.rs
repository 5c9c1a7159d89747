//! The vocabulary of Tide: types that every part shares, and the decisions that need nothing else.
//!
//! Applications write **messages** into an **outbox**. A **pipeline** carries one outbox to one
//! **sink**. **Agents** of one **group** share the pipelines out: each pipeline has one **owner**,
//! who holds its lock and writes under its **epoch**. How far a pipeline got is its **cursor**. A
//! busy pipeline may be split into **shards** by key; what has a lock, an owner and a cursor is then
//! each shard, and **unit** says either.
//! Operators steer with **holds** (this agent takes no work, this pipeline stays) and **placements** (this pipeline
//! belongs there), and what they asked for is an **operation**.
//!
//! This crate does no I/O, reads no clock and never logs. It must stay that way: everything here
//! can be tested with a table of values.

pub mod assignment;
pub mod closest;
pub mod cursor;
pub mod drain;
pub mod explain;
pub mod fleet;
pub mod format;
pub mod handover;
pub mod hold;
pub mod last_drain;
pub mod name;
pub mod obstacles;
pub mod operation;
pub mod pipeline;
pub mod policy;
pub mod rebalance;
pub mod report;
pub mod route;
pub mod sink_spec;
pub mod snapshot;
pub mod state;
pub mod template;
pub mod transform;
pub mod unit;

mod fields;

pub use assignment::{Assignment, Bundle, Candidate, assign};
pub use cursor::{Cursor, Origin, Pass};
pub use handover::HandoverKind;
pub use name::{
    AgentName, Epoch, GroupName, HoldId, Incarnation, InvalidName, NodeId, OperationId,
    PipelineName, PlanId,
};
pub use pipeline::{PipelineSpec, SpecError};
pub use policy::{ParkingLimits, Policy, RateLimit};
pub use sink_spec::SinkSpec;
pub use snapshot::Snapshot;
pub use state::PipelineState;
pub use transform::Transforms;
pub use unit::{Shard, UnitName};
