//! Who a client certificate is made out to. Pure.
//!
//! The URI among its subject alternative names says so, in the manner of SPIFFE; the trust domain
//! is whatever the CA writes:
//!
//! ```text
//! spiffe://TRUST-DOMAIN/tide/GROUP/agent/relay-1
//! spiffe://TRUST-DOMAIN/tide/GROUP/operator/ana        viewer, operator or admin
//! ```
//!
//! Group and name are percent-decoded. Whether the CA is ours was decided by the handshake.

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::{Principal, Proof, Role};

/// A certificate that names nobody whom we know how to call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    /// No certificate at all.
    #[error("it cannot be read")]
    Unreadable,
    /// No URI of ours.
    #[error("none of its URIs is spiffe://TRUST-DOMAIN/tide/GROUP/ROLE/NAME")]
    NoIdentity,
    /// Several of them.
    #[error("it names more than one identity")]
    Ambiguous,
}

/// Reads whom a certificate, in DER, is made out to.
pub(crate) fn principal(der: &[u8]) -> Result<Principal, Unusable> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Unusable::Unreadable)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| Unusable::Unreadable)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    named(&uris)
}

fn named(uris: &[&str]) -> Result<Principal, Unusable> {
    let mut found = uris.iter().filter_map(|uri| identity(uri));
    match (found.next(), found.next()) {
        (None, _) => Err(Unusable::NoIdentity),
        (Some(principal), None) => Ok(principal),
        (Some(_), Some(_)) => Err(Unusable::Ambiguous),
    }
}

fn identity(uri: &str) -> Option<Principal> {
    let (domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
    let mut parts = path.split('/');
    let (tide, group, role, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if domain.is_empty() || tide != "tide" || parts.next().is_some() {
        return None;
    }
    let role = Role::ALL.into_iter().find(|known| known.as_str() == role)?;
    Some(Principal {
        name: decoded(name)?,
        role,
        proof: Proof::Certificate,
        group: Some(decoded(group)?),
    })
}

/// Undoes percent-encoding; none if it is not one, or nothing is left.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            (digit()? << 4 | digit()?) as u8
        } else {
            byte
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uris: &[&str]) -> Result<(String, &'static str, String), Unusable> {
        named(uris).map(|who| (who.group.unwrap_or_default(), who.role.as_str(), who.name))
    }

    #[test]
    fn one_uri_of_ours_says_who_it_is() {
        let text = |a: &str, b, c: &str| Ok((a.to_owned(), b, c.to_owned()));
        assert_eq!(
            of(&[
                "https://example.org/x",
                "spiffe://prod/tide/default/agent/relay-1"
            ]),
            text("default", "agent", "relay-1")
        );
        assert_eq!(
            of(&["spiffe://prod/tide/eu%2F1/operator/ana%40corp"]),
            text("eu/1", "operator", "ana@corp")
        );
    }

    #[test]
    fn everything_else_names_nobody() {
        for uri in [
            "spiffe://prod/ns/default/sa/relay",
            "spiffe:///tide/default/agent/relay-1",
            "spiffe://prod/tide/default/agent/",
            "spiffe://prod/tide/default/agent/a/b",
            "spiffe://prod/tide/default/root/ana",
            "spiffe://prod/tide/default/agent/a%0Ab",
            "spiffe://prod/tide/default/agent/a%2",
            "https://prod/tide/default/agent/relay-1",
        ] {
            assert_eq!(of(&[uri]), Err(Unusable::NoIdentity), "{uri}");
        }
        assert_eq!(of(&[]), Err(Unusable::NoIdentity));
        let both = [
            "spiffe://prod/tide/default/agent/relay-1",
            "spiffe://prod/tide/default/agent/relay-2",
        ];
        assert_eq!(of(&both), Err(Unusable::Ambiguous));
        assert_eq!(principal(b"nonsense"), Err(Unusable::Unreadable));
    }
}
