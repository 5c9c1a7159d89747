//! What the facts mean. Pure: facts in, findings out, in the order in which to read them.

mod database;
mod fleet;
mod horizon;
mod server;
#[cfg(test)]
mod tests;

use super::{
    facts::{Asked, Facts, Problem},
    finding::Finding,
};

/// Judges everything that was found.
pub(crate) fn judge(facts: &Facts) -> Vec<Finding> {
    let (label, database) = &facts.database;
    let mut findings = database::judge(label, database);
    let server = database.as_ref().ok().and_then(|one| one.server.as_deref());
    let fleet = server.and_then(|server| server.fleet.as_ref());
    let fleet = fleet.and_then(|fleet| fleet.as_ref().ok());
    if let Some(server) = server {
        findings.push(database::catalog(&server.catalog));
        findings.extend(server.rights.iter().flat_map(|asked| match asked {
            Ok(rights) => database::rights(rights, facts.part, &user(&server.facts)),
            Err(problem) => vec![unknown("rights", problem)],
        }));
        findings.extend(server::lease(&server.lease));
        if let Ok(state) = &server.facts {
            findings.extend(server::settings(state, fleet.map(|fleet| &fleet.view)));
            findings.extend(horizon::judge(state));
        }
        findings.push(server::clock(server.clock));
    }
    findings.extend(fleet::control_planes(
        &facts.control_planes,
        &facts.group,
        fleet,
    ));
    if let Some(Err(problem)) = server.and_then(|server| server.fleet.as_ref()) {
        findings.push(unknown("fleet", problem));
    }
    findings.extend(fleet.into_iter().flat_map(fleet::judge));
    findings
}

fn user(facts: &Asked<tide_catalog::preflight::ServerFacts>) -> String {
    facts
        .as_ref()
        .map_or_else(|_| "USER".to_owned(), |facts| facts.state.user.clone())
}

/// What could not be examined may be as bad as it gets.
fn unknown(check: &'static str, problem: &Problem) -> Finding {
    let hint = problem.hint.clone();
    Finding {
        hint: Some(hint.unwrap_or_else(|| "have it examined again once that is mended".to_owned())),
        ..Finding::fail(
            check,
            format!("could not be examined: {}", problem.message),
            "",
        )
    }
}

/// The first few of many names, and how many more there are.
fn some(names: impl IntoIterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<String> = names.into_iter().collect();
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
