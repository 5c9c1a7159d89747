//! The control plane in one process, against a real PostgreSQL, spoken to over real gRPC.

mod agents;
mod balance;
mod database;
mod fleet;
mod operations;
mod process;
mod rebalance;
mod world;
