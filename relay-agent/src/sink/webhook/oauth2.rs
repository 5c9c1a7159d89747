//! Tokens by the client credentials grant (RFC 6749, section 4.4): fetched when the first message
//! needs one, kept until shortly before they expire, and fetched anew when the endpoint refuses
//! one that should be good.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{
    Client, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;
use tide_model::sink_spec::OAuth2Spec;
use tokio::time::Instant;

use super::{Context, SinkError, guard::Guard, response, secret};

/// A token is replaced this long before it expires, or at nine tenths of a short life.
const EARLY: Duration = Duration::from_mins(1);
/// No token is believed to live longer.
const LONGEST_LIFE: Duration = Duration::from_hours(24 * 365);

/// A token endpoint, and the token that it gave last.
pub(super) struct OAuth2 {
    url: Url,
    form: String,
    /// Of clients that authenticate in the header.
    credentials: Option<HeaderValue>,
    token: Option<Token>,
}

struct Token {
    header: HeaderValue,
    /// None if the server does not say when it expires.
    refresh_at: Option<Instant>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: String,
    expires_in: Option<f64>,
}

#[derive(Deserialize)]
struct Denied {
    error: String,
    error_description: Option<String>,
}

impl OAuth2 {
    pub(super) fn new(spec: &OAuth2Spec, guard: &Guard) -> Result<Self, SinkError> {
        let url = super::address("oauth2_token_url", &spec.token_url, guard)?;
        let id = secret::resolve("oauth2_client_id", &spec.client_id)?;
        let secret = secret::resolve("oauth2_client_secret", &spec.client_secret)?;
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(spec.scope.as_deref().map(|scope| ("scope", scope)));
        form.extend(spec.audience.as_deref().map(|who| ("audience", who)));
        let credentials = if spec.in_form {
            form.extend([("client_id", id.as_str()), ("client_secret", &secret)]);
            None
        } else {
            let encoded = [&id, &secret].map(|part| secret::percent_encoded(part));
            let mut header = HeaderValue::try_from(format!(
                "Basic {}",
                STANDARD.encode(format!("{}:{}", encoded[0], encoded[1]))
            ))
            .expect("base64 is valid in a header");
            header.set_sensitive(true);
            Some(header)
        };
        let form: Vec<String> = form
            .into_iter()
            .map(|(name, value)| format!("{name}={}", secret::percent_encoded(value)))
            .collect();
        Ok(Self {
            url,
            form: form.join("&"),
            credentials,
            token: None,
        })
    }

    /// The header to send, fetched by `deadline` if there is none that is still good. True if it
    /// is fresh: a refusal then says nothing about its age.
    pub(super) async fn header(
        &mut self,
        client: &Client,
        context: &Context,
        deadline: Instant,
    ) -> Result<(HeaderValue, bool), SinkError> {
        let now = Instant::now();
        let is_good = |token: &&Token| token.refresh_at.is_none_or(|refresh_at| now < refresh_at);
        if let Some(token) = self.token.as_ref().filter(is_good) {
            return Ok((token.header.clone(), false));
        }
        let token = self.fetch(client, context, deadline).await?;
        let header = token.header.clone();
        self.token = Some(token);
        Ok((header, true))
    }

    /// The endpoint refused the token.
    pub(super) fn forget(&mut self) {
        self.token = None;
    }

    async fn fetch(
        &self,
        client: &Client,
        context: &Context,
        deadline: Instant,
    ) -> Result<Token, SinkError> {
        let asked = Instant::now();
        let mut request = client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .timeout(deadline.saturating_duration_since(asked))
            .body(self.form.clone());
        if let Some(credentials) = &self.credentials {
            request = request.header(AUTHORIZATION, credentials.clone());
        }
        context.may_publish()?;
        let mut answer = request
            .send()
            .await
            .map_err(|error| response::unanswered(&error).of("token endpoint"))?;
        let status = answer.status();
        let retry_after = response::retry_after(&answer);
        let body = response::beginning(&mut answer).await;
        if status.is_success() {
            return granted(&body, asked);
        }
        Err(denied(status, retry_after, &body).of("token endpoint"))
    }
}

fn granted(body: &[u8], asked: Instant) -> Result<Token, SinkError> {
    // Never shown: it may hold a token all the same.
    let garbage = || SinkError::misconfigured("token endpoint: answered without a bearer token");
    let granted: Granted = serde_json::from_slice(body).map_err(|_| garbage())?;
    if !granted.token_type.eq_ignore_ascii_case("bearer") {
        return Err(garbage());
    }
    let mut header =
        HeaderValue::try_from(format!("Bearer {}", granted.access_token)).map_err(|_| garbage())?;
    header.set_sensitive(true);
    let life = granted.expires_in.map(|seconds| {
        Duration::try_from_secs_f64(seconds.max(0.0))
            .unwrap_or(LONGEST_LIFE)
            .min(LONGEST_LIFE)
    });
    Ok(Token {
        header,
        refresh_at: life.map(|life| asked + life.saturating_sub(EARLY.min(life / 10))),
    })
}

/// Judges a refusal of the token endpoint.
fn denied(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> SinkError {
    let denied: Option<Denied> = serde_json::from_slice(body).ok();
    let passes = match denied.as_ref().map(|denied| denied.error.as_str()) {
        Some("temporarily_unavailable" | "server_error" | "slow_down") => true,
        Some(_) if status.is_client_error() => false,
        _ => response::may_pass(status),
    } || response::may_pass(status);
    let said = denied.map_or_else(String::new, |denied| {
        let description = denied.error_description;
        let description = description.map_or_else(String::new, |text| format!(": {text}"));
        format!(": {}{description}", denied.error)
    });
    let reason = format!("HTTP {}{}", status.as_u16(), response::excerpt(&said));
    if passes {
        SinkError::Transient {
            delivered: 0,
            reason,
            retry_after,
            unreached: false,
        }
    } else {
        SinkError::misconfigured(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_endpoint_s_words_decide() {
        for (status, body, passes, words) in [
            (
                401,
                r#"{"error":"invalid_client","error_description":"no such client"}"#,
                false,
                "HTTP 401: invalid_client: no such client",
            ),
            (
                400,
                r#"{"error":"invalid_scope"}"#,
                false,
                "HTTP 400: invalid_scope",
            ),
            (
                400,
                r#"{"error":"temporarily_unavailable"}"#,
                true,
                "HTTP 400: temporarily_unavailable",
            ),
            (503, "<html>", true, "HTTP 503"),
            (500, r#"{"error":"x"}"#, true, "HTTP 500: x"),
            (429, "", true, "HTTP 429"),
            (404, "", false, "HTTP 404"),
            (302, "", false, "HTTP 302"),
        ] {
            let error = denied(StatusCode::from_u16(status).unwrap(), None, body.as_bytes());
            assert_eq!(error.to_string(), words);
            assert_eq!(
                matches!(error, SinkError::Transient { .. }),
                passes,
                "{words}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_replaced_before_it_expires() {
        let now = Instant::now();
        let refresh = |expires_in: &str| {
            let body = format!(r#"{{"access_token":"t","token_type":"bearer"{expires_in}}}"#);
            let token = granted(body.as_bytes(), now).unwrap();
            token.refresh_at.map(|at| (at - now).as_secs())
        };
        assert_eq!(refresh(r#","expires_in":3600"#), Some(3540));
        assert_eq!(refresh(r#","expires_in":100"#), Some(90));
        assert_eq!(refresh(r#","expires_in":-5"#), Some(0));
        assert_eq!(
            refresh(r#","expires_in":1e300"#),
            Some(LONGEST_LIFE.as_secs() - 60)
        );
        assert_eq!(refresh(""), None);
    }

    #[test]
    fn what_is_no_token_is_not_shown() {
        for body in [
            "<html>geheim</html>",
            r#"{"access_token":"geheim","token_type":"mac"}"#,
            r#"{"access_token":"gehe\nim","token_type":"bearer"}"#,
            r#"{"access_token":"geheim"}"#,
        ] {
            let Err(error) = granted(body.as_bytes(), Instant::now()) else {
                panic!("{body} was taken");
            };
            assert!(
                error.to_string().ends_with("without a bearer token"),
                "{error}"
            );
        }
    }
}
