//! The HTTP client of one pipeline: its guard, whom it trusts, and what it shows of itself.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use reqwest::{Client, redirect::Policy};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tide_model::sink_spec::WebhookSpec;

use super::{SinkError, guard::Guard, secret};

/// Whom the system trusts. Reading that takes longer than a takeover should, so it is done when
/// the agent starts (see [`warm_up`]).
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    // What cannot be read vouches for nobody; an endpoint that needs it is refused by name.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
});

/// Makes what every webhook needs. Blocks for a moment.
pub(crate) fn warm_up() {
    LazyLock::force(&SYSTEM);
}

/// A connection must be made within this, and leave some of a message's time for the message.
const CONNECT: Duration = Duration::from_secs(5);

/// A client that goes nowhere but to where it is told.
pub(super) fn build(spec: &WebhookSpec) -> Result<Client, SinkError> {
    Client::builder()
        // A redirect would send messages to somebody who was not configured, and a proxy would
        // connect to where the guard does not look.
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT.min(spec.timeout * 9 / 10))
        .dns_resolver(Guard::new(&spec.allow_networks))
        .tls_backend_preconfigured(tls(spec)?)
        .user_agent(concat!("tide-agent/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| SinkError::misconfigured(error.to_string()))
}

fn tls(spec: &WebhookSpec) -> Result<ClientConfig, SinkError> {
    let roots = match &spec.ca_certificate {
        None => Arc::clone(&SYSTEM),
        Some(text) => Arc::new(own_roots(text)?),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has what the default versions need")
        .with_root_certificates(roots);
    let mut config = match &spec.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let chain = certificates("client_certificate", &client.certificate)?;
            let key = secret::resolve("client_key", &client.key)?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|_| SinkError::misconfigured("client_key: holds no private key in PEM"))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                SinkError::misconfigured(format!("client_certificate and client_key: {error}"))
            })?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn own_roots(text: &str) -> Result<RootCertStore, SinkError> {
    const SETTING: &str = "ca_certificate";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(SETTING, text)? {
        roots
            .add(certificate)
            .map_err(|error| SinkError::misconfigured(format!("{SETTING}: {error}")))?;
    }
    Ok(roots)
}

fn certificates(setting: &str, text: &str) -> Result<Vec<CertificateDer<'static>>, SinkError> {
    let text = secret::resolve(setting, text)?;
    let none = || SinkError::misconfigured(format!("{setting}: holds no certificate in PEM"));
    let found: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| none())?;
    if found.is_empty() {
        return Err(none());
    }
    Ok(found)
}
