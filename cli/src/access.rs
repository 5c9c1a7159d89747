//! What is shown to control planes, and how theirs are known.

use std::{fmt, fs, path::PathBuf};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
    transport::{Certificate, ClientTlsConfig, Identity, Uri},
};

use crate::{contexts, error::CliError};

/// Credentials as they were given: nothing has been read yet.
#[derive(Clone, Default)]
pub struct Access {
    /// A token, or a reference to one.
    pub token: Option<String>,
    /// CA of the control planes' certificates, in PEM; the system's if absent.
    pub ca_cert: Option<PathBuf>,
    /// Certificate to show, in PEM.
    pub client_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    pub client_key: Option<PathBuf>,
}

/// Adds the token to every request.
#[derive(Debug, Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Access {
    /// What to connect with.
    pub fn tls(&self) -> Result<ClientTlsConfig, CliError> {
        let tls = match read("--ca-cert", self.ca_cert.as_ref())? {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        let certificate = read("--client-cert", self.client_cert.as_ref())?;
        let key = read("--client-key", self.client_key.as_ref())?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Ok(tls.identity(Identity::from_pem(certificate, key)))
            }
            (None, None) => Ok(tls),
            (Some(_), None) | (None, Some(_)) => Err(CliError::usage(
                "--client-cert and --client-key belong together",
                "give both, or neither",
            )),
        }
    }

    /// What to ask this control plane with. A token goes in plain text to nobody but this machine.
    pub fn bearer(&self, address: &Uri) -> Result<Bearer, CliError> {
        let Some(token) = &self.token else {
            return Ok(Bearer(None));
        };
        let loopback = address.host().is_some_and(is_loopback);
        if address.scheme_str() != Some("https") && !loopback {
            return Err(CliError::usage(
                "the token would be sent in plain text",
                "write the control plane's address as https://HOST:PORT",
            ));
        }
        let token = contexts::resolve("--token", token)?;
        let mut value =
            MetadataValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| {
                CliError::usage(
                    "--token: it holds characters that no token has",
                    "check for the wrong file, or for a token of several lines",
                )
            })?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Without the token.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("ca_cert", &self.ca_cert)
            .field("client_cert", &self.client_cert)
            .finish_non_exhaustive()
    }
}

fn read(flag: &str, path: Option<&PathBuf>) -> Result<Option<String>, CliError> {
    path.map(|path| {
        fs::read_to_string(path).map_err(|error| {
            CliError::usage(
                format!("{flag}: could not read {}: {error}", path.display()),
                "give a file in PEM that you may read",
            )
        })
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
    use super::*;

    fn bearer(token: &str, address: &'static str) -> Result<Bearer, CliError> {
        let access = Access {
            token: Some(token.to_owned()),
            ..Access::default()
        };
        assert!(!format!("{access:?}").contains("s3cret"));
        access.bearer(&Uri::from_static(address))
    }

    #[test]
    fn a_token_is_never_sent_in_plain_text_to_another_machine() {
        let refused = bearer("s3cret", "http://ctl-a:7900").unwrap_err();
        assert!(refused.hint().unwrap().contains("https://"), "{refused}");
        for address in ["http://127.0.0.1:1", "http://[::1]:1", "https://ctl-a:7900"] {
            let shown = bearer("s3cret", address).unwrap();
            assert!(!format!("{shown:?}").contains("s3cret"), "{shown:?}");
        }
        assert!(bearer("two\nlines", "https://ctl-a:7900").is_err());
    }

    #[test]
    fn half_a_certificate_is_none() {
        let access = Access {
            client_cert: Some("/dev/null".into()),
            ..Access::default()
        };
        assert!(
            access
                .tls()
                .unwrap_err()
                .to_string()
                .contains("belong together")
        );
    }
}
