//! What is signed, judged by the specification's own library.

use anyhow::{Context as _, Result, ensure};
use reqwest::header::{HeaderMap, HeaderName};
use serde_json::json;
use standardwebhooks::Webhook;
use tide_sandbox::http::{Behaviour, Request};
use tide_tests::{SOON, proof};

use super::{publish_some, wait_for_words, with_secrets};

const NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER: &str = "whsec_plJ3nmyCDGBKInavdOK15jsl2LaLaSwx";

fn headers(request: &Request) -> Result<HeaderMap> {
    let pairs = request
        .headers
        .iter()
        .map(|(name, value)| anyhow::Ok((name.parse::<HeaderName>()?, value.parse()?)));
    pairs.collect()
}

#[tokio::test]
async fn every_request_is_signed_with_every_secret_and_named_alike_on_every_attempt() -> Result<()>
{
    // GIVEN two pipelines that sign with a new secret and the one that it replaces
    let (mut fleet, receiver) = with_secrets(&[("NEW", NEW), ("OLD", OLD)]).await?;
    let secrets = json!({"signing_secrets": ["${env:NEW}", "${env:OLD}"]});
    fleet
        .add_webhook_pipeline("single", "events", &receiver, secrets)
        .await?;
    let batch = json!({"signing_secrets": ["${env:NEW}", "${env:OLD}"], "batch": true});
    fleet
        .add_webhook_pipeline("batch", "events", &receiver, batch)
        .await?;
    // WHEN requests fail at first, one of them after it was taken
    let fails = [Behaviour::Respond(503), Behaviour::FailAfterAccept];
    receiver.script("/single", fails);
    receiver.script("/batch", fails);
    let ids = publish_some(&mut fleet, 5).await?;
    receiver.wait_for_deliveries("/single", 6, SOON).await?;
    receiver.wait_for_deliveries("/batch", 6, SOON).await?;
    fleet.disregard("single");
    fleet.disregard("batch");
    // THEN whoever has one of the secrets can verify each request, and nobody else
    let requests = receiver.requests();
    for request in &requests {
        let headers = headers(request)?;
        for secret in [NEW, OLD] {
            Webhook::new(secret)?
                .verify(&request.body, &headers)
                .with_context(|| format!("{request:?}"))?;
        }
        ensure!(
            Webhook::new(OTHER)?
                .verify(&request.body, &headers)
                .is_err()
        );
        let mut altered = request.body.clone();
        altered[1] ^= 1;
        ensure!(Webhook::new(NEW)?.verify(&altered, &headers).is_err());
    }
    // and a message is called by its event id, the same each time
    let called = |path: &str| -> Vec<String> {
        let here = requests.iter().filter(|request| request.path == path);
        here.map(|request| request.headers["webhook-id"].clone())
            .collect()
    };
    let first = ids[0].to_string();
    let singles = called("/single");
    ensure!(
        singles[..3] == [first.clone(), first.clone(), first],
        "{singles:?}"
    );
    ensure!(singles[3..] == ids[1..].iter().map(ToString::to_string).collect::<Vec<_>>()[..]);
    let mut repeated = requests
        .iter()
        .filter(|request| request.path == "/batch")
        .map(|request| (&request.body, &request.headers["webhook-id"]));
    let (body, id) = repeated.next().context("no batch")?;
    for (again, named) in repeated {
        ensure!((again == body) == (named == id), "{named} and {id}");
    }
    // and no secret is told
    let said = fleet.agent(super::FIRST).whole_log();
    ensure!(!said.contains("whsec_"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_secret_that_is_none_is_named_and_another_one_heals() -> Result<()> {
    // GIVEN a file that holds no secret
    let (mut fleet, receiver) = with_secrets(&[]).await?;
    let file = fleet.scratch.path().join("secret");
    std::fs::write(&file, "geheim")?;
    let reference = format!("${{file:{}}}", file.display());
    fleet
        .add_webhook_pipeline(
            "hook",
            "events",
            &receiver,
            json!({"signing_secrets": [reference]}),
        )
        .await?;
    publish_some(&mut fleet, 1).await?;
    // THEN the pipeline says which setting is wrong, and not what it holds
    let row = wait_for_words(
        &fleet,
        "hook",
        "signing_secrets[0]: does not begin with whsec_",
    )
    .await?;
    ensure!(!row.state_reason.unwrap_or_default().contains("geheim"));
    ensure!(receiver.requests().is_empty());
    // WHEN it is mended THEN everything arrives by itself
    std::fs::write(&file, format!("{NEW}\n"))?;
    fleet.wait_for_deliveries("hook", 1).await?;
    Webhook::new(NEW)?.verify(
        &receiver.requests()[0].body,
        &headers(&receiver.requests()[0])?,
    )?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_secret_that_was_replaced_in_its_file_is_read_when_the_old_one_is_refused() -> Result<()>
{
    // GIVEN a pipeline that delivers
    let (mut fleet, receiver) = with_secrets(&[]).await?;
    let file = fleet.scratch.path().join("secret");
    std::fs::write(&file, OLD)?;
    let reference = format!("${{file:{}}}", file.display());
    fleet
        .add_webhook_pipeline(
            "hook",
            "events",
            &receiver,
            json!({"signing_secrets": [reference]}),
        )
        .await?;
    publish_some(&mut fleet, 1).await?;
    fleet.wait_for_deliveries("hook", 1).await?;
    // WHEN the secret changes and the receiver refuses the old one
    std::fs::write(&file, NEW)?;
    receiver.script("/hook", [Behaviour::Respond(401)]);
    publish_some(&mut fleet, 1).await?;
    // THEN the next attempt is signed with the new one
    fleet.wait_for_deliveries("hook", 2).await?;
    let last = receiver.requests().pop().context("no request")?;
    Webhook::new(NEW)?.verify(&last.body, &headers(&last)?)?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}
