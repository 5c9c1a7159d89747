//! How fast something was, and what it cost.

use std::{fmt, future::Future, time::Duration};

use anyhow::Result;
use tokio::time::Instant;

use crate::cost::Who;

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Speed {
    /// Rows a second.
    pub(super) rate: f64,
    /// Seconds of processor time a row, of everybody who took part.
    pub(super) cpu: f64,
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.0} rows/s {:>7.2} µs", self.rate, self.cpu * 1e6)
    }
}

/// Measures work on so many rows.
pub(super) async fn measure(
    rows: usize,
    who: &[Who],
    work: impl Future<Output = Result<()>>,
) -> Result<Speed> {
    let before = busy(who)?;
    let started = Instant::now();
    work.await?;
    let elapsed = started.elapsed();
    let used = busy(who)?.saturating_sub(before);
    Ok(Speed {
        rate: rows as f64 / elapsed.as_secs_f64(),
        cpu: used.as_secs_f64() / rows as f64,
    })
}

fn busy(who: &[Who]) -> Result<Duration> {
    who.iter().map(|who| who.busy()).sum()
}
