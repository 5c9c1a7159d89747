//! Which pipelines this agent runs: the decisions, without the doing.
//!
//! [`Ownership::step`] takes one event and returns effects; it never awaits, queries or logs. The
//! [coordinator](crate::coordinator) performs the effects and feeds their results back as events.
//!
//! ```text
//!            assigned to us, or unowned          locked and claimed   Preparing  moved, held, disabled,
//!            for longer than the grace           under a new epoch      │  ▲     or we shut down
//! Standby ─────────────────────────▶ Acquiring ───────────────▶ Held ─┴──┴─────────────▶ Yielding
//!    ▲ ◀────────────refused──────────────┘   ▲                   │                            │
//!    │                                       └─── Restarting ◀───┤ config changed             │ batch finished,
//!    │                                  (worker stopped, claim   │                            │ position stored
//!    │                                   again, keep the lock)   │ fenced                     ▼
//!    └────────────────────────────── unlocked ◀──────────────────┴──────────────────────── Releasing
//!
//! session lost: everything falls back to Standby at once; the locks are gone already.
//! ```
//!
//! **Preparing.** A successor is asked to make its sink ready, and the worker goes on until it says
//! that it is, or for [`PREPARATION`] at most: what takes long in a hand-over happens while messages
//! still flow. Where there is no successor nothing is waited for.
//!
//! **Trust.** A worker publishes only while the lock session's trust window is open (see
//! [`crate::trust`]), which ends before the server can give the locks to anybody else.
//!
//! **When this fails**
//! - a lock is refused: somebody else holds it; we look again when news comes, or after a moment
//!   if nobody seems to hold it.
//! - the claim fails: the lock is given back; the pipeline is tried again at the next discovery.
//! - a worker is fenced: a newer epoch exists, so our lock was lost without our noticing. We stop,
//!   unlock and look again.
//! - discovery fails: nothing changes; what runs goes on running, and discovery is tried again.
//! - the session is lost: workers are revoked by their trust, not by this machine, so a slow
//!   coordinator cannot delay it.

mod preparing;
mod state;

pub(crate) use preparing::PREPARATION;
pub(crate) use state::{Effect, Event, Holder, Ownership, Wanted, WorkerEnd};

#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;
