//! Tide's services over gRPC. Adapters only: parse, call, convert. Decisions about the fleet are
//! made in [`crate::operations`] and [`crate::fleet`].
//!
//! - `agent`, `fleet`, `operation`: one file a service.
//! - `status`: the only place where an error becomes a `Status`, with its hint.
//! - `page`, `request`: page tokens, and fields that several requests share.
//! - `stream`: what answers that go on have in common; each ends when the process does.
//! - `serve`: limits, health, reflection.

mod agent;
mod fleet;
mod observe;
mod operation;
mod page;
mod request;
mod serve;
mod status;
mod stream;
mod suggest;

pub use self::status::{HINT_KEY, LEADER_KEY};
pub(crate) use self::{
    observe::METHODS,
    serve::{Services, serve},
};
