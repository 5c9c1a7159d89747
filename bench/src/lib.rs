//! The numbers of the design, measured on one machine in one run, as ratios wherever two things
//! can be measured side by side. Nothing here is a test: a slow machine fails nothing.

mod cost;
mod distribution;
pub mod failover;
pub mod fleet;
pub mod idle;
pub mod latency;
pub mod publish;
pub mod relay;
pub mod rig;
