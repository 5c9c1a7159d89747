//! What a plan follows from, in one number: equal hashes mean equal plans.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use sha2::{Digest as _, Sha256};

use super::By;
use crate::{UnitName, assignment::Admits, fleet::DatabaseView};

/// Hashes the group, its live agents, and its enabled units with their owners, their holds and the
/// weights that they have and should have, and who does not reach their sinks. Lags, rates and times are not in it: they change all the
/// time, and the plan does not follow from them.
pub(super) fn digest(view: &DatabaseView, by: By, wanted: &BTreeMap<UnitName, u32>) -> String {
    // Names hold neither spaces nor line ends, so that no two views have one text.
    let mut text = Hashed(Sha256::new());
    let written = write(&mut text, view, by, wanted);
    written.expect("a hash takes whatever is written");
    let mut hex = String::new();
    for byte in text.0.finalize() {
        write!(hex, "{byte:02x}").expect("a string takes whatever is written");
    }
    hex
}

struct Hashed(Sha256);

impl fmt::Write for Hashed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

fn write(
    text: &mut Hashed,
    view: &DatabaseView,
    by: By,
    wanted: &BTreeMap<UnitName, u32>,
) -> fmt::Result {
    writeln!(text, "group {} by {}", view.group, by.as_str())?;
    let mut agents = view.candidates(None);
    agents.sort_by(|a, b| a.name.cmp(&b.name));
    for agent in agents {
        let admits = match agent.admits {
            Admits::All => "all",
            Admits::OnlyItsOwn => "own",
            Admits::Nothing => "nothing",
        };
        writeln!(text, "agent {} {} {admits}", agent.name, agent.weight)?;
    }
    let mut rows: Vec<_> = view.pipelines.iter().filter(|row| row.enabled).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    for row in rows {
        let weight = wanted.get(&row.name).copied().unwrap_or(row.weight);
        write!(text, "unit {} {} ", row.name, row.lock_key)?;
        write!(text, "{} {weight} ", row.weight)?;
        match &row.owner {
            Some(owner) => write!(text, "of {owner}")?,
            None => write!(text, "of_nobody")?,
        }
        for agent in view.unfit(row) {
            write!(text, " not {agent}")?;
        }
        match view.staying(&row.name).map(|hold| &hold.to) {
            None => writeln!(text)?,
            Some(Some(agent)) => writeln!(text, " at {agent}")?,
            Some(None) => writeln!(text, " put")?,
        }
    }
    Ok(())
}
