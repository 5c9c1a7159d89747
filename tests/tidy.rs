//! House rules that a compiler cannot know.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Which crates of ours a crate may use; its tests may use the sandbox on top.
const MAY_USE: [(&str, &[&str]); 10] = [
    ("tide-model", &[]),
    ("tide-daemon", &[]),
    ("tide-proto", &["tide-model"]),
    ("tide-catalog", &["tide-model"]),
    ("tide-sandbox", &["tide-model", "tide-catalog"]),
    (
        "tide-relay-agent",
        &["tide-model", "tide-proto", "tide-catalog", "tide-daemon"],
    ),
    (
        "tide-control-plane",
        &["tide-model", "tide-proto", "tide-catalog", "tide-daemon"],
    ),
    (
        "tidectl",
        &["tide-model", "tide-proto", "tide-catalog", "tide-sandbox"],
    ),
    ("tide-tests", EVERYTHING),
    ("tide-bench", EVERYTHING),
];

const EVERYTHING: &[&str] = &[
    "tide-model",
    "tide-daemon",
    "tide-proto",
    "tide-catalog",
    "tide-sandbox",
    "tide-relay-agent",
    "tide-control-plane",
    "tidectl",
];

/// Longer files hide more than one idea.
const LONGEST: usize = 500;

/// Where each metric is named, and where all are explained.
const METRICS: [&str; 2] = ["relay-agent/src/metrics.rs", "control-plane/src/metrics.rs"];
const METRICS_EXPLAINED: &str = "docs/metrics.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate lies in the workspace")
        .to_owned()
}

/// A dependency on a crate of ours: its name, and its kind unless that is the normal one.
type Use = (String, Option<String>);

/// Every crate of ours, and those of ours that it uses.
fn dependencies() -> Result<BTreeMap<String, Vec<Use>>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    packages
        .iter()
        .map(|package| {
            let ours = package["dependencies"]
                .as_array()
                .context("dependencies")?
                .iter()
                // Only those of the workspace have a path.
                .filter(|dependency| dependency["path"].is_string())
                .filter_map(|dependency| {
                    Some((text(&dependency["name"])?, text(&dependency["kind"])))
                })
                .collect();
            Ok((text(&package["name"]).context("a name")?, ours))
        })
        .collect()
}

/// Every Rust file below a directory.
fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn every_crate_uses_only_what_it_may() -> Result<()> {
    let may_use: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    let crates = dependencies()?;
    for (name, ours) in &crates {
        let allowed = may_use
            .get(name.as_str())
            .with_context(|| format!("{name} is in no row of the table"))?;
        for (used, kind) in ours {
            let for_tests = kind.as_deref() == Some("dev") && used == "tide-sandbox";
            ensure!(
                for_tests || allowed.contains(&used.as_str()),
                "{name} must not use {used}"
            );
        }
    }
    ensure!(
        crates.len() == may_use.len(),
        "a crate of the table is gone"
    );
    Ok(())
}

#[test]
fn every_metric_is_explained_and_every_explanation_has_its_metric() -> Result<()> {
    let mut named = BTreeSet::new();
    for file in METRICS {
        let source = fs::read_to_string(root().join(file)).context(file)?;
        let constants = source.lines().filter_map(|line| {
            let (_, rest) = line.split_once("const ")?.1.split_once(": &str = \"")?;
            rest.strip_suffix("\";").map(ToOwned::to_owned)
        });
        let before = named.len();
        named.extend(constants);
        ensure!(named.len() > before, "{file} names no metric");
    }
    let text = fs::read_to_string(root().join(METRICS_EXPLAINED)).context(METRICS_EXPLAINED)?;
    let explained: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(ToOwned::to_owned)
        .collect();
    let missing: Vec<_> = named.difference(&explained).collect();
    ensure!(
        missing.is_empty(),
        "not in {METRICS_EXPLAINED}: {missing:?}"
    );
    let gone: Vec<_> = explained.difference(&named).collect();
    ensure!(gone.is_empty(), "only in {METRICS_EXPLAINED}: {gone:?}");
    Ok(())
}

#[test]
fn no_file_holds_more_than_one_can_read_at_once() -> Result<()> {
    let mut long = Vec::new();
    for entry in fs::read_dir(root())? {
        let sources = entry?.path().join("src");
        let mut files = Vec::new();
        if sources.is_dir() {
            rust_files(&sources, &mut files)?;
        }
        for file in files {
            let text = fs::read_to_string(&file)?;
            let code = text.lines().take_while(|line| *line != "#[cfg(test)]");
            let lines = code.count();
            let is_test = file.file_name().is_some_and(|name| name == "tests.rs");
            if lines > LONGEST && !is_test {
                long.push(format!("{} has {lines} lines", file.display()));
            }
        }
    }
    ensure!(long.is_empty(), "{long:#?}");
    Ok(())
}
