//! The harness of the system scenarios: a fleet in a sentence, real servers and real processes.
//!
//! A scenario reads GIVEN a fleet and load, WHEN something happens, THEN the accounts are clean:
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use tide_tests::{Fleet, FleetOptions};
//!
//! // GIVEN
//! let mut fleet = Fleet::start(FleetOptions::default()).await?;
//! fleet.add_file_pipelines(4).await?;
//! fleet.wait_until_balanced().await?;
//! fleet.publish().await?;
//! // WHEN
//! fleet.crash("relay-1").await?;
//! // THEN
//! let accounts = fleet.settle_and_check().await?;
//! assert!(accounts.is_clean(), "{accounts}");
//! # Ok(()) }
//! ```
//!
//! [`Fleet::settle_and_check`] ends every scenario: it lets the writers finish, waits until
//! everything is delivered, stops the agents in good order, so that nothing can come after, and
//! judges what arrived. Nothing waits for a time: every wait is for a condition, and [`SOON`] only
//! bounds it.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`fleet`] | PostgreSQL, agents, pipelines with something that reads what they deliver, load |
//! | [`replica`] | control planes, several of them, as processes |
//! | [`catalog`] | one connection to a catalog of one's own, for tests below the agents |
//! | [`by_hand`] | messages published one by one, in an interleaving that the test chooses |
//! | [`certificates`] | a certificate authority and what it issues |
//! | [`command`] | programs that run to their end: exit code and what they said |
//! | [`scrape`] | metrics and probes over HTTP |
//! | [`lookout`] | how long agents hold the vacuum horizon, and how many sessions they have |
//! | [`proof`] | comparisons that say what differed |
//! | [`torture`] | random fault runs: a plan from a seed, an executor, a verdict |

pub mod by_hand;
pub mod catalog;
pub mod certificates;
pub mod command;
pub mod fleet;
pub mod lookout;
pub mod proof;
pub mod replica;
pub mod scrape;
pub mod torture;

use std::time::Duration;

pub use self::fleet::{Fleet, FleetOptions, Network};

/// How long anything may take that should happen at once. Only a failure ever waits this long.
pub const SOON: Duration = Duration::from_secs(30);
