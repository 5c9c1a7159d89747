//! The files that say who may come in: read at the start, and again whenever one of them changes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tide_daemon::Failure;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::tokens::Tokens;
use crate::config::Security;

/// How often to look whether a file has changed. Their contents are compared: mounted secrets
/// change behind symbolic links, and clocks of file systems are coarse.
const LOOK: Duration = Duration::from_secs(1);

/// What the files say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials {
    /// None where nobody needs a token.
    pub(crate) tokens: Option<Tokens>,
    /// None where TLS is not spoken.
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// The newest of them. Cheap to clone.
pub(crate) type CredentialsReader = watch::Receiver<Arc<Credentials>>;

/// Looks after the files, to be run by the caller.
pub(crate) struct CredentialsTask {
    security: Security,
    seen: Vec<Vec<u8>>,
    newest: watch::Sender<Arc<Credentials>>,
}

/// Reads the files for the first time.
pub(crate) fn credentials(
    security: &Security,
) -> Result<(CredentialsReader, CredentialsTask), Failure> {
    let seen = contents(security).map_err(Failure::usage)?;
    let credentials = understood(security, &seen).map_err(Failure::usage)?;
    let (newest, reader) = watch::channel(Arc::new(credentials));
    let task = CredentialsTask {
        security: security.clone(),
        seen,
        newest,
    };
    Ok((reader, task))
}

impl CredentialsTask {
    /// Runs until the token is cancelled.
    pub(crate) async fn run(
        mut self,
        stop: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        if self.seen.is_empty() {
            return Ok(());
        }
        let mut unread = None;
        while stop.run_until_cancelled(sleep(LOOK)).await.is_some() {
            let now = match contents(&self.security) {
                Ok(now) => now,
                Err(why) => {
                    // Half of a rotation looks like this for a moment, and so does a mistake.
                    if unread.as_ref() != Some(&why) {
                        warn!(
                            why,
                            "credentials cannot be read again; the last ones stay in force"
                        );
                    }
                    unread = Some(why);
                    continue;
                }
            };
            unread = None;
            if now == self.seen {
                continue;
            }
            match understood(&self.security, &now) {
                Ok(credentials) => {
                    let tokens = credentials.tokens.as_ref().map_or(0, Tokens::len);
                    info!(tokens, "credentials read again");
                    self.newest.send_replace(Arc::new(credentials));
                }
                Err(why) => {
                    warn!(
                        why,
                        "changed credentials cannot be used; the last ones stay in force"
                    );
                }
            }
            self.seen = now;
        }
        Ok(())
    }
}

/// Every file, in a fixed order.
fn paths(security: &Security) -> Vec<&PathBuf> {
    let tls = security.tls.iter();
    tls.flat_map(|tls| [&tls.certificate, &tls.key])
        .chain(&security.client_ca)
        .chain(&security.tokens)
        .collect()
}

fn contents(security: &Security) -> Result<Vec<Vec<u8>>, String> {
    let read = |path: &PathBuf| {
        fs::read(path).map_err(|error| format!("could not read {}: {error}", path.display()))
    };
    paths(security).into_iter().map(read).collect()
}

/// What the contents mean; an error names the file.
fn understood(security: &Security, contents: &[Vec<u8>]) -> Result<Credentials, String> {
    let mut contents = contents.iter();
    let mut next = || contents.next().map_or(&[][..], Vec::as_slice);
    let tls = security.tls.as_ref().map(|files| (files, next(), next()));
    let client_ca = security.client_ca.as_ref().map(|path| (path, next()));
    let tokens = security.tokens.as_ref().map(|path| {
        let named = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let text = str::from_utf8(next()).map_err(|why| named(&why))?;
        Tokens::parse(text).map_err(|why| named(&why))
    });
    let tls = tls.map(|(files, certificate, key)| {
        let chain = certificates(&files.certificate, certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| format!("{}: it holds no private key in PEM", files.key.display()))?;
        let builder = ServerConfig::builder();
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some((path, pem)) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(path, pem)? {
                    let unusable = |why| format!("{}: {why}", path.display());
                    roots.add(root).map_err(unusable)?;
                }
                // Whoever has a token instead needs no certificate; the guard decides.
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
                    .allow_unauthenticated()
                    .build()
                    .map_err(|why| format!("{}: {why}", path.display()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|why| {
            let (certificate, key) = (files.certificate.display(), files.key.display());
            format!("{certificate} and {key} do not go together: {why}")
        })?;
        // Browsers speak gRPC-Web over either.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok::<_, String>(Arc::new(config))
    });
    Ok(Credentials {
        tokens: tokens.transpose()?,
        tls: tls.transpose()?,
    })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!(
            "{}: it holds no certificate in PEM",
            path.display()
        )),
    }
}
