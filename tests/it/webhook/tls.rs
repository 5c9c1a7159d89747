//! Endpoints that speak TLS and ask for a certificate: a real handshake in front of the endpoint
//! that records.

use std::{path::PathBuf, process::Command, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use tide_model::PipelineState;
use tide_tests::{Fleet, proof};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{publish_some, with_secrets};

/// Certificates of one authority, in a directory.
struct Authority(PathBuf);

impl Authority {
    fn make(fleet: &Fleet, name: &str) -> Result<Self> {
        let authority = Self(fleet.scratch.directory(name)?);
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -subj /CN=authority -out ca.pem -keyout ca.key",
        )?;
        for (who, extension) in [
            ("server", "subjectAltName=IP:127.0.0.1"),
            ("client", "subjectAltName=DNS:tide"),
        ] {
            std::fs::write(authority.0.join("extensions"), extension)?;
            authority.openssl(&format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={who} \
                 -out {who}.csr -keyout {who}.key"
            ))?;
            authority.openssl(&format!(
                "x509 -req -in {who}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                 -extfile extensions -out {who}.pem"
            ))?;
        }
        Ok(authority)
    }

    fn openssl(&self, words: &str) -> Result<()> {
        let words = words.split_whitespace();
        let made = Command::new("openssl")
            .args(words)
            .current_dir(&self.0)
            .output()?;
        ensure!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        Ok(())
    }

    fn reference(&self, file: &str) -> Value {
        format!("${{file:{}}}", self.0.join(file).display()).into()
    }

    /// Admits whoever shows a certificate of this authority.
    fn acceptor(&self) -> Result<TlsAcceptor> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.0.join("ca.pem"))?)?;
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier.build()?)
            .with_single_cert(
                vec![CertificateDer::from_pem_file(self.0.join("server.pem"))?],
                PrivateKeyDer::from_pem_file(self.0.join("server.key"))?,
            )?;
        Ok(Arc::new(config).into())
    }
}

/// Speaks TLS in front of `to`, and says where.
async fn in_front_of(to: String, acceptor: TlsAcceptor, tasks: &mut JoinSet<()>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}/hook", listener.local_addr()?);
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, to) = (acceptor.clone(), to.clone());
            connections.spawn(async move {
                let mut outside = acceptor.accept(stream).await?;
                let mut inside = TcpStream::connect(to).await?;
                copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    Ok(url)
}

/// Waits until the endpoint has said that our certificate is not good enough.
async fn turned_away(fleet: &Fleet, pipeline: &str) -> Result<()> {
    // The alert may get lost with the connection, and comes with a later attempt.
    fleet
        .wait_until("the endpoint to want another certificate", |view| {
            view.pipelines.iter().any(|row| {
                let reason = row.state_reason.as_deref().unwrap_or_default();
                row.name.as_str() == pipeline && reason.contains("\"client_certificate\"")
            })
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn both_ends_show_a_certificate_or_nothing_is_sent() -> Result<()> {
    // GIVEN an endpoint that admits holders of a certificate only
    let (mut fleet, receiver) = with_secrets(&[]).await?;
    let (ours, other) = (
        Authority::make(&fleet, "ours")?,
        Authority::make(&fleet, "other")?,
    );
    let mut tasks = JoinSet::new();
    let plain = receiver.url("");
    let to = plain.strip_prefix("http://").context("plain")?.to_owned();
    let url = in_front_of(to, ours.acceptor()?, &mut tasks).await?;
    // WHEN nobody vouches for the endpoint
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({"url": url}))
        .await?;
    publish_some(&mut fleet, 3).await?;
    // THEN nothing is sent
    let untrusted = fleet
        .wait_for_state("hook", PipelineState::Misconfigured)
        .await?;
    let reason = untrusted.state_reason.unwrap_or_default();
    ensure!(
        reason.contains("UnknownIssuer") && reason.contains("\"ca_certificate\""),
        "{reason}"
    );
    // WHEN somebody does, but we show nothing, or what somebody else made THEN nothing is taken
    let trust = json!({"ca_certificate": ours.reference("ca.pem")});
    fleet.reconfigure("hook", trust).await?;
    turned_away(&fleet, "hook").await?;
    let key_of = |certificate: &Authority, key: &Authority| {
        json!({
            "url": url,
            "ca_certificate": ours.reference("ca.pem"),
            "client_certificate": certificate.reference("client.pem"),
            "client_key": key.reference("client.key"),
        })
    };
    for (pipeline, more) in [
        ("stranger", key_of(&other, &other)),
        ("mixed", key_of(&ours, &other)),
    ] {
        fleet
            .add_webhook_pipeline(pipeline, "events", &receiver, more)
            .await?;
        fleet.disregard(pipeline);
    }
    turned_away(&fleet, "stranger").await?;
    // WHEN the key belongs to another certificate THEN that is said
    let row = fleet
        .wait_for_state("mixed", PipelineState::Misconfigured)
        .await?;
    let reason = row.state_reason.unwrap_or_default();
    ensure!(
        reason.starts_with("client_certificate and client_key: "),
        "{reason}"
    );
    ensure!(receiver.requests().is_empty());
    // WHEN we show ours THEN everything arrives
    fleet.reconfigure("hook", key_of(&ours, &ours)).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}
