//! HTTP POST after the Standard Webhooks specification: one request a message, or one a batch. One
//! request is in flight at a time, which is what keeps the order of every key.

mod authentication;
mod client;
mod guard;
mod oauth2;
mod response;
mod signature;

use std::collections::BTreeMap;

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use ring::digest;
use tide_catalog::messages::Message;
use tide_model::{format::Carrier, sink_spec::WebhookSpec};
use time::OffsetDateTime;
use tokio::time::Instant;

use self::{authentication::Authentication, guard::Guard, signature::Signer};
use super::{Batch, Context, Named, Sink, SinkError, envelope, secret};

pub(crate) use self::client::warm_up;
pub(super) use self::guard::permitted;

pub(crate) struct WebhookSink {
    spec: WebhookSpec,
    client: Client,
    url: Url,
    headers: HeaderMap,
    signer: Signer,
    authentication: Authentication,
    /// What must not be shown, should a receiver repeat it.
    secrets: Vec<String>,
    /// Refused in a way that other secrets may mend: they are read again before the next attempt.
    stale: bool,
}

/// One request, however often it is sent.
struct Post {
    url: Url,
    id: String,
    /// What a format puts beside the body.
    beside: HeaderMap,
    body: bytes::Bytes,
}

/// Stable over every redelivery.
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// When the attempt was made, in seconds since 1970.
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const EPOCH: HeaderName = HeaderName::from_static("tide-epoch");
const PIPELINE: HeaderName = HeaderName::from_static("tide-pipeline");
const SHARD: HeaderName = HeaderName::from_static("tide-shard");

/// Shorter values of headers are not worth hiding, and would be found in the middle of words.
const SHORTEST_SECRET: usize = 8;

impl Sink for WebhookSink {
    const KIND: &'static str = "webhook";
    type Settings = WebhookSpec;

    /// Checks what it is made of. A connection would be of no use: HTTP has no way to open one
    /// without asking for something, and the receiver would see that.
    async fn prepare(spec: &WebhookSpec) -> Result<Option<Self>, SinkError> {
        Self::build(spec).map(|_| None)
    }

    async fn open(spec: &WebhookSpec, context: &Context) -> Result<Self, SinkError> {
        let mut sink = Self::build(spec)?;
        let headers = &mut sink.headers;
        let media_type = if spec.batch {
            context.encoder.batch_content_type()
        } else {
            context.encoder.content_type()
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(EPOCH, HeaderValue::from(context.epoch.0));
        // A pipeline's name admits no character that a header does not.
        if let Ok(pipeline) = HeaderValue::from_str(context.pipeline.pipeline_str()) {
            headers.insert(PIPELINE, pipeline);
        }
        if let Some(shard) = context.pipeline.shard()
            && let Ok(shard) = HeaderValue::from_str(&shard.to_string())
        {
            headers.insert(SHARD, shard);
        }
        Ok(sink)
    }

    async fn deliver(&mut self, context: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
        if self.stale {
            *self = Self::open(&self.spec, context).await?;
        }
        let outcome = self.deliver_all(context, batch).await;
        self.stale = matches!(outcome, Err(SinkError::Misconfigured { .. }));
        outcome
    }
}

/// A URL of the configuration, unless it names an address that the guard refuses.
fn address(setting: &str, url: &str, guard: &Guard) -> Result<Url, SinkError> {
    let wrong = |error: String| SinkError::misconfigured(format!("{setting}: {error}"));
    let url: Url = url.parse().map_err(|error| wrong(format!("{error}")))?;
    guard
        .check_url(&url)
        .map_err(|refused| wrong(refused.to_string()))?;
    Ok(url)
}

/// The headers that the pipeline's owner wishes for, with their secrets in place.
fn configured_headers(
    headers: &BTreeMap<String, String>,
    secrets: &mut Vec<String>,
) -> Result<HeaderMap, SinkError> {
    let mut made = HeaderMap::new();
    for (name, text) in headers {
        let setting = format!("headers.{name}");
        let resolved = secret::resolve(&setting, text)?;
        let invalid =
            |what| SinkError::misconfigured(format!("{setting}: not a valid header {what}"));
        let mut value = HeaderValue::from_str(&resolved).map_err(|_| invalid("value"))?;
        value.set_sensitive(true);
        made.insert(
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid("name"))?,
            value,
        );
        if resolved.len() >= SHORTEST_SECRET {
            secrets.push(resolved);
        }
    }
    Ok(made)
}

/// What a batch is called: the same for the same messages, and a message's own id if it is alone.
fn batch_id(messages: &[Message]) -> String {
    if let [message] = messages {
        return message.event_id.to_string();
    }
    let mut ids = digest::Context::new(&digest::SHA256);
    for message in messages {
        ids.update(message.event_id.as_bytes());
    }
    let hex = |byte: &u8| format!("{byte:02x}");
    let name: String = ids.finish().as_ref()[..16].iter().map(hex).collect();
    format!("batch_{name}")
}

impl WebhookSink {
    /// All that needs no owner.
    fn build(spec: &WebhookSpec) -> Result<Self, SinkError> {
        let guard = Guard::new(&spec.allow_networks);
        let mut secrets = Vec::new();
        let headers = configured_headers(&spec.headers, &mut secrets)?;
        let authentication = Authentication::new(spec, &guard, &mut secrets)?;
        Ok(Self {
            url: address("url", &spec.url, &guard)?,
            client: client::build(spec)?,
            headers,
            signer: Signer::new(&spec.signing_secrets)?,
            authentication,
            secrets,
            stale: false,
            spec: spec.clone(),
        })
    }

    async fn deliver_all(&mut self, context: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
        if self.spec.batch {
            match self.post(context, batch.messages, self.fixed()).await {
                // The answer does not say which one it means, so ask about each.
                Err(SinkError::Rejected { .. }) if batch.messages.len() > 1 => {}
                outcome => return outcome,
            }
        }
        for (delivered, message) in batch.messages.iter().enumerate() {
            let to = match batch.route(delivered) {
                Some(route) => {
                    let url = self.routed(route).map_err(|error| error.after(delivered))?;
                    (url, Named::ByMessage)
                }
                None => self.fixed(),
            };
            self.post(context, std::slice::from_ref(message), to)
                .await
                .map_err(|error| error.after(delivered))?;
            batch.progress.reached(delivered + 1);
        }
        Ok(())
    }

    fn fixed(&self) -> (Url, Named) {
        (self.url.clone(), Named::ByOwner)
    }

    /// Where a message wants to go. Not to another server, whatever was filled in.
    fn routed(&self, route: &str) -> Result<Url, SinkError> {
        let url: Url = route
            .parse()
            .map_err(|error| SinkError::rejected(format!("url: {error}")))?;
        if url.origin() != self.url.origin() {
            return Err(SinkError::rejected(format!("url: {route} is elsewhere")));
        }
        Ok(url)
    }

    /// Posts messages in one request: one by itself, or an array of them.
    async fn post(
        &mut self,
        context: &Context,
        messages: &[Message],
        (url, named): (Url, Named),
    ) -> Result<(), SinkError> {
        let length: usize = messages
            .iter()
            .map(|message| message.payload.len() + message.headers.len() + 256)
            .sum();
        let mut body = Vec::with_capacity(length);
        if self.spec.batch {
            body.push(b'[');
        }
        for (index, message) in messages.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            envelope::write(&mut body, context, message);
        }
        if self.spec.batch {
            body.push(b']');
        }
        let beside = match messages {
            [message] if !self.spec.batch => {
                of_message(&envelope::beside(context, Carrier::Http, message))?
            }
            _ => HeaderMap::new(),
        };
        let body = bytes::Bytes::from(body);
        let post = Post {
            url,
            id: batch_id(messages),
            beside,
            body,
        };
        let deadline = Instant::now() + self.spec.timeout;
        let mut authorization = self
            .authentication
            .header(&self.client, context, deadline)
            .await?;
        let mut response = self.send(context, &post, &authorization, deadline).await?;
        // A token may be revoked before it expires; one that was just made will not get better.
        if response.status() == StatusCode::UNAUTHORIZED
            && self.authentication.renew(&authorization)
        {
            authorization = self
                .authentication
                .header(&self.client, context, deadline)
                .await?;
            response = self.send(context, &post, &authorization, deadline).await?;
        }
        let mut secrets = self.secrets.clone();
        secrets.extend(authorization.secret());
        let missing = matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::GONE);
        match response::judge(response, &secrets).await {
            Err(SinkError::Misconfigured { reason, .. } | SinkError::Gone { reason, .. })
                if missing && named == Named::ByMessage =>
            {
                Err(SinkError::nowhere(named, reason))
            }
            judged => judged,
        }
    }

    async fn send(
        &self,
        context: &Context,
        post: &Post,
        authorization: &authentication::Header,
        deadline: Instant,
    ) -> Result<Response, SinkError> {
        let timestamp = OffsetDateTime::now_utc().unix_timestamp();
        let mut request = self
            .client
            .post(post.url.clone())
            .headers(self.headers.clone())
            .headers(post.beside.clone())
            .header(WEBHOOK_ID, &post.id)
            .header(WEBHOOK_TIMESTAMP, timestamp)
            .timeout(deadline.saturating_duration_since(Instant::now()))
            .body(post.body.clone());
        if let Some(signature) = self.signer.sign(&post.id, timestamp, &post.body) {
            request = request.header(WEBHOOK_SIGNATURE, signature);
        }
        if let Some(value) = authorization.value() {
            request = request.header(AUTHORIZATION, value);
        }
        context.may_publish()?;
        let answered = request.send().await;
        answered.map_err(|error| response::unanswered(&error))
    }
}

/// What stands beside a body, as header lines. Their names are the format's, never a publisher's.
fn of_message(beside: &[(String, String)]) -> Result<HeaderMap, SinkError> {
    let mut headers = HeaderMap::new();
    for (name, value) in beside {
        let invalid = |_| SinkError::rejected(format!("{name} is not a valid header"));
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| SinkError::rejected(format!("{name} is not a valid header")))?;
        headers.insert(name, HeaderValue::from_str(value).map_err(invalid)?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(event: u128) -> Message {
        Message {
            id: 1,
            event_id: uuid::Uuid::from_u128(event),
            key: None,
            payload: "{}".to_owned(),
            headers: "{}".to_owned(),
            created_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_batch_has_the_same_id_whenever_it_is_the_same() {
        let [one, two, three] = [1, 2, 3].map(message);
        assert_eq!(
            batch_id(std::slice::from_ref(&one)),
            one.event_id.to_string()
        );
        let both = batch_id(&[one.clone(), two.clone()]);
        assert_eq!(both, batch_id(&[one.clone(), two.clone()]));
        assert_ne!(both, batch_id(&[two.clone(), one.clone()]));
        assert_ne!(both, batch_id(&[one, two, three]));
        // A full stop would end the id in what is signed.
        assert!(both.starts_with("batch_") && !both.contains('.'), "{both}");
    }
}
