//! A client in another language, generated from the protocol files by somebody else's tools.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tide_sandbox::wait::eventually;
use tide_tests::SOON;
use tokio::{process::Command, time::timeout};

use crate::access::{Guarded, agents::shows};

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("this crate lies in the workspace")
        .to_owned()
}

/// Runs the Python that `scripts/setup.sh test` installs, and returns what it prints.
async fn python(arguments: &[&str]) -> Result<String> {
    let python = root().join(".tools/client/bin/python");
    let mut command = Command::new(&python);
    command.args(arguments).kill_on_drop(true);
    let output = timeout(SOON * 4, command.output())
        .await
        .context("Python did not end")?
        .with_context(|| {
            let python = python.display();
            format!("{python} does not start; run: scripts/setup.sh test")
        })?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Generates stubs for every protocol file there is.
async fn stubs(folder: &Path) -> Result<()> {
    let proto = root().join("proto");
    let mut files = Vec::new();
    let mut folders = vec![proto.join("tide")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "proto") {
                files.push(path.display().to_string());
            }
        }
    }
    ensure!(files.len() >= 5, "{files:?}");
    let include = format!("-I{}", proto.display());
    let messages = format!("--python_out={}", folder.display());
    let services = format!("--grpc_python_out={}", folder.display());
    let mut arguments = vec!["-m", "grpc_tools.protoc", &include, &messages, &services];
    arguments.extend(files.iter().map(String::as_str));
    python(&arguments).await.map(drop)
}

#[tokio::test]
async fn somebody_with_the_protocol_files_alone_lists_watches_and_drains() -> Result<()> {
    // GIVEN a control plane that asks who is there, agents that report to it, and pipelines
    let mut guarded = Guarded::start(0, &[("stranger", "operator", "s3cret", "")]).await?;
    for name in ["relay-1", "relay-2"] {
        let issued = guarded
            .authority
            .client(name, &format!("default/agent/{name}"))?;
        let spec = shows(&guarded, guarded.fleet.spec(name), Some(&issued));
        guarded.fleet.start_as(spec).await?;
    }
    guarded.fleet.add_file_pipelines(4).await?;
    guarded.fleet.wait_until_balanced().await?;
    let token = [("TIDE_TOKEN", "s3cret")];
    eventually(SOON, "both agents to report", async || {
        let shown = guarded
            .tidectl(&["agent", "list", "-o", "json"], &token)
            .await?;
        let reporting = shown.stdout.matches("\"reporting\": true").count();
        Ok::<_, anyhow::Error>((reporting == 2).then_some(()))
    })
    .await?;
    // WHEN
    let folder = tempfile::tempdir()?;
    stubs(folder.path()).await?;
    let client = root()
        .join("tests/it/stranger/client.py")
        .display()
        .to_string();
    let address = guarded.replica.url().replace("https://", "");
    let (stubs, ca) = (folder.path().display().to_string(), guarded.authority.ca());
    let printed = python(&[&client, &stubs, &address, &ca, "s3cret", "relay-1"]).await?;
    // THEN
    let seen: Value = serde_json::from_str(&printed)?;
    ensure!(seen["agents"] == json!(["relay-1", "relay-2"]), "{seen}");
    ensure!(
        seen["pipelines"]
            .as_array()
            .is_some_and(|all| all.len() == 4),
        "{seen}"
    );
    let services = seen["services"].to_string();
    for service in [
        "tide.fleet.v1.FleetService",
        "tide.fleet.v1.OperationService",
    ] {
        ensure!(services.contains(service), "{services}");
    }
    ensure!(seen["first"] == "snapshot", "{seen}");
    let changes = seen["changes"].as_array().context("changes")?;
    ensure!(
        !changes.is_empty() && changes.iter().all(|kind| kind == "delta"),
        "{seen}"
    );
    let operation = &seen["operation"];
    ensure!(
        operation["state"] == "OPERATION_STATE_SUCCEEDED",
        "{operation}"
    );
    ensure!(
        operation["safe_to_stop"] == true && operation["actor"] == "stranger",
        "{operation}"
    );
    let unknown = &seen["unknown"];
    ensure!(unknown["code"] == "NOT_FOUND", "{unknown}");
    ensure!(
        unknown["hint"]
            .as_str()
            .is_some_and(|hint| hint.contains("tidectl")),
        "{unknown}"
    );
    let guess = &seen["guess"];
    ensure!(
        guess["code"] == "UNAUTHENTICATED" && guess["typed"] == true,
        "{guess}"
    );
    // and the agent holds nothing any more.
    let held = guarded.fleet.owned_by("relay-1").await?;
    ensure!(held.is_empty(), "{held:?}");
    Ok(())
}
