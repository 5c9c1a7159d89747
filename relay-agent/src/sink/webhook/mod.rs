//! HTTP POST: one request a message, or one a batch. One request is in flight at a time, which is
//! what keeps the order of every key.

mod response;

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use reqwest::{
    Client,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use tide_catalog::messages::Message;

use super::{Batch, Context, Sink, SinkError, envelope, secret};

/// What the sink is opened from.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) url: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) timeout: Duration,
    pub(crate) batch: bool,
}

pub(crate) struct WebhookSink {
    client: Client,
    url: reqwest::Url,
    headers: HeaderMap,
    timeout: Duration,
    batch: bool,
}

/// Stable over every redelivery, as the Standard Webhooks specification names it.
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const EPOCH: HeaderName = HeaderName::from_static("tide-epoch");
const PIPELINE: HeaderName = HeaderName::from_static("tide-pipeline");
const SHARD: HeaderName = HeaderName::from_static("tide-shard");

/// One client for all pipelines. Reading the system's certificates takes longer than a takeover
/// should, so it is made when the agent starts (see [`warm_up`]).
static CLIENT: LazyLock<Result<Client, String>> = LazyLock::new(|| {
    Client::builder()
        // A redirect would send messages to somebody who was not configured.
        .redirect(Policy::none())
        .user_agent(concat!("tide-agent/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| error.to_string())
});

/// Makes what every webhook needs. Blocks for a moment.
pub(crate) fn warm_up() {
    LazyLock::force(&CLIENT);
}

impl Sink for WebhookSink {
    const KIND: &'static str = "webhook";
    type Settings = Settings;

    /// Checks what it is made of. A connection would be of no use: HTTP has no way to open one
    /// without asking for something, and the receiver would see that.
    async fn prepare(settings: &Settings) -> Result<Option<Self>, SinkError> {
        address(settings)?;
        configured_headers(settings)?;
        client().map(|_| None)
    }

    async fn open(settings: &Settings, context: &Context) -> Result<Self, SinkError> {
        let url = address(settings)?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
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
        headers.extend(configured_headers(settings)?);
        Ok(Self {
            client: client()?,
            url,
            headers,
            timeout: settings.timeout,
            batch: settings.batch,
        })
    }

    async fn deliver(&mut self, context: &Context, batch: &Batch<'_>) -> Result<(), SinkError> {
        if self.batch {
            match self.post_array(context, batch.messages).await {
                // The answer does not say which one it means, so ask about each.
                Err(SinkError::Rejected { .. }) if batch.messages.len() > 1 => {}
                outcome => return outcome,
            }
        }
        for (delivered, message) in batch.messages.iter().enumerate() {
            let posted = if self.batch {
                self.post_array(context, std::slice::from_ref(message))
                    .await
            } else {
                self.post_one(context, message).await
            };
            posted.map_err(|error| error.after(delivered))?;
            batch.progress.reached(delivered + 1);
        }
        Ok(())
    }
}

fn client() -> Result<Client, SinkError> {
    CLIENT.clone().map_err(SinkError::misconfigured)
}

fn address(settings: &Settings) -> Result<reqwest::Url, SinkError> {
    settings
        .url
        .parse()
        .map_err(|error| SinkError::misconfigured(format!("url: {error}")))
}

/// The headers that the pipeline's owner wishes for, with their secrets in place.
fn configured_headers(settings: &Settings) -> Result<HeaderMap, SinkError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.headers {
        let setting = format!("headers.{name}");
        let value = secret::resolve(&setting, value)?;
        let invalid =
            |what| SinkError::misconfigured(format!("{setting}: not a valid header {what}"));
        let mut value = HeaderValue::from_str(&value).map_err(|_| invalid("value"))?;
        value.set_sensitive(true);
        headers.insert(
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid("name"))?,
            value,
        );
    }
    Ok(headers)
}

impl WebhookSink {
    async fn post_one(&self, context: &Context, message: &Message) -> Result<(), SinkError> {
        let mut body = Vec::with_capacity(message.payload.len() + message.headers.len() + 256);
        envelope::write(&mut body, context, message);
        let id = HeaderValue::from_str(&message.event_id.to_string())
            .map_err(|error| SinkError::rejected(error.to_string()))?;
        self.post(context, body, Some(id)).await
    }

    async fn post_array(&self, context: &Context, messages: &[Message]) -> Result<(), SinkError> {
        let mut body = vec![b'['];
        for (index, message) in messages.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            envelope::write(&mut body, context, message);
        }
        body.push(b']');
        self.post(context, body, None).await
    }

    async fn post(
        &self,
        context: &Context,
        body: Vec<u8>,
        id: Option<HeaderValue>,
    ) -> Result<(), SinkError> {
        let mut request = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .timeout(self.timeout)
            .body(body);
        if let Some(id) = id {
            request = request.header(WEBHOOK_ID, id);
        }
        context.may_publish()?;
        let response = request
            .send()
            .await
            .map_err(|error| response::unanswered(&error))?;
        response::judge(response).await
    }
}
