//! What an answer means.

use std::{error::Error, time::Duration};

use reqwest::{Response, StatusCode, header::RETRY_AFTER};

use super::SinkError;

/// The longest that a receiver may put us off.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);
/// So much of an error's body is shown.
const EXCERPT: usize = 200;

/// Judges an answer by its status.
pub(super) async fn judge(response: Response) -> Result<(), SinkError> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    let reason = format!("HTTP {}{}", status.as_u16(), excerpt(response).await);
    Err(match status {
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::CONFLICT => SinkError::rejected(reason),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            SinkError::Transient {
                delivered: 0,
                reason,
                retry_after,
            }
        }
        status if status.is_server_error() => SinkError::Transient {
            delivered: 0,
            reason,
            retry_after,
        },
        // Redirects, missing pages, refused credentials: no message will fare better.
        _ => SinkError::misconfigured(reason),
    })
}

/// Judges a request that got no answer.
pub(super) fn unanswered(error: &reqwest::Error) -> SinkError {
    if error.is_builder() {
        return SinkError::misconfigured(root(error));
    }
    let what = if error.is_timeout() {
        "no answer in time"
    } else {
        "no connection"
    };
    SinkError::transient(format!("{what}: {}", root(error)))
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

async fn excerpt(response: Response) -> String {
    let body = response.bytes().await.unwrap_or_default();
    let text: String = String::from_utf8_lossy(&body)
        .chars()
        .filter(|c| !c.is_control())
        .take(EXCERPT)
        .collect();
    if text.trim().is_empty() {
        String::new()
    } else {
        format!(": {}", text.trim())
    }
}
