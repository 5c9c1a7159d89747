//! Settings of the message brokers: NATS JetStream, Redis Streams, RabbitMQ.
//!
//! URLs hold no credentials: they are shown, logged and compared, and a password in one would have
//! to be percent-encoded. Credentials have keys of their own, which may hold `${env:NAME}` and
//! `${file:PATH}`.

use std::{fmt, time::Duration};

use super::timeout;
use crate::{SpecError, fields::Fields};

/// Redis remembers what it got from a pipeline for this long unless told otherwise.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);
/// The longest that may be asked for.
const LONGEST_DUPLICATE_WINDOW: Duration = Duration::from_hours(24);
/// AMQP's names are short strings.
const SHORT_STRING: usize = 255;

/// Who we are to a broker. References to secrets are not resolved.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The user; absent where a password alone is enough.
    pub username: Option<String>,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A stream of NATS JetStream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsSpec {
    /// `nats://host:port` or `tls://host:port`; at least one.
    pub servers: Vec<String>,
    /// The subject, which a stream must take.
    pub subject: String,
    /// Who we are; absent where anybody may publish.
    pub login: Option<NatsLogin>,
    /// One batch must be acknowledged within this.
    pub timeout: Duration,
}

/// The ways to log in to NATS. References to secrets are not resolved.
#[derive(Clone, PartialEq, Eq)]
pub enum NatsLogin {
    /// With a name and a password.
    Password(Login),
    /// With a token.
    Token(String),
    /// With the text of a credentials file (a JWT and its seed).
    Credentials(String),
}

impl fmt::Debug for NatsLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(..)",
            Self::Token(_) => "Token(..)",
            Self::Credentials(_) => "Credentials(..)",
        })
    }
}

/// A stream of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSpec {
    /// `redis://host:port/database` or `rediss://…`.
    pub url: String,
    /// The key of the stream; made by the first message.
    pub stream: String,
    /// Who we are; absent where anybody may write.
    pub login: Option<Login>,
    /// About so many entries are kept; absent keeps all.
    pub max_length: Option<u64>,
    /// A message that was appended within this time is not appended again; zero appends always.
    pub duplicate_window: Duration,
    /// One batch must be answered within this.
    pub timeout: Duration,
}

/// An exchange or a queue of RabbitMQ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RabbitmqSpec {
    /// `amqp://host:port/vhost` or `amqps://…`.
    pub url: String,
    /// The exchange; the default exchange, which delivers to the queue of the key's name, is empty.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Who we are; absent is guest, whom brokers admit from their own machine only.
    pub login: Option<Login>,
    /// One batch must be confirmed within this.
    pub timeout: Duration,
}

impl NatsSpec {
    pub(super) fn parse(fields: &mut Fields) -> Result<Self, SpecError> {
        const EXAMPLE: &str = "nats://nats:4222";
        let list = fields.required_text("url", EXAMPLE)?;
        let servers = list
            .split(',')
            .map(|server| address(server.trim(), &["nats://", "tls://"], EXAMPLE))
            .collect::<Result<_, _>>()?;
        let subject = fields.required_text("subject", "orders")?;
        // Of a template, what it is filled in with is checked for each message.
        if !subject.contains("{{")
            && (subject.split('.').any(str::is_empty)
                || subject
                    .contains(|c: char| c.is_whitespace() || c.is_control() || "*>".contains(c)))
        {
            return Err(SpecError::new("subject", format!("is {subject:?}"))
                .hint("words joined by dots, without spaces and wildcards, orders.created say"));
        }
        let login = fields.login()?;
        let token = fields.text("token")?;
        let credentials = fields.text("credentials")?;
        let login = match (login, token, credentials) {
            (None, None, None) => None,
            (Some(login), None, None) => Some(NatsLogin::Password(with_username(login)?)),
            (None, Some(token), None) => Some(NatsLogin::Token(token)),
            (None, None, Some(text)) => Some(NatsLogin::Credentials(text)),
            (_, token, _) => {
                let key = if token.is_some() {
                    "token"
                } else {
                    "credentials"
                };
                return Err(SpecError::new(key, "is one way to log in too many")
                    .hint("either username and password, or token, or credentials"));
            }
        };
        Ok(Self {
            servers,
            subject,
            login,
            timeout: timeout(fields)?,
        })
    }
}

impl RedisSpec {
    pub(super) fn parse(fields: &mut Fields) -> Result<Self, SpecError> {
        const EXAMPLE: &str = "redis://redis:6379/0";
        let url = fields.required_text("url", EXAMPLE)?;
        let window = fields.number(
            "duplicate_window_ms",
            0,
            LONGEST_DUPLICATE_WINDOW.as_millis() as u64,
        )?;
        Ok(Self {
            url: address(&url, &["redis://", "rediss://"], EXAMPLE)?,
            stream: fields.required_text("stream", "orders")?,
            login: fields.login()?,
            max_length: fields.number("max_length", 1, i64::MAX as u64)?,
            duplicate_window: window.map_or(DUPLICATE_WINDOW, Duration::from_millis),
            timeout: timeout(fields)?,
        })
    }
}

impl RabbitmqSpec {
    pub(super) fn parse(fields: &mut Fields) -> Result<Self, SpecError> {
        const EXAMPLE: &str = "amqp://rabbitmq:5672";
        let url = fields.required_text("url", EXAMPLE)?;
        let queue = fields.text("queue")?;
        let exchange = fields.text("exchange")?;
        let routing_key = fields.text("routing_key")?;
        let (exchange, routing_key) = match (queue, exchange, routing_key) {
            (Some(queue), None, None) => (String::new(), queue),
            (None, Some(exchange), key) => (exchange, key.unwrap_or_default()),
            (None, None, None) => {
                return Err(SpecError::new("queue", "is missing").hint(
                    "\"queue\": \"orders\", or \"exchange\": \"events\" and a \"routing_key\"",
                ));
            }
            (None, None, Some(_)) => {
                return Err(SpecError::new("exchange", "is missing").hint(
                    "\"routing_key\" belongs to an exchange; name a \"queue\" to go straight to it",
                ));
            }
            (Some(_), exchange, _) => {
                let key = exchange.map_or("routing_key", |_| "exchange");
                return Err(SpecError::new(key, "does not go with \"queue\"")
                    .hint("name a queue, or an exchange and a routing key"));
            }
        };
        for (key, name) in [("exchange", &exchange), ("routing_key", &routing_key)] {
            if name.len() > SHORT_STRING && !name.contains("{{") {
                let key = if key == "routing_key" && exchange.is_empty() {
                    "queue"
                } else {
                    key
                };
                return Err(SpecError::new(key, format!("is {} bytes long", name.len()))
                    .hint(format!("at most {SHORT_STRING} bytes")));
            }
        }
        Ok(Self {
            url: address(&url, &["amqp://", "amqps://"], EXAMPLE)?,
            exchange,
            routing_key,
            login: fields.login()?.map(with_username).transpose()?,
            timeout: timeout(fields)?,
        })
    }
}

impl Fields {
    pub(super) fn login(&mut self) -> Result<Option<Login>, SpecError> {
        let username = self.text("username")?;
        match (username, self.text("password")?) {
            (None, None) => Ok(None),
            (username, Some(password)) => Ok(Some(Login { username, password })),
            (Some(_), None) => Err(SpecError::new("password", "is missing").hint(
                "\"username\" needs one, for example \"password\": \"${env:BROKER_PASSWORD}\"",
            )),
        }
    }
}

fn with_username(login: Login) -> Result<Login, SpecError> {
    if login.username.is_some() {
        return Ok(login);
    }
    Err(SpecError::new("username", "is missing").hint("\"password\" needs one"))
}

/// A URL of one of the schemes, with a host and without credentials.
fn address(url: &str, schemes: &[&str], example: &str) -> Result<String, SpecError> {
    // Never repeated in an error before it is known to hold no password.
    if url.contains('@') {
        return Err(SpecError::new("url", "holds credentials")
            .hint("put them into \"username\" and \"password\", which may hold ${env:NAME} and ${file:PATH}"));
    }
    let host = schemes
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme))
        .filter(|rest| !rest.starts_with(['/', ':', '?']) && !rest.is_empty())
        .filter(|rest| !rest.contains(|c: char| c.is_whitespace() || c.is_control()));
    if host.is_none() {
        return Err(SpecError::new("url", format!("is {url:?}")).hint(format!(
            "{} and a host, for example {example}",
            schemes.join(" or ")
        )));
    }
    Ok(url.to_owned())
}

#[cfg(test)]
mod tests;
