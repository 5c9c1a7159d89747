//! What every Tide process promises its operator.
//!
//! - It stops in good order on the first SIGTERM or SIGINT, at once on the second, and never later
//!   than its shutdown timeout ([`lifecycle`]). Its exit code says which it was ([`Exit`]).
//! - Its logs go to stderr, because stdout is data ([`telemetry`]).
//! - It shows its metrics and says over HTTP whether it is alive and ready ([`metrics`], [`http`]).
//! - It says what is wrong in one line, and what to do about it in another ([`main_exit()`]).
//!
//! This crate knows nothing about relays, pipelines or fleets: both daemons build on it.

pub mod backoff;
pub mod crypto;
pub mod duration;
pub mod http;
pub mod lifecycle;
pub mod main_exit;
pub mod metrics;
pub mod telemetry;

pub use self::{
    backoff::Backoff,
    crypto::install_crypto_provider,
    duration::parse_seconds,
    http::{Health, HttpServer, Probes},
    lifecycle::{Exit, Lifecycle},
    main_exit::{Failure, main_exit},
    metrics::Metrics,
    telemetry::{LogFormat, Telemetry},
};
