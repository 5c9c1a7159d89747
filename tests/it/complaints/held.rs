//! Who holds what, and what several holds make of each other.

use anyhow::{Result, ensure};
use serde_json::json;
use tide_tests::{catalog::execute, command::Finished};

use super::stage::{Stage, document};

/// Complaint 10. A drain is a hold with an owner. Nobody else's tool ends it, and whoever drains the
/// same agent has a hold besides: the agent works again when both have let go.
#[tokio::test]
async fn c10_one_tool_undoes_what_another_did() -> Result<()> {
    // GIVEN an agent that tom has drained
    let mut stage = Stage::with_agents(2).await?;
    stage.fleet.add_file_pipelines(2).await?;
    stage.fleet.wait_until_balanced().await?;
    let tom = ["--actor", "tom"];
    let drain = ["drain", "relay-1", "--reason", "kernel"];
    stage.shows(&[&drain[..], &tom].concat()).await?;
    // WHEN a deployment lets every agent work again, as it always did THEN that is refused
    let deploy = ["undrain", "relay-1", "--actor", "deploy"];
    let refused = stage.says(&deploy).await?;
    refused.explains(6, "the drain of relay-1 belongs to tom: kernel", "--break")?;
    // WHEN it drains the agent itself, and is done THEN tom's drain is in force all the same
    stage
        .shows(&[
            "drain",
            "relay-1",
            "--reason",
            "release 7",
            "--actor",
            "deploy",
        ])
        .await?;
    stage.shows(&deploy).await?;
    let shown = stage
        .shows_soon(
            &["agent", "show", "relay-1"],
            "tom's drain alone to be left",
            |shown| shown["holds"] == json!(["drain by tom: kernel"]),
        )
        .await?;
    ensure!(
        shown["state"] == "DRAINED" && shown["pipelines"] == 0,
        "{shown}"
    );
    // WHEN tom is done too THEN it works again
    stage
        .shows(&[&["undrain", "relay-1"][..], &tom].concat())
        .await?;
    stage.fleet.wait_until_balanced().await?;
    Ok(())
}

/// Complaint 11. A cordon that somebody forgot is shown with its age by the status, the list of holds
/// and the doctor, who says how to end it; one with an end is gone by itself.
#[tokio::test]
async fn c11_a_cordon_is_forgotten() -> Result<()> {
    // GIVEN a cordon whose owner has gone home three days ago, and one that ends by itself
    let mut stage = Stage::with_agents(2).await?;
    stage.fleet.add_file_pipelines(2).await?;
    stage.fleet.wait_until_balanced().await?;
    stage
        .shows(&["cordon", "relay-1", "--reason", "disk", "--actor", "tom"])
        .await?;
    stage
        .shows(&["cordon", "relay-2", "--reason", "look", "--for", "1h"])
        .await?;
    execute(
        &mut *stage.fleet.connection().await?,
        "UPDATE tide.holds SET created_at = now() - interval '3 days' WHERE actor = 'tom'",
    )
    .await?;
    // THEN whoever looks finds it, how old it is and whose, and what ends it
    let told = |ended: &Finished| {
        let mut lines = ended.stdout.lines();
        lines.any(|line| {
            ["relay-1", "tom", "3d", "disk"]
                .iter()
                .all(|word| line.contains(word))
        })
    };
    for words in [&["status", "--interval", "0"][..], &["hold", "list"]] {
        let shown = stage.says(words).await?;
        ensure!(shown.code == Some(0) && told(&shown), "{shown:?}");
    }
    let status = stage.shows(&["status", "--interval", "0"]).await?;
    let holds = status["holds"].as_array().map_or(0, Vec::len);
    ensure!(holds == 2, "{status}");
    let doctor = stage.says(&["doctor", "-o", "json"]).await?;
    let findings = document(&doctor)?;
    let finding = findings.as_array().into_iter().flatten();
    let mut finding = finding.filter(|finding| finding["check"] == "holds");
    let finding = finding.next().unwrap_or_default();
    let detail = finding["detail"].as_str().unwrap_or_default();
    ensure!(
        finding["status"] == "warn" && detail.contains("relay-1 cordoned by tom: disk for 3d"),
        "{findings}"
    );
    ensure!(
        !detail.contains("relay-2"),
        "that one ends by itself: {findings}"
    );
    Ok(())
}

/// Complaint 12. What would leave a pipeline without an agent is refused with every reason, all holds
/// counted, whether the agents are drained together, one after the other, or by a pattern.
#[tokio::test]
async fn c12_intents_that_block_each_other_are_accepted() -> Result<()> {
    // GIVEN two agents, one of which is being drained
    let (stage, receiver) = Stage::with_a_hanging_request(2).await?;
    let id = stage.begins(&["drain", "relay-1"]).await?;
    // WHEN the other one is to be drained as well, in whatever words THEN it is not
    for (words, says, hint) in [
        (
            &["drain", "relay-*"][..],
            "means every agent that runs",
            "--force",
        ),
        (
            &["drain", "relay-*", "--plan"],
            "means every agent that runs",
            "--force",
        ),
        (
            &["drain", "relay-1", "relay-2", "--plan"],
            "without an agent: hook",
            "--force",
        ),
        (
            &["move", "hook", "--to", "relay-1"],
            "agent relay-1 takes no work",
            "tidectl undrain",
        ),
    ] {
        stage.says(words).await?.explains(6, says, hint)?;
    }
    receiver.release();
    stage.fleet.succeeded(id.parse()?).await?;
    let refused = stage.says(&["drain", "relay-2"]).await?;
    refused.explains(6, "relay-1 is drained by ana", "--force")?;
    let running = stage.shows(&["operation", "list"]).await?;
    ensure!(running.as_array().map_or(0, Vec::len) == 1, "{running}");
    Ok(())
}
