//! Who may come in, and how: what was asked for, and whether that can be meant.

use std::{net::SocketAddr, path::PathBuf};

use tide_daemon::Failure;
use tonic::{codegen::http::HeaderValue, transport::Uri};

/// Enough for a script that lists in pages, and too little to keep the process busy.
pub(super) const DEFAULT_REQUEST_RATE: u32 = 500;

/// Settings of what is served to whom. The default asks nobody, and is good for loopback only.
#[derive(Debug, Clone)]
pub struct Security {
    /// What to speak TLS with; plain text if absent.
    pub tls: Option<TlsFiles>,
    /// CA of client certificates, in PEM.
    pub client_ca: Option<PathBuf>,
    /// Bearer tokens, in TOML.
    pub tokens: Option<PathBuf>,
    /// Whose pages may ask from a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// Requests a second of one caller.
    pub request_rate: u32,
    /// Serve beyond loopback whatever is missing.
    pub insecure: bool,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, its own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            tls: None,
            client_ca: None,
            tokens: None,
            cors_origins: Vec::new(),
            request_rate: DEFAULT_REQUEST_RATE,
            insecure: false,
        }
    }
}

impl TlsFiles {
    /// Both or neither.
    pub(super) fn both(
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<Option<Self>, Failure> {
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(missing("--tls-cert without --tls-key")),
            (None, Some(_)) => Err(missing("--tls-key without --tls-cert")),
        }
    }
}

impl Security {
    /// Whether a caller has to prove who they are.
    pub(crate) fn asks(&self) -> bool {
        self.client_ca.is_some() || self.tokens.is_some()
    }

    /// For the log.
    pub(crate) fn describe(&self) -> String {
        let transport = if self.tls.is_some() { "TLS" } else { "no TLS" };
        let callers = match (&self.tokens, &self.client_ca) {
            (None, None) => "everybody is let in",
            (Some(_), None) => "tokens",
            (None, Some(_)) => "client certificates",
            (Some(_), Some(_)) => "tokens and client certificates",
        };
        format!("{transport}, {callers}")
    }

    /// Refuses what would let strangers in, or let them listen.
    pub(super) fn check(&self, listen: SocketAddr) -> Result<(), Failure> {
        if self.request_rate == 0 {
            return Err(Failure::usage(
                "--request-rate is 0, and nobody could ask anything",
            ));
        }
        if self.client_ca.is_some() && self.tls.is_none() {
            return Err(missing("--client-ca without --tls-cert and --tls-key"));
        }
        if self.insecure || listen.ip().is_loopback() {
            return Ok(());
        }
        let lack = match (self.tls.is_some(), self.asks()) {
            (true, true) => return Ok(()),
            (false, true) => "without TLS, so that tokens could be read on the way",
            (true, false) => "without asking who is there",
            (false, false) => "without TLS and without asking who is there",
        };
        Err(Failure::usage(format!("--listen {listen} would serve other machines {lack}"))
            .with_hint(Some(
                "give --tls-cert and --tls-key, and --tokens or --client-ca; or listen on 127.0.0.1; or \
                 take the risk with --insecure",
            )))
    }
}

/// Origins as browsers write them.
pub(super) fn origins(texts: &[String]) -> Result<Vec<HeaderValue>, Failure> {
    texts
        .iter()
        .map(|text| {
            let uri: Option<Uri> = text.parse().ok();
            let fits = uri.is_some_and(|uri| {
                let bare = uri.path() == "/" && !text.ends_with('/') && uri.query().is_none();
                bare && uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
            });
            HeaderValue::from_str(text)
                .ok()
                .filter(|_| fits)
                .ok_or_else(|| {
                    Failure::usage(format!("--cors-origins {text:?} is no origin")).with_hint(Some(
                        "write it as https://HOST or https://HOST:PORT, each by itself",
                    ))
                })
        })
        .collect()
}

fn missing(what: &str) -> Failure {
    Failure::usage(what.to_owned()).with_hint(Some(
        "TLS needs a certificate and its key; client certificates need TLS",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(listen: &str, change: impl FnOnce(&mut Security)) -> Result<(), String> {
        let mut security = Security::default();
        change(&mut security);
        let checked = security.check(listen.parse().unwrap());
        checked.map_err(|failure| failure.to_string())
    }

    fn tls(security: &mut Security) {
        security.tls = TlsFiles::both(Some("c".into()), Some("k".into())).unwrap();
    }

    fn tokens(security: &mut Security) {
        security.tokens = Some("t".into());
    }

    #[test]
    fn strangers_are_not_served_by_accident() {
        for (listen, change, lack) in [
            (
                "0.0.0.0:7900",
                (|_| {}) as fn(&mut Security),
                "without TLS and without asking",
            ),
            ("10.0.0.1:7900", tokens, "without TLS, so that"),
            ("[::]:7900", tls, "without asking who is there"),
        ] {
            let refused = checked(listen, change).unwrap_err();
            assert!(refused.contains(lack), "{refused}");
            assert!(refused.contains("hint: give --tls-cert"), "{refused}");
            let insecure = |security: &mut Security| {
                change(security);
                security.insecure = true;
            };
            assert_eq!(checked(listen, insecure), Ok(()));
        }
        assert_eq!(checked("127.0.0.1:7900", |_| {}), Ok(()));
        assert_eq!(checked("[::1]:7900", tokens), Ok(()));
        let both = |security: &mut Security| {
            tls(security);
            tokens(security);
        };
        assert_eq!(checked("0.0.0.0:7900", both), Ok(()));
    }

    #[test]
    fn halves_are_refused() {
        assert!(TlsFiles::both(Some("c".into()), None).is_err());
        assert!(TlsFiles::both(None, Some("k".into())).is_err());
        let refused = checked("127.0.0.1:1", |security| {
            security.client_ca = Some("c".into());
        });
        assert!(refused.unwrap_err().contains("--client-ca without"));
        assert!(checked("127.0.0.1:1", |security| security.request_rate = 0).is_err());
    }

    #[test]
    fn origins_are_what_browsers_send() {
        let of = |text: &str| origins(&[text.to_owned()]).is_ok();
        assert!(of("https://tide.example") && of("http://localhost:3000"));
        for bad in [
            "*",
            "tide.example",
            "https://tide.example/",
            "https://a/b",
            "null",
        ] {
            assert!(!of(bad), "{bad}");
        }
    }
}
