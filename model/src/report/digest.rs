//! A number that two sides compare instead of what it stands for.

use super::{PipelineReport, PipelineReports};
use crate::UnitName;

/// Digest of who runs what, under which epoch, in which state and why. Of neither lags nor positions,
/// which change all the time. The order in which pipelines are taken in does not matter.
///
/// Both sides of the wire compute it, so how it is computed is part of the protocol: the sum, modulo
/// 2^64, of one FNV-1a hash of 64 bits a pipeline, over its name, a zero byte, its epoch as eight
/// bytes (least significant first), the name of its state, a zero byte and its reason; each spread by
/// the finaliser of `SplitMix64`, so that sums of similar hashes do not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct OwnershipDigest(pub u64);

impl OwnershipDigest {
    /// The digest of all these.
    pub fn of(pipelines: &PipelineReports) -> Self {
        let sum = |sum: u64, (name, report)| sum.wrapping_add(hash(name, report));
        Self(pipelines.iter().fold(0, sum))
    }
}

fn hash(name: &UnitName, report: &PipelineReport) -> u64 {
    let epoch = report.epoch.0.to_le_bytes();
    let state = report.state.to_string();
    let reason = report.reason.as_deref().unwrap_or_default();
    let parts = [
        name.as_str().as_bytes(),
        &[0],
        &epoch,
        state.as_bytes(),
        &[0],
        reason.as_bytes(),
    ];
    let bytes = parts.into_iter().flatten();
    spread(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

fn spread(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, PipelineState};

    fn reports(all: &[(&str, i64, PipelineState, Option<&str>, i64)]) -> PipelineReports {
        let report =
            |(name, epoch, state, reason, lag): &(&str, i64, PipelineState, Option<&str>, i64)| {
                let report = PipelineReport {
                    epoch: Epoch(*epoch),
                    state: *state,
                    reason: reason.map(ToOwned::to_owned),
                    last_change_id: *lag,
                    lag_rows: *lag,
                    lag_seconds: *lag as f64,
                };
                (name.parse().unwrap(), report)
            };
        all.iter().map(report).collect()
    }

    #[test]
    fn it_changes_with_ownership_and_state_and_with_nothing_else() {
        use PipelineState::{Retrying, Running};
        let digest = |all: &[_]| OwnershipDigest::of(&reports(all));
        let base = digest(&[("a", 1, Running, None, 0), ("b", 2, Running, None, 0)]);
        assert_eq!(
            base,
            digest(&[("b", 2, Running, None, 9), ("a", 1, Running, None, 7)])
        );
        for other in [
            digest(&[("a", 1, Running, None, 0)]),
            digest(&[("a", 2, Running, None, 0), ("b", 1, Running, None, 0)]),
            digest(&[("a", 1, Retrying, None, 0), ("b", 2, Running, None, 0)]),
            digest(&[("a", 1, Running, Some("x"), 0), ("b", 2, Running, None, 0)]),
            digest(&[("a", 1, Running, None, 0), ("c", 2, Running, None, 0)]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn it_is_the_same_in_every_version() {
        assert_eq!(
            OwnershipDigest::of(&PipelineReports::new()),
            OwnershipDigest(0)
        );
        let one = reports(&[("orders", 7, PipelineState::Running, None, 0)]);
        assert_eq!(OwnershipDigest::of(&one).0, 6_282_756_527_156_559_794);
    }
}
