//! Two short random fault runs: one that is always the same, and one that never is. `make torture`
//! runs longer ones.

use anyhow::{Result, ensure};
use tide_tests::torture::{self, Keep, Narrator};

/// Found something when it was chosen: keep it until another finds more.
const SEED: u64 = 7;
/// How long publishers and faults go on in each.
const SECONDS: u64 = 40;

#[tokio::test]
async fn random_faults_break_no_promise() -> Result<()> {
    for seed in [SEED, rand::random()] {
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
