//! Settings of webhooks. Whoever may list pipelines sees them, so secrets are references to
//! `${env:NAME}` or `${file:PATH}` and never the secrets themselves.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnet::IpNet;

use super::{Login, timeout};
use crate::{SpecError, fields::Fields};

/// Headers that Tide writes itself; the names are the Standard Webhooks specification's.
const RESERVED_HEADERS: [&str; 4] = [
    "content-type",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];
/// More secrets than any rotation needs.
const MOST_SECRETS: usize = 8;

/// An endpoint that takes HTTP POST requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSpec {
    /// `http://` or `https://`, without credentials.
    pub url: String,
    /// Extra request headers; values may hold references.
    pub headers: BTreeMap<String, String>,
    /// One message must be taken within this.
    pub timeout: Duration,
    /// Whether a whole batch goes as one JSON array.
    pub batch: bool,
    /// Every request is signed with each of these; references to `whsec_…`.
    pub signing_secrets: Vec<String>,
    /// Who we are to the endpoint.
    pub authentication: Option<WebhookAuthentication>,
    /// Networks that are not public and may be sent to all the same.
    pub allow_networks: Vec<IpNet>,
    /// PEM text or a reference to it: who vouches for the endpoint, instead of the system's list.
    pub ca_certificate: Option<String>,
    /// What we show to an endpoint that asks for a certificate.
    pub client: Option<ClientCertificate>,
}

/// The ways to say who we are. References are not resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookAuthentication {
    /// A name and a password.
    Basic(Login),
    /// A token that does not change by itself.
    Bearer(String),
    /// A token that is fetched, by the client credentials grant.
    OAuth2(OAuth2Spec),
}

/// OAuth 2.0 client credentials (RFC 6749, section 4.4). References are not resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuth2Spec {
    /// The token endpoint.
    pub token_url: String,
    /// Our name there.
    pub client_id: String,
    /// A reference.
    pub client_secret: String,
    /// What the token is to be good for.
    pub scope: Option<String>,
    /// For whom, where servers ask for that.
    pub audience: Option<String>,
    /// Whether id and secret go into the form (`client_secret_post`), not the header.
    pub in_form: bool,
}

/// A certificate chain and its key. References are not resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM text, or a reference to it.
    pub certificate: String,
    /// A reference to PEM text.
    pub key: String,
}

impl WebhookSpec {
    pub(super) fn parse(fields: &mut Fields) -> Result<Self, SpecError> {
        let url = http_url(
            "url",
            fields.required_text("url", "https://example.com/events")?,
        )?;
        let headers = fields.text_map("headers")?;
        let authentication = WebhookAuthentication::parse(fields)?;
        check_headers(&headers, authentication.is_some())?;
        let ca_certificate = fields.text("ca_certificate")?;
        let client = ClientCertificate::parse(fields)?;
        if !url.starts_with("https://")
            && let Some(key) = [
                ca_certificate.as_ref().map(|_| "ca_certificate"),
                client.as_ref().map(|_| "client_certificate"),
            ]
            .into_iter()
            .flatten()
            .next()
        {
            return Err(SpecError::new(key, "needs an https:// URL")
                .hint("nothing would be encrypted, and nobody would look at it"));
        }
        Ok(Self {
            url,
            headers,
            timeout: timeout(fields)?,
            batch: fields.flag("batch")?.unwrap_or(false),
            signing_secrets: signing_secrets(fields)?,
            authentication,
            allow_networks: networks(fields)?,
            ca_certificate,
            client,
        })
    }
}

impl WebhookAuthentication {
    fn parse(fields: &mut Fields) -> Result<Option<Self>, SpecError> {
        const KEYS: [&str; 3] = ["username", "token", "oauth2_token_url"];
        let basic = fields
            .login()?
            .map(|login| match login.username {
                Some(_) => reference("password", &login.password).map(|()| Self::Basic(login)),
                None => {
                    Err(SpecError::new("username", "is missing").hint("\"password\" needs one"))
                }
            })
            .transpose()?;
        let bearer = fields
            .text("token")?
            .map(|token| reference("token", &token).map(|()| Self::Bearer(token)))
            .transpose()?;
        let ways = [basic, bearer, OAuth2Spec::parse(fields)?.map(Self::OAuth2)];
        let mut chosen = KEYS
            .into_iter()
            .zip(ways)
            .filter_map(|(key, way)| Some((key, way?)));
        let first = chosen.next();
        if let Some((key, _)) = chosen.next() {
            return Err(SpecError::new(key, "is one way to log in too many").hint(
                "either username and password, or token, or oauth2_token_url and its companions",
            ));
        }
        Ok(first.map(|(_, way)| way))
    }
}

impl OAuth2Spec {
    fn parse(fields: &mut Fields) -> Result<Option<Self>, SpecError> {
        const COMPANION: &str = "belongs to \"oauth2_token_url\", which is missing";
        let token_url = fields.text("oauth2_token_url")?;
        let client_id = fields.text("oauth2_client_id")?;
        let client_secret = fields.text("oauth2_client_secret")?;
        let scope = fields.text("oauth2_scope")?;
        let audience = fields.text("oauth2_audience")?;
        let in_form = fields.choice(
            "oauth2_client_authentication",
            &[("client_secret_basic", false), ("client_secret_post", true)],
        )?;
        let Some(token_url) = token_url else {
            let companions = [
                ("oauth2_client_id", client_id.is_some()),
                ("oauth2_client_secret", client_secret.is_some()),
                ("oauth2_scope", scope.is_some()),
                ("oauth2_audience", audience.is_some()),
                ("oauth2_client_authentication", in_form.is_some()),
            ];
            return match companions.iter().find(|(_, is_there)| *is_there) {
                Some((key, _)) => Err(SpecError::new(*key, COMPANION)),
                None => Ok(None),
            };
        };
        let missing =
            |key: &str| SpecError::new(key, "is missing").hint("\"oauth2_token_url\" needs one");
        let client_secret = client_secret.ok_or_else(|| missing("oauth2_client_secret"))?;
        reference("oauth2_client_secret", &client_secret)?;
        Ok(Some(Self {
            token_url: http_url("oauth2_token_url", token_url)?,
            client_id: client_id.ok_or_else(|| missing("oauth2_client_id"))?,
            client_secret,
            scope,
            audience,
            in_form: in_form.unwrap_or(false),
        }))
    }
}

impl ClientCertificate {
    fn parse(fields: &mut Fields) -> Result<Option<Self>, SpecError> {
        let missing = |key: &str, other: &str| {
            Err(SpecError::new(key, "is missing").hint(format!("\"{other}\" needs one")))
        };
        match (
            fields.text("client_certificate")?,
            fields.text("client_key")?,
        ) {
            (None, None) => Ok(None),
            (Some(_), None) => missing("client_key", "client_certificate"),
            (None, Some(_)) => missing("client_certificate", "client_key"),
            (Some(certificate), Some(key)) => {
                reference("client_key", &key)?;
                Ok(Some(Self { certificate, key }))
            }
        }
    }
}

fn check_headers(headers: &BTreeMap<String, String>, logs_in: bool) -> Result<(), SpecError> {
    for name in headers.keys() {
        let lower = name.to_ascii_lowercase();
        let key = format!("headers.{name}");
        if RESERVED_HEADERS.contains(&lower.as_str()) || lower.starts_with("tide-") {
            return Err(SpecError::new(key, "is set by Tide").hint("leave it out"));
        }
        if logs_in && lower == "authorization" {
            return Err(SpecError::new(key, "is one way to log in too many")
                .hint("leave it out, or the other settings that log in"));
        }
    }
    Ok(())
}

fn signing_secrets(fields: &mut Fields) -> Result<Vec<String>, SpecError> {
    const KEY: &str = "signing_secrets";
    let secrets = fields.text_list(KEY)?;
    if secrets.len() > MOST_SECRETS {
        return Err(
            SpecError::new(KEY, format!("holds {} secrets", secrets.len())).hint(format!(
                "at most {MOST_SECRETS}: the new one and those that it replaces"
            )),
        );
    }
    for secret in &secrets {
        // The prefix may stand before the reference or within the secret.
        reference(KEY, secret.strip_prefix("whsec_").unwrap_or(secret))?;
    }
    Ok(secrets)
}

fn networks(fields: &mut Fields) -> Result<Vec<IpNet>, SpecError> {
    const KEY: &str = "allow_networks";
    let parse = |text: String| {
        let network = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .ok()
            .filter(|network| network.addr() == network.network());
        network.ok_or_else(|| {
            SpecError::new(KEY, format!("holds {text:?}"))
                .hint("networks and addresses such as 10.1.0.0/16, 127.0.0.1 or fd00::/8")
        })
    };
    fields.text_list(KEY)?.into_iter().map(parse).collect()
}

/// A URL without credentials, because URLs are shown.
fn http_url(key: &'static str, url: String) -> Result<String, SpecError> {
    let wrong = |hint: &str| Err(SpecError::new(key, format!("is {url:?}")).hint(hint));
    let Some(rest) = ["http://", "https://"]
        .into_iter()
        .find_map(|scheme| url.strip_prefix(scheme))
    else {
        return wrong("an http:// or https:// URL");
    };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    if authority.contains('@') {
        // Not repeated: what is wrong with it is the secret.
        return Err(SpecError::new(key, "holds credentials")
            .hint("put them into \"username\" and \"password\", or \"token\""));
    }
    if authority.is_empty() {
        return wrong("an http:// or https:// URL with a host");
    }
    Ok(url)
}

/// Refuses a secret that stands there in plain text, without repeating it.
fn reference(key: &str, text: &str) -> Result<(), SpecError> {
    let mut rest = text;
    while let Some(inner) = rest.strip_prefix("${") {
        let Some(end) = inner.find('}') else { break };
        rest = &inner[end + 1..];
        if rest.is_empty() {
            return Ok(());
        }
    }
    Err(SpecError::new(key, "holds a secret in plain text")
        .hint("write it as ${env:NAME} or ${file:PATH}"))
}

#[cfg(test)]
mod tests;
