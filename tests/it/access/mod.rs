//! Who may ask a control plane what: TLS, certificates, tokens, roles, and what is recorded of it.

pub(crate) mod agents;
mod hostile;
mod operators;
mod web;

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use tide_tests::{
    Fleet, FleetOptions, SOON,
    certificates::Authority,
    command::{Finished, run},
    replica::Replica,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

/// Long enough that no busy machine takes the lead away.
const LEASE: Duration = Duration::from_secs(20);

/// A fleet, and a control plane that asks everybody who they are.
pub(crate) struct Guarded {
    pub(crate) authority: Authority,
    pub(crate) replica: Replica,
    pub(crate) fleet: Fleet,
}

impl Guarded {
    /// With certificates of our CA, and these tokens: `name`, `role`, `token`, and further lines.
    pub(crate) async fn start(agents: usize, tokens: &[(&str, &str, &str, &str)]) -> Result<Self> {
        let fleet = Fleet::start(FleetOptions::agents(agents)).await?;
        let authority = Authority::new()?;
        let server = authority.server("server")?;
        std::fs::write(authority.path("tokens.toml"), tokens_file(tokens))?;
        let path = authority.path("tokens.toml").display().to_string();
        let ca = authority.ca();
        let flags = [
            ("--tls-cert", server.certificate.as_str()),
            ("--tls-key", &server.key),
            ("--client-ca", &ca),
            ("--tokens", &path),
            // Its agents report to nobody: there is nothing to wait for.
            ("--warm-up", "0"),
        ];
        let replica = Replica::start_with(&fleet, "control-plane", LEASE, &flags).await?;
        Ok(Self {
            authority,
            replica,
            fleet,
        })
    }

    /// `tidectl` against this control plane alone, with the CA and what else is given.
    pub(crate) async fn tidectl(&self, words: &[&str], more: &[(&str, &str)]) -> Result<Finished> {
        let (url, ca) = (self.replica.url(), self.authority.ca());
        let mut environment = vec![
            ("TIDE_CONTROL_PLANE", url.as_str()),
            ("TIDE_CA_CERT", &ca),
            ("XDG_CONFIG_HOME", "/nowhere"),
        ];
        environment.extend(more);
        let words = [words, &["--source", "control-plane"]].concat();
        run("tidectl", &words, &environment, SOON).await
    }

    /// A connection that trusts the CA and shows nothing.
    async fn channel(&self) -> Result<Channel> {
        let ca = Certificate::from_pem(std::fs::read(self.authority.ca())?);
        let tls = ClientTlsConfig::new().ca_certificate(ca);
        let endpoint = Channel::from_shared(self.replica.url())?.tls_config(tls)?;
        endpoint.connect().await.context("connecting")
    }

    /// Rows of the audit, oldest first, as `kind subject actor outcome authenticated_by`.
    async fn audit(&self, kinds: &str) -> Result<Vec<String>> {
        let rows = sqlx::query_scalar(
            "SELECT rtrim(concat_ws(' ', kind, subject, actor, split_part(outcome, ' ', 1), authenticated_by))
             FROM tide.events WHERE kind LIKE $1 ORDER BY id",
        );
        Ok(rows.bind(kinds).fetch_all(self.fleet.pool()).await?)
    }
}

fn tokens_file(tokens: &[(&str, &str, &str, &str)]) -> String {
    let entry = |(name, role, token, more): &(&str, &str, &str, &str)| {
        let mut hash = String::new();
        for byte in Sha256::digest(token.as_bytes()) {
            write!(hash, "{byte:02x}").expect("writing to a String does not fail");
        }
        format!("[[token]]\nname = {name:?}\nrole = {role:?}\nsha256 = {hash:?}\n{more}\n")
    };
    tokens.iter().map(entry).collect()
}
