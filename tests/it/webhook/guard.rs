//! Where nothing is sent. What each address is, is a table in the sink's own tests; here is that
//! the guard stands on every way out.

use anyhow::{Result, ensure};
use axum::{Router, http::StatusCode, http::header::LOCATION, routing::post};
use serde_json::json;
use tide_tests::{SOON, proof};
use tokio::{net::TcpListener, task::JoinSet};

use super::{publish_some, wait_for_words, with_secrets};

#[tokio::test]
async fn what_is_not_public_is_refused_by_address_and_by_name_until_it_is_allowed() -> Result<()> {
    // GIVEN pipelines to this very machine, by its address and by its name
    let (mut fleet, receiver) = with_secrets(&[]).await?;
    let by_name = receiver.url("/name").replace("127.0.0.1", "localhost");
    let mapped = receiver
        .url("/mapped")
        .replace("127.0.0.1", "[::ffff:127.0.0.1]");
    for (pipeline, url) in [
        ("address", receiver.url("/address")),
        ("name", by_name),
        ("mapped", mapped),
    ] {
        let nothing = json!({"url": url, "allow_networks": null});
        fleet
            .add_webhook_pipeline(pipeline, "events", &receiver, nothing)
            .await?;
    }
    publish_some(&mut fleet, 3).await?;
    // THEN each says why it sends nothing, and what to do, and nobody was asked
    for pipeline in ["address", "name", "mapped"] {
        let row = wait_for_words(&fleet, pipeline, "is loopback").await?;
        let reason = row.state_reason.unwrap_or_default();
        ensure!(reason.contains("\"allow_networks\""), "{reason}");
    }
    ensure!(receiver.requests().is_empty(), "{:?}", receiver.requests());
    // WHEN that network is allowed THEN everything arrives
    for pipeline in ["address", "name", "mapped"] {
        fleet
            .reconfigure(pipeline, json!({"allow_networks": ["127.0.0.0/8", "::1"]}))
            .await?;
    }
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn neither_a_redirect_nor_a_proxy_leads_elsewhere() -> Result<()> {
    // GIVEN an endpoint that redirects to another one
    let (mut fleet, receiver) = with_secrets(&[]).await?;
    let elsewhere = receiver.url("/elsewhere");
    let redirect = move || {
        let to = elsewhere.clone();
        async move { (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, to)]) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/hook", listener.local_addr()?);
    let app = Router::new().route("/hook", post(redirect));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, app).await });
    fleet
        .add_webhook_pipeline("redirected", "events", &receiver, json!({"url": url}))
        .await?;
    publish_some(&mut fleet, 1).await?;
    // THEN it is not followed
    wait_for_words(&fleet, "redirected", "HTTP 307").await?;
    ensure!(receiver.requests().is_empty());
    fleet.disregard("redirected");
    // GIVEN an agent that was told of a proxy, where nobody listens
    fleet.stop_agents().await?;
    let mut spec = fleet.spec("relay-2");
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        spec.env
            .push((name.to_owned(), "http://127.0.0.1:9".to_owned()));
    }
    fleet.start_as(spec).await?;
    fleet
        .add_webhook_pipeline("direct", "events", &receiver, json!({}))
        .await?;
    // THEN it goes straight to the endpoint
    receiver.wait_for_deliveries("/direct", 1, SOON).await?;
    Ok(())
}
