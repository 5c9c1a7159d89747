//! Comparisons that say what differed.

use std::{collections::BTreeMap, fmt::Debug};

use anyhow::{Result, ensure};
use tide_sandbox::{envelope::Delivery, history::Accounts};

/// Nothing lost, invented, altered or reordered, and everything irregular explained.
pub fn clean(accounts: &Accounts) -> Result<()> {
    ensure!(accounts.is_clean(), "not clean: {accounts}");
    Ok(())
}

/// Clean, and nothing came twice: what every planned change must achieve.
pub fn exactly_once(accounts: &Accounts) -> Result<()> {
    ensure!(accounts.is_exactly_once(), "not exactly once: {accounts}");
    Ok(())
}

/// The same value under every key that both have.
pub fn unchanged<V: PartialEq + Debug>(
    before: &BTreeMap<String, V>,
    after: &BTreeMap<String, V>,
    except: &[&str],
) -> Result<()> {
    for (name, was) in before {
        if !except.contains(&name.as_str()) {
            let is = after.get(name);
            ensure!(is == Some(was), "{name} was {was:?} and is {is:?}");
        }
    }
    Ok(())
}

/// The epochs of a stream in the order of arrival, each once per uninterrupted run.
pub fn epoch_runs(deliveries: &[Delivery]) -> Vec<i64> {
    let mut epochs: Vec<i64> = deliveries
        .iter()
        .filter_map(|delivery| delivery.envelope.epoch())
        .collect();
    epochs.dedup();
    epochs
}
