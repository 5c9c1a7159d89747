//! Every system scenario, in one program.

mod access;
mod bad_days;
mod bad_input;
mod crash_watch;
mod cursor;
mod dead_letters;
mod delivery;
mod failover;
mod fencing;
mod flow;
mod handover;
mod hot_reload;
mod inbox;
mod janitor;
mod planned;
mod replicas;
mod roles;
mod scale;
mod seeds;
mod sessions;
mod shards;
mod sinks;
mod stranger;
mod torture;
mod tour;
mod webhook;
