//! Who we are to the endpoint: the value of `authorization`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Client, header::HeaderValue};
use tide_model::sink_spec::{WebhookAuthentication, WebhookSpec};
use tokio::time::Instant;

use super::{Context, SinkError, guard::Guard, oauth2::OAuth2, secret};

pub(super) enum Authentication {
    Nobody,
    /// The same for every request.
    Fixed(HeaderValue),
    OAuth2(OAuth2),
}

/// What goes with one request.
pub(super) struct Header {
    value: Option<HeaderValue>,
    /// Whether asking again could bring another one.
    renewable: bool,
}

impl Authentication {
    /// Resolves the references; what they stand for is added to `secrets`.
    pub(super) fn new(
        spec: &WebhookSpec,
        guard: &Guard,
        secrets: &mut Vec<String>,
    ) -> Result<Self, SinkError> {
        match &spec.authentication {
            None => Ok(Self::Nobody),
            Some(WebhookAuthentication::Basic(login)) => {
                let name = login.username.as_deref().unwrap_or_default();
                let name = secret::resolve("username", name)?;
                let password = secret::resolve("password", &login.password)?;
                let pair = STANDARD.encode(format!("{name}:{password}"));
                secrets.extend([password, pair.clone()]);
                fixed("password", &format!("Basic {pair}"))
            }
            Some(WebhookAuthentication::Bearer(token)) => {
                let token = secret::resolve("token", token)?;
                let header = fixed("token", &format!("Bearer {token}"));
                secrets.push(token);
                header
            }
            Some(WebhookAuthentication::OAuth2(spec)) => {
                Ok(Self::OAuth2(OAuth2::new(spec, guard)?))
            }
        }
    }

    /// The header of the next request, and where it has to be fetched, by `deadline`.
    pub(super) async fn header(
        &mut self,
        client: &Client,
        context: &Context,
        deadline: Instant,
    ) -> Result<Header, SinkError> {
        let (value, renewable) = match self {
            Self::Nobody => (None, false),
            Self::Fixed(value) => (Some(value.clone()), false),
            Self::OAuth2(oauth2) => {
                let (value, fresh) = oauth2.header(client, context, deadline).await?;
                (Some(value), !fresh)
            }
        };
        Ok(Header { value, renewable })
    }

    /// The endpoint refused this header; true if the next one will be another.
    pub(super) fn renew(&mut self, refused: &Header) -> bool {
        if let Self::OAuth2(oauth2) = self {
            oauth2.forget();
        }
        refused.renewable
    }
}

impl Header {
    pub(super) fn value(&self) -> Option<HeaderValue> {
        self.value.clone()
    }

    /// What must not be shown of it.
    pub(super) fn secret(&self) -> Option<String> {
        let value = self.value.as_ref()?.to_str().ok()?;
        value.split_once(' ').map(|(_, secret)| secret.to_owned())
    }
}

fn fixed(setting: &str, value: &str) -> Result<Authentication, SinkError> {
    let mut value = HeaderValue::from_str(value).map_err(|_| {
        SinkError::misconfigured(format!(
            "{setting}: holds what no header may, a line break say"
        ))
    })?;
    value.set_sensitive(true);
    Ok(Authentication::Fixed(value))
}
