//! Agents: each reports about itself, and about nobody else.

use anyhow::{Result, ensure};
use tide_sandbox::wait::eventually;
use tide_tests::{SOON, certificates::Issued, fleet::AgentSpec};

use super::Guarded;

/// Who has seen to it that the control plane hears them.
async fn reporting(guarded: &Guarded) -> Result<Vec<String>> {
    let shown = guarded
        .tidectl(&["agent", "list", "-o", "json"], &[("TIDE_TOKEN", "see")])
        .await?;
    let agents: serde_json::Value = serde_json::from_str(&shown.stdout)?;
    let agents = agents.as_array().map(Vec::as_slice).unwrap_or_default();
    let heard = agents.iter().filter(|agent| agent["reporting"] == true);
    let mut names: Vec<String> = heard
        .filter_map(|agent| agent["name"].as_str().map(ToOwned::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// An agent of a control plane that it knows by its CA, with what it shows.
pub(crate) fn shows(guarded: &Guarded, spec: AgentSpec, issued: Option<&Issued>) -> AgentSpec {
    let spec = spec
        .with("--control-plane", &guarded.replica.url())
        .with("--control-plane-ca-cert", &guarded.authority.ca());
    match issued {
        None => spec,
        Some(issued) => spec
            .with("--control-plane-client-cert", &issued.certificate)
            .with("--control-plane-client-key", &issued.key),
    }
}

#[tokio::test]
async fn an_agent_that_lies_about_its_name_is_refused_and_recorded() -> Result<()> {
    // GIVEN a control plane that asks, and certificates for two agents
    let tokens = [
        ("ana", "viewer", "see", ""),
        ("relay-4", "agent", "four", ""),
    ];
    let mut guarded = Guarded::start(0, &tokens).await?;
    let first = guarded
        .authority
        .client("relay-1", "default/agent/relay-1")?;
    let other_group = guarded.authority.client("relay-3", "blue/agent/relay-3")?;
    let token = guarded.authority.path("relay-4.token");
    std::fs::write(&token, "four\n")?;
    // WHEN one shows its own, one that of another, one that of another group, one a token of its
    // own, one that token under another name, and one nothing
    let spec =
        |name: &str, issued: Option<&Issued>| shows(&guarded, guarded.fleet.spec(name), issued);
    let token = token.display().to_string();
    let specs = [
        spec("relay-1", Some(&first)),
        spec("relay-2", Some(&first)),
        spec("relay-3", Some(&other_group)),
        spec("relay-4", None).with("--control-plane-token-file", &token),
        spec("relay-5", None).with("--control-plane-token-file", &token),
        spec("relay-6", None),
    ];
    for spec in specs {
        guarded.fleet.launch_as(spec)?;
    }
    // THEN the honest ones are heard, and the others told why they are not, and run all the same
    for (name, why) in [
        (
            "relay-2",
            "are those of agent \\\"relay-1\\\", and the hello names \\\"relay-2\\\"",
        ),
        ("relay-3", "is for group"),
        ("relay-5", "are those of agent"),
        ("relay-6", "wants to know who asks"),
    ] {
        let agent = guarded.fleet.agent(name);
        agent.log("agent started").await?;
        let line = agent.log("control plane is not reachable").await?;
        let line = line.replace("\\\\", "\\");
        let plain = why.replace("\\\"", "\"");
        ensure!(
            line.contains(why) || line.contains(&plain),
            "{name}: {line}"
        );
    }
    eventually(SOON, "the honest agents to report", async || {
        let heard = reporting(&guarded).await?;
        if heard == ["relay-1", "relay-4"] {
            return Ok(Some(()));
        }
        anyhow::bail!("{heard:?}")
    })
    .await?;
    eventually(SOON, "the lies to be recorded", async || {
        let recorded = guarded.audit("command.denied").await?;
        let has = |row: &str| recorded.iter().any(|recorded| recorded == row);
        let all = has("command.denied Report relay-1 AGENT_IDENTITY_MISMATCH certificate")
            && has("command.denied Report relay-3 GROUP_MISMATCH certificate")
            && has("command.denied Report relay-4 AGENT_IDENTITY_MISMATCH token")
            && has("command.denied Report unknown CREDENTIALS_MISSING");
        if all {
            Ok(Some(()))
        } else {
            anyhow::bail!("{recorded:?}")
        }
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_renewed_server_certificate_is_used_and_a_broken_one_is_not() -> Result<()> {
    // GIVEN a control plane with a certificate
    let mut guarded = Guarded::start(0, &[("ana", "viewer", "see", "")]).await?;
    let before = std::fs::read(guarded.authority.path("server.pem"))?;
    // WHEN half of it is replaced by nonsense
    std::fs::write(guarded.authority.path("server.key"), "nonsense")?;
    let log = guarded
        .replica
        .process
        .wait_for_log("the last ones stay in force", SOON);
    let line = log.await?;
    ensure!(
        line.contains("server.key") && !line.contains("nonsense"),
        "{line}"
    );
    // THEN the old one goes on
    ensure!(guarded.channel().await.is_ok());
    // WHEN another one is in place, THEN it is what clients see
    guarded.authority.server("server")?;
    ensure!(before != std::fs::read(guarded.authority.path("server.pem"))?);
    guarded
        .replica
        .process
        .wait_for_log("credentials read again", SOON)
        .await?;
    ensure!(guarded.channel().await.is_ok());
    Ok(())
}
