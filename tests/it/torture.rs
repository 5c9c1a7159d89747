//! Two short random fault runs, of plans that are always the same. `make torture` draws new ones,
//! and longer.

use anyhow::{Result, ensure};
use tide_tests::torture::{self, Keep, Narrator};

/// What everybody's tests do is the same everywhere; a plan that finds something belongs here.
const SEEDS: [u64; 2] = [7, 31];
/// How long publishers and faults go on in each.
const SECONDS: u64 = 40;

#[tokio::test]
async fn random_faults_break_no_promise() -> Result<()> {
    for seed in SEEDS {
        // The seed is printed with everything else that happens, and shown should this fail.
        let plan = torture::generate(seed, SECONDS);
        let outcome = torture::run(&plan, &Narrator::new(), Keep::Violations).await?;
        ensure!(
            outcome.verdict.is_clean(),
            "seed {seed}: {}\nevidence: {:?}",
            outcome.verdict,
            outcome.evidence
        );
    }
    Ok(())
}
