//! A certificate authority of a test's own, and what it issues.

use std::path::PathBuf;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use tempfile::TempDir;

/// A CA whose files are gone when it is dropped.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as files in PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        // Two authorities of one name would be taken for one with a wrong key.
        let name = format!("test CA {}", uuid::Uuid::new_v4());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("ca.pem"), issuer.pem())?;
        Ok(Self { folder, issuer })
    }

    /// Its own certificate.
    pub fn ca(&self) -> String {
        self.path("ca.pem").display().to_string()
    }

    /// One for a server on this machine.
    pub fn server(&self, file: &str) -> Result<Issued> {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        self.issue(file, &CertificateParams::new(names)?)
    }

    /// One that is made out to somebody: `default/agent/relay-1`.
    pub fn client(&self, file: &str, who: &str) -> Result<Issued> {
        self.uri(file, &format!("spiffe://test/tide/{who}"))
    }

    /// One with any URI.
    pub fn uri(&self, file: &str, uri: &str) -> Result<Issued> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        self.issue(file, &params)
    }

    /// A path among its files.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn issue(&self, file: &str, params: &CertificateParams) -> Result<Issued> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let (pem, private) = (
            self.path(&format!("{file}.pem")),
            self.path(&format!("{file}.key")),
        );
        std::fs::write(&pem, certificate.pem())?;
        std::fs::write(&private, key.serialize_pem())?;
        Ok(Issued {
            certificate: pem.display().to_string(),
            key: private.display().to_string(),
        })
    }
}
