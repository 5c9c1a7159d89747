//! Tide's services over gRPC. Adapters only: parse, call, convert. Decisions about the fleet are
//! made in [`crate::operations`] and [`crate::fleet`].
//!
//! - `agent`, `fleet`, `hold`, `operation`: one file a service; `rebalance`: the plans of the last, and
//!   `balance`: what is evened out with nobody asking.
//! - `status`: the only place where an error becomes a `Status`, with its hint.
//! - `page`, `request`: page tokens, and fields that several requests share.
//! - `stream`: what answers that go on have in common; each ends when the process does.
//! - `accept`, `guard`: connections and who is at their other end; who is let through.
//! - `serve`: limits, browsers, health, reflection.

mod accept;
mod agent;
mod balance;
mod fleet;
mod guard;
mod hold;
mod observe;
mod operation;
mod page;
mod rebalance;
mod request;
mod serve;
mod status;
mod stream;
mod suggest;
mod watch;

pub(crate) use self::serve::{Services, serve};
pub use self::status::{HINT_KEY, LEADER_KEY};
