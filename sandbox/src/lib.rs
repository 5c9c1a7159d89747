//! Throw-away fleets on one machine, and the judge of what they delivered.
//!
//! `tidectl dev`, the system tests and the benchmarks all need a PostgreSQL of their own, brokers
//! and endpoints that misbehave on command, agents that can be frozen and killed, and an exact
//! account of what was committed and what arrived. All of that is here, once. The agents and the
//! control plane themselves are started as processes, never linked.
//!
//! Everything lives under one directory of the user in the system's temp directory, stays on
//! 127.0.0.1, and is gone when its owner drops it, or, after `kill -9`, when the next one starts.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`postgres`] | clusters in a few dozen milliseconds; stop, kill, freeze, restart, standby |
//! | [`pgbouncer`] | a transaction pooler in front of one |
//! | [`proxy`] | the network between an agent and its server: cut, heal, reset, delay |
//! | [`process`], [`binaries`] | programs under test: freeze, thaw, kill, wait, read the log |
//! | [`kafka`] | mock brokers, in this process or their own; a reader of topics |
//! | [`brokers`] | NATS, Redis and RabbitMQ: real servers; restart, freeze, read back |
//! | [`http`] | an endpoint that records requests and answers as scripted |
//! | [`files`] | a reader of what a file sink wrote |
//! | [`inbox`] | a reader of an inbox |
//! | [`envelope`] | what a delivery is, whatever sink it came to |
//! | [`publisher`] | writers in many transaction shapes, and a ledger of what they committed |
//! | [`history`] | the judge: lost, reordered, duplicated and why |
//! | [`leftovers`], [`ports`], [`home`] | directories, children and ports that clean up after us |
//! | [`wait`] | waiting for a condition under a deadline |
//!
//! # Example
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use std::time::Duration;
//!
//! use tide_sandbox::{
//!     binaries, history,
//!     history::{Cause, Disturbance, Reach, Stream},
//!     http::Receiver,
//!     leftovers::Scratch,
//!     postgres::{Postgres, PostgresOptions},
//!     process::{Process, ProcessSpec},
//!     publisher::{PublishPlan, Publisher},
//!     wait::eventually,
//! };
//! use time::OffsetDateTime;
//!
//! let soon = Duration::from_secs(30);
//! let scratch = Scratch::create("example").await?;
//! let postgres = Postgres::start(PostgresOptions::default()).await?;
//! let url = postgres.create_database("app").await?;
//! // ... install the catalog, create outbox `orders` and a pipeline that sends it to /orders ...
//! let receiver = Receiver::start().await?;
//! let spec = ProcessSpec {
//!     env: vec![("PG_TIDE_POSTGRES_URL".into(), url.clone())],
//!     ..ProcessSpec::new("agent-1", binaries::find("tide-agent")?, &scratch)
//! };
//! let mut agent = Process::spawn(spec)?;
//!
//! let pool = sqlx::PgPool::connect(&url).await?;
//! let publisher = Publisher::start(&pool, PublishPlan::mixed(["orders"])).await?;
//! publisher.wait_for_committed(500, soon).await?;
//! let began = OffsetDateTime::now_utc();
//! agent.kill9()?;
//! // ... another agent takes over ...
//! let ledger = publisher.stop(soon).await?;
//! let accounts = eventually(soon, "all orders", async || {
//!     let crash = Disturbance::new(Cause::Crash, Reach::All, began, OffsetDateTime::now_utc());
//!     let stream = Stream::new("orders-to-http", "orders", receiver.deliveries("/orders"));
//!     let accounts = history::check(&ledger.entries, &[stream], &[crash]);
//!     // What is still missing is what a timeout will show.
//!     if accounts.totals().lost == 0 { Ok(Some(accounts)) } else { Err(accounts) }
//! })
//! .await?;
//! assert!(accounts.is_clean(), "{accounts}");
//! # Ok(()) }
//! ```

pub mod binaries;
pub mod brokers;
pub mod envelope;
pub mod files;
pub mod history;
pub mod home;
pub mod http;
pub mod inbox;
pub mod kafka;
pub mod leftovers;
pub mod pgbouncer;
pub mod ports;
pub mod postgres;
mod proc;
pub mod process;
pub mod proxy;
pub mod publisher;
pub mod wait;
