//! What an answer means.

use std::{error::Error, io, time::Duration};

use reqwest::{Response, StatusCode, header::RETRY_AFTER};
use time::OffsetDateTime;

use super::{SinkError, guard};

/// The longest that a receiver may put us off.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);
/// So much of an error's body is read, whatever its length.
const BEGINNING: usize = 16 * 1024;
/// So much of it is shown.
const EXCERPT: usize = 200;

/// Judges an answer by its status. What a receiver says is shown without `secrets`, in case that
/// it repeats what it was sent.
pub(super) async fn judge(mut response: Response, secrets: &[String]) -> Result<(), SinkError> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let retry_after = retry_after(&response);
    let mut said = String::from_utf8_lossy(&beginning(&mut response).await).into_owned();
    for secret in secrets {
        said = said.replace(secret, "***");
    }
    let said = match said.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    };
    let reason = format!("HTTP {}{}", status.as_u16(), excerpt(&said));
    Err(match status {
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::CONFLICT => SinkError::rejected(reason),
        StatusCode::GONE => SinkError::gone(reason),
        status if may_pass(status) => SinkError::Transient {
            delivered: 0,
            reason,
            retry_after,
            unreached: false,
        },
        // Redirects, missing pages, refused credentials: no message will fare better.
        _ => SinkError::misconfigured(reason),
    })
}

/// Whether the same request may be answered otherwise later.
pub(super) fn may_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}

/// How long the receiver asks us to wait: a number of seconds or a date.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    patience(value, OffsetDateTime::now_utc())
}

fn patience(value: &str, now: OffsetDateTime) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // More seconds than there are numbers for are no date either.
        Err(_) if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() => {
            Duration::MAX
        }
        Err(_) => {
            let date = OffsetDateTime::from(httpdate::parse_http_date(value).ok()?);
            // A date that is over asks for nothing.
            (date - now).try_into().unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Judges a request that got no answer.
pub(super) fn unanswered(error: &reqwest::Error) -> SinkError {
    if let Some(refused) = guard::refusal(error) {
        return SinkError::misconfigured(refused.to_string());
    }
    if error.is_builder() {
        return SinkError::misconfigured(root(error));
    }
    if let Some(error) = tls(error) {
        return error;
    }
    let what = if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "no answer in time"
    } else {
        "no proper answer"
    };
    let judged = SinkError::transient(format!("{what}: {}", root(error)));
    if error.is_connect() {
        judged.unreached()
    } else {
        judged
    }
}

/// Judges a handshake that failed because of somebody's certificate.
fn tls(error: &reqwest::Error) -> Option<SinkError> {
    use rustls::{AlertDescription as Alert, Error as Tls};
    let found = tls_error(error)?;
    let hint = match found {
        Tls::InvalidCertificate(_) => {
            "\"ca_certificate\", or SSL_CERT_FILE for all pipelines, names who is trusted"
        }
        Tls::AlertReceived(
            Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError,
        ) => "\"client_certificate\" and \"client_key\" are what the endpoint sees of us",
        _ => return None,
    };
    Some(SinkError::misconfigured(format!("{found}; {hint}")).unreached())
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        // Errors of I/O do not name what they wrap as their source.
        let wrapped = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    None
}

/// The innermost cause; the layers around it repeat the URL, which may hold credentials.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if std::ptr::eq(cause, error as &dyn Error) {
        "request failed".to_owned()
    } else {
        cause.to_string()
    }
}

/// The beginning of a body; what follows is not waited for, because it may have no end.
pub(super) async fn beginning(response: &mut Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < BEGINNING
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk[..chunk.len().min(BEGINNING - body.len())]);
    }
    body
}

/// As much of a text as fits into a reason, in one line.
pub(super) fn excerpt(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(EXCERPT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_may_ask_for_patience_in_seconds_or_by_a_date_and_not_for_too_much() {
        let now = httpdate::parse_http_date("Sat, 21 Nov 2026 12:00:00 GMT").unwrap();
        let now = OffsetDateTime::from(now);
        let second = Duration::from_secs;
        for (value, wait) in [
            ("0", Some(second(0))),
            (" 120 ", Some(second(120))),
            ("86400", Some(MAX_RETRY_AFTER)),
            ("99999999999999999999999", Some(MAX_RETRY_AFTER)),
            ("Sat, 21 Nov 2026 12:00:30 GMT", Some(second(30))),
            ("Saturday, 21-Nov-26 12:00:30 GMT", Some(second(30))),
            ("Sat Nov 21 12:00:30 2026", Some(second(30))),
            ("Sat, 21 Nov 2026 11:00:00 GMT", Some(second(0))),
            ("Sun, 22 Nov 2026 12:00:00 GMT", Some(MAX_RETRY_AFTER)),
            ("soon", None),
            ("-5", None),
            ("", None),
        ] {
            assert_eq!(patience(value, now), wait, "{value:?}");
        }
    }

    #[tokio::test]
    async fn what_a_receiver_repeats_of_our_secrets_is_not_shown() {
        let answer = |status: u16, body: &'static str| -> Response {
            let answer = axum::http::Response::builder().status(status);
            answer.body(body).unwrap().into()
        };
        let secrets = ["s3cret-token".to_owned()];
        let said = "Bearer s3cret-token\nis not good";
        let error = judge(answer(401, said), &secrets).await.unwrap_err();
        assert_eq!(error.to_string(), "HTTP 401: Bearer ***is not good");
        let gone = judge(answer(410, ""), &[]).await.unwrap_err();
        assert_eq!(gone, SinkError::gone("HTTP 410"));
        assert_eq!(judge(answer(202, said), &[]).await, Ok(()));
    }
}
