//! What an agent shows to control planes, and how it knows theirs.
//!
//! The files are read for every connection, so that a certificate or a token that was renewed is
//! used from then on, and none of them stays in memory.

use std::{fs, path::PathBuf};

use clap::Args;
use serde::Deserialize;
use tonic::{
    Request,
    metadata::MetadataValue,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

/// Where the credentials are. The default shows nothing, and trusts the system's CAs.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlPlaneAccess {
    /// CA of the control planes' certificates, in PEM [default: the system's].
    #[arg(
        long = "control-plane-ca-cert",
        global = true,
        env = "TIDE_CONTROL_PLANE_CA_CERT",
        value_name = "FILE"
    )]
    pub ca_cert: Option<PathBuf>,
    /// Certificate to show to control planes, in PEM, made out to this agent as
    /// `spiffe://TRUST-DOMAIN/tide/GROUP/agent/NAME`; read for every connection.
    #[arg(
        long = "control-plane-client-cert",
        global = true,
        env = "TIDE_CONTROL_PLANE_CLIENT_CERT",
        value_name = "FILE"
    )]
    pub client_cert: Option<PathBuf>,
    /// Private key of that certificate, in PEM.
    #[arg(
        long = "control-plane-client-key",
        global = true,
        env = "TIDE_CONTROL_PLANE_CLIENT_KEY",
        value_name = "FILE"
    )]
    pub client_key: Option<PathBuf>,
    /// File with a bearer token of role agent and of this agent's name, instead of a certificate.
    #[arg(
        long = "control-plane-token-file",
        global = true,
        env = "TIDE_CONTROL_PLANE_TOKEN_FILE",
        value_name = "FILE"
    )]
    pub token_file: Option<PathBuf>,
}

impl ControlPlaneAccess {
    /// These settings, and those of the file where there are none.
    pub(crate) fn or(self, file: Self) -> Self {
        Self {
            ca_cert: self.ca_cert.or(file.ca_cert),
            client_cert: self.client_cert.or(file.client_cert),
            client_key: self.client_key.or(file.client_key),
            token_file: self.token_file.or(file.token_file),
        }
    }

    /// Fails if something cannot be read now, or only half of it is there.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.client_cert.is_some() != self.client_key.is_some() {
            return Err(
                "--control-plane-client-cert and --control-plane-client-key belong together"
                    .to_owned(),
            );
        }
        self.tls()?;
        self.token().map(drop)
    }

    /// The endpoint as this agent connects to it.
    pub(crate) fn endpoint(&self, endpoint: Endpoint) -> Result<Endpoint, String> {
        if endpoint.uri().scheme_str() != Some("https") {
            let loopback = endpoint.uri().host().is_some_and(is_loopback);
            if self.token_file.is_some() && !loopback {
                return Err("would be shown the token in plain text; use https".to_owned());
            }
            return Ok(endpoint);
        }
        let tls = self.tls()?;
        endpoint.tls_config(tls).map_err(|error| error.to_string())
    }

    /// Adds the token, if there is one.
    pub(crate) fn authorize<T>(&self, message: T) -> Result<Request<T>, String> {
        let mut request = Request::new(message);
        if let Some(token) = self.token()? {
            let mut value = MetadataValue::try_from(format!("Bearer {token}"))
                .map_err(|_| "the token file holds what is no token".to_owned())?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }

    fn tls(&self) -> Result<ClientTlsConfig, String> {
        let tls = match read(self.ca_cert.as_ref())? {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        let certificate = read(self.client_cert.as_ref())?;
        let key = read(self.client_key.as_ref())?;
        Ok(match certificate.zip(key) {
            Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
            None => tls,
        })
    }

    fn token(&self) -> Result<Option<String>, String> {
        let token = read(self.token_file.as_ref())?;
        Ok(token.map(|token| token.trim().to_owned()))
    }
}

fn read(path: Option<&PathBuf>) -> Result<Option<String>, String> {
    path.map(|path| {
        fs::read_to_string(path)
            .map_err(|error| format!("could not read {}: {error}", path.display()))
    })
    .transpose()
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost"
        || bare
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn with_token() -> (ControlPlaneAccess, tempfile::NamedTempFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "s3cret").unwrap();
        let access = ControlPlaneAccess {
            token_file: Some(file.path().to_owned()),
            ..ControlPlaneAccess::default()
        };
        (access, file)
    }

    #[test]
    fn a_token_is_never_sent_in_plain_text_to_another_machine() {
        let (access, _file) = with_token();
        let to = |url: &'static str| access.endpoint(Endpoint::from_static(url)).map(drop);
        assert!(to("http://ctl-a:7900").unwrap_err().contains("plain text"));
        for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            assert_eq!(to(url), Ok(()), "{url}");
        }
        let request = access.authorize(()).unwrap();
        let shown = request.metadata().get("authorization").unwrap();
        assert_eq!(shown.to_str().unwrap(), "Bearer s3cret");
        assert!(!format!("{request:?}").contains("s3cret"));
    }

    #[test]
    fn halves_and_missing_files_are_told() {
        let (mut access, _file) = with_token();
        assert_eq!(access.check(), Ok(()));
        access.client_cert = Some("/nowhere/agent.pem".into());
        assert!(access.check().unwrap_err().contains("belong together"));
        access.client_key = Some("/nowhere/agent.key".into());
        assert!(access.check().unwrap_err().contains("/nowhere/agent.pem"));
    }
}
