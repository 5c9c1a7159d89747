//! A client that lives as long as its one connection.

use std::sync::Arc;

use async_nats::{
    ConnectOptions, Event, ServerError,
    jetstream::{self, context::ContextBuilder},
};
use tide_model::sink_spec::{NatsLogin, NatsSpec};
use tokio::{sync::watch, time::timeout};

use super::{CONNECT, SinkError, judge, lanes};
use crate::sink::secret;

/// Why a connection is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It is gone, or about to be.
    Disconnected,
    /// The server complained. It does not say about which message, nor answers that one.
    Server(String),
}

pub(super) struct Connection {
    stream: jetstream::Context,
    trouble: watch::Receiver<Option<Trouble>>,
}

impl Connection {
    /// Connects to the first server that can be reached.
    pub(super) async fn open(spec: &NatsSpec) -> Result<Self, SinkError> {
        let mut outcome = Err(SinkError::misconfigured("url: names no server"));
        for server in &spec.servers {
            outcome = timeout(CONNECT, Self::open_at(server, spec))
                .await
                .unwrap_or_else(|_| {
                    Err(SinkError::unreachable(format!(
                        "{server}: no connection within {CONNECT:?}"
                    )))
                });
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    async fn open_at(server: &str, spec: &NatsSpec) -> Result<Self, SinkError> {
        let (heard, trouble) = watch::channel(None);
        let heard = Arc::new(heard);
        let options = logged_in(spec)?
            .name("tide-agent")
            .connection_timeout(CONNECT)
            // With one server in the pool this lets it connect and, once that is lost, try once.
            // Nothing is sent then: the context below is gone with the batch.
            .ignore_discovered_servers()
            .max_reconnects(1)
            .event_callback(move |event| {
                let heard = Arc::clone(&heard);
                async move {
                    if let Some(trouble) = trouble_in(event) {
                        heard.send_if_modified(|last| {
                            // The first word is the reason, what follows its consequence.
                            let first = last.is_none();
                            last.get_or_insert(trouble);
                            first
                        });
                    }
                }
            });
        let client = options
            .connect(server)
            .await
            .map_err(|error| judge::unconnected(&error, server))?;
        let stream = ContextBuilder::new()
            .timeout(spec.timeout)
            .ack_timeout(spec.timeout)
            .max_ack_inflight(lanes::WIDTH * 2)
            .backpressure_on_inflight(true)
            .build(client);
        Ok(Self { stream, trouble })
    }

    pub(super) fn stream(&self) -> &jetstream::Context {
        &self.stream
    }

    pub(super) fn is_sound(&self) -> bool {
        self.trouble.borrow().is_none()
    }

    /// Returns when the connection is of no use any more. Cancel-safe.
    pub(super) async fn trouble(&self) -> Trouble {
        let mut trouble = self.trouble.clone();
        match trouble.wait_for(Option::is_some).await {
            Ok(trouble) => trouble.clone().unwrap_or(Trouble::Disconnected),
            // The client is gone.
            Err(_) => Trouble::Disconnected,
        }
    }
}

fn trouble_in(event: Event) -> Option<Trouble> {
    match event {
        Event::Disconnected | Event::Closed | Event::LameDuckMode => Some(Trouble::Disconnected),
        Event::ServerError(ServerError::AuthorizationViolation) => {
            Some(Trouble::Server("authorization violation".to_owned()))
        }
        Event::ServerError(ServerError::Other(text)) => Some(Trouble::Server(text)),
        _ => None,
    }
}

fn logged_in(spec: &NatsSpec) -> Result<ConnectOptions, SinkError> {
    let options = ConnectOptions::new();
    Ok(match &spec.login {
        None => options,
        Some(NatsLogin::Password(login)) => options.user_and_password(
            secret::resolve("username", login.username.as_deref().unwrap_or_default())?,
            secret::resolve("password", &login.password)?,
        ),
        Some(NatsLogin::Token(token)) => options.token(secret::resolve("token", token)?),
        Some(NatsLogin::Credentials(text)) => options
            .credentials(&secret::resolve("credentials", text)?)
            // What it says of the text might repeat it.
            .map_err(|_| {
                SinkError::misconfigured(
                    "credentials: not the text of a credentials file (a JWT and its seed); \
                     name one as ${file:PATH}",
                )
            })?,
    })
}
