//! Is everything in place for Tide to run here?
//!
//! ```text
//! collect ─▶ Facts ─▶ judge ─▶ findings, one a check
//! ```
//!
//! [`collect`](collect()) asks and decides nothing; [`judge`](judge::judge) decides and asks nobody. What could
//! not be asked is a finding like any other: a doctor that stops at the first trouble shows the
//! rest one visit at a time.

mod collect;
mod facts;
mod finding;
mod judge;

pub(crate) use self::{
    collect::collect,
    finding::{Finding, Status},
    judge::judge,
};
