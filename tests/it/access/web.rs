//! Browsers: gRPC-Web over HTTP/1.1, and whose pages may ask.

use anyhow::{Result, ensure};
use prost::Message as _;
use reqwest::{Certificate, Client, Method, header::HeaderMap};
use tide_proto::fleet::v1::ListAgentsResponse;
use tide_sandbox::wait::eventually;
use tide_tests::{Fleet, FleetOptions, SOON, replica::Replica};

use super::{Guarded, LEASE};

const LIST: &str = "/tide.fleet.v1.FleetService/ListAgents";
/// An empty message in its frame.
const EMPTY: [u8; 5] = [0; 5];

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

pub(super) fn client(ca: &str) -> Result<Client> {
    // Another test of this process may have been first.
    drop(rustls::crypto::ring::default_provider().install_default());
    let ca = Certificate::from_pem(&std::fs::read(ca)?)?;
    Ok(Client::builder()
        .tls_certs_only([ca])
        .timeout(SOON)
        .build()?)
}

pub(super) async fn post(
    client: &Client,
    url: &str,
    path: &str,
    content_type: &str,
    token: &str,
    body: &[u8],
) -> Result<Answer> {
    let request = client
        .post(format!("{url}{path}"))
        .header("content-type", content_type)
        .header("te", "trailers")
        .bearer_auth(token)
        .body(body.to_vec());
    let response = request.send().await?;
    Ok(Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await?.to_vec(),
    })
}

/// The gRPC status, of the headers or of the trailers in the body.
pub(super) fn status(answer: &Answer) -> Option<&str> {
    if let Some(status) = answer.headers.get("grpc-status") {
        return status.to_str().ok();
    }
    let text = frames(&answer.body)
        .into_iter()
        .find_map(|(flag, frame)| (flag & 0x80 != 0).then_some(frame))?;
    let text = std::str::from_utf8(text).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("grpc-status:"))
        .map(str::trim)
}

fn frames(mut body: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = body {
        let length = (u32::from_be_bytes([*a, *b, *c, *d]) as usize).min(rest.len());
        frames.push((*flag, &rest[..length]));
        body = &rest[length..];
    }
    frames
}

#[tokio::test]
async fn a_browser_lists_agents_without_a_proxy() -> Result<()> {
    // GIVEN
    let guarded = Guarded::start(1, &[("vera", "viewer", "see", "")]).await?;
    drop(rustls::crypto::ring::default_provider().install_default());
    let ca = Certificate::from_pem(&std::fs::read(guarded.authority.ca())?)?;
    let client = Client::builder()
        .tls_certs_only([ca])
        .http1_only()
        .build()?;
    let web = "application/grpc-web+proto";
    let url = guarded.replica.url();
    // THEN
    eventually(SOON, "the agent to be listed", async || {
        let answer = post(&client, &url, LIST, web, "see", &EMPTY).await?;
        ensure!(status(&answer) == Some("0"), "{answer:?}");
        let frames = frames(&answer.body);
        ensure!(frames.len() == 2, "{answer:?}");
        let listed = ListAgentsResponse::decode(frames[0].1)?;
        let names: Vec<&str> = listed
            .agents
            .iter()
            .map(|agent| agent.name.as_str())
            .collect();
        Ok((names == ["relay-1"]).then_some(()))
    })
    .await?;
    let denied = post(&client, &url, LIST, web, "guess", &EMPTY).await?;
    ensure!(status(&denied) == Some("16"), "{denied:?}");
    // Metrics and probes are served as ever.
    for path in ["/metrics", "/livez", "/readyz", "/health"] {
        let answer = guarded.replica.get(path).await?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn only_pages_that_were_named_may_ask() -> Result<()> {
    // GIVEN
    let fleet = Fleet::start(FleetOptions::agents(0)).await?;
    let ours = "https://tide.example";
    let flags = [(
        "--cors-origins",
        "https://tide.example,http://localhost:3000",
    )];
    let replica = Replica::start_with(&fleet, "control-plane", LEASE, &flags).await?;
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = Client::builder().http1_only().build()?;
    let preflight = async |origin: &str| -> Result<HeaderMap> {
        let request = client
            .request(Method::OPTIONS, format!("{}{LIST}", replica.url()))
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type,x-grpc-web",
            );
        Ok(request.send().await?.headers().clone())
    };
    // THEN
    let allowed = preflight(ours).await?;
    ensure!(
        allowed["access-control-allow-origin"] == ours,
        "{allowed:?}"
    );
    let headers = allowed["access-control-allow-headers"].to_str()?;
    ensure!(headers.contains("authorization"), "{headers}");
    ensure!(!allowed.contains_key("access-control-allow-credentials"));
    for origin in [
        "https://evil.example",
        "https://tide.example.evil.example",
        "null",
    ] {
        let refused = preflight(origin).await?;
        ensure!(
            !refused.contains_key("access-control-allow-origin"),
            "{origin}: {refused:?}"
        );
    }
    Ok(())
}
