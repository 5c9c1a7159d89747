//! The fleet bench itself, on a small scale: that it measures something. How much is no test's matter.

use std::time::Duration;

use anyhow::{Result, ensure};
use tide_bench::fleet::{Size, measure};

#[tokio::test(flavor = "multi_thread")]
async fn a_small_fleet_is_measured_from_its_start_to_the_restart_of_its_control_plane() -> Result<()>
{
    tide_daemon::crypto::install_crypto_provider();
    let figures = measure(Size {
        agents: 20,
        pipelines: 10,
        over: Duration::from_secs(2),
        changes: 20,
    })
    .await?;
    ensure!(
        figures.agents == 20 && figures.pipelines == 10,
        "{figures:?}"
    );
    ensure!(figures.changes == 20, "every change was seen: {figures:?}");
    ensure!(
        figures.p50_ms > 0.0
            && figures.p50_ms <= figures.p99_ms
            && figures.p99_ms <= figures.max_ms,
        "{figures:?}"
    );
    ensure!(figures.memory > 1_000_000, "{figures:?}");
    ensure!(figures.whole_seconds > 0.0, "{figures:?}");
    Ok(())
}
