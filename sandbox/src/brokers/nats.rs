//! NATS with JetStream.

use std::time::Duration;

use async_nats::{
    ConnectOptions, HeaderMap,
    jetstream::{self, stream},
};
use futures_util::StreamExt as _;

use super::{Broker, BrokerError, readback, reserve, write};
use crate::{envelope::Delivery, leftovers::Scratch};

/// Debian's place for it; not on the PATH of ordinary users.
const PROGRAM: &str = "/usr/sbin/nats-server";
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server; dropping it kills it.
#[derive(Debug)]
pub struct Nats {
    broker: Broker,
    login: Option<(String, String)>,
}

impl Nats {
    /// Starts a server that takes anybody.
    pub async fn start(scratch: &Scratch) -> Result<Self, BrokerError> {
        Self::start_with(scratch, None, "").await
    }

    /// Starts a server that takes one user, and whose configuration has these lines too.
    pub async fn start_with(
        scratch: &Scratch,
        login: Option<(&str, &str)>,
        more: &str,
    ) -> Result<Self, BrokerError> {
        let port = reserve()?;
        let directory = scratch.directory("nats").map_err(BrokerError::Directory)?;
        let users = login.map_or_else(String::new, |(user, password)| {
            format!("authorization {{ user: \"{user}\", password: \"{password}\" }}\n")
        });
        let settings = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{store}\" }}\n{users}{more}\n",
            port = port.number(),
            store = directory.join("store").display(),
        );
        let settings = write(directory.join("nats.conf"), &settings)?;
        let broker = Broker::start(
            PROGRAM,
            "nats-server",
            scratch,
            port,
            ["-c".into(), settings.into_os_string()],
            Vec::new(),
        )?;
        let mut nats = Self {
            broker,
            login: login.map(|(user, password)| (user.to_owned(), password.to_owned())),
        };
        nats.answering().await?;
        Ok(nats)
    }

    /// For `url` of a pipeline.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.broker.port())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.broker.pid()
    }

    /// Its process.
    pub fn broker(&mut self) -> &mut Broker {
        &mut self.broker
    }

    /// Kills it and starts it again.
    pub async fn restart(&mut self) -> Result<(), BrokerError> {
        self.broker.kill().await?;
        self.broker.start_again()?;
        self.answering().await
    }

    /// Makes a stream that takes the subject of its name.
    pub async fn create_stream(&self, name: &str) -> Result<(), BrokerError> {
        self.create_stream_with(name, -1).await
    }

    /// As [`create_stream`](Self::create_stream), for messages of at most so many bytes.
    pub async fn create_stream_with(
        &self,
        name: &str,
        max_message_size: i32,
    ) -> Result<(), BrokerError> {
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![name.to_owned()],
            max_message_size,
            ..stream::Config::default()
        };
        let created = self.jetstream().await?.create_stream(config).await;
        created
            .map(drop)
            .map_err(BrokerError::ask("creating a stream"))
    }

    /// What a stream holds, as Tide's envelopes.
    pub async fn deliveries(&self, stream: &str) -> Result<Vec<Delivery>, BrokerError> {
        readback::deliveries(stream, self.held(stream).await?)
    }

    /// What a stream holds.
    pub async fn held(&self, stream: &str) -> Result<Vec<readback::Held>, BrokerError> {
        let jetstream = self.jetstream().await?;
        let mut found = jetstream
            .get_stream(stream)
            .await
            .map_err(BrokerError::ask("finding the stream"))?;
        let last = found
            .info()
            .await
            .map_err(BrokerError::ask("describing the stream"))?
            .state
            .last_sequence;
        let mut held = Vec::new();
        for sequence in 1..=last {
            let message = found
                .get_raw_message(sequence)
                .await
                .map_err(BrokerError::ask("reading the stream"))?;
            let text = |headers: &HeaderMap, name: &str| {
                headers.get(name).map(|value| value.as_str().to_owned())
            };
            let headers = &message.headers;
            held.push(readback::Held {
                event_id: text(headers, "tide-event-id").unwrap_or_default(),
                key: text(headers, "tide-key"),
                headers: headers
                    .iter()
                    .filter_map(|(name, values)| {
                        Some((name.to_string(), values.first()?.as_str().to_owned()))
                    })
                    .collect(),
                body: message.payload.to_vec(),
            });
        }
        Ok(held)
    }

    async fn answering(&mut self) -> Result<(), BrokerError> {
        let (url, login) = (self.url(), self.login.clone());
        self.broker
            .answering(async || {
                let jetstream = connect(&url, login.as_ref()).await?;
                // Answered by JetStream itself, in the words of every version.
                match jetstream.stream_names().next().await {
                    Some(Err(error)) => Err(BrokerError::ask("asking for the streams")(error)),
                    Some(Ok(_)) | None => Ok(()),
                }
            })
            .await
    }

    async fn jetstream(&self) -> Result<jetstream::Context, BrokerError> {
        connect(&self.url(), self.login.as_ref()).await
    }
}

async fn connect(
    url: &str,
    login: Option<&(String, String)>,
) -> Result<jetstream::Context, BrokerError> {
    let mut options = ConnectOptions::new()
        .connection_timeout(PATIENCE)
        .request_timeout(Some(PATIENCE));
    if let Some((user, password)) = login {
        options = options.user_and_password(user.clone(), password.clone());
    }
    let client = options
        .connect(url)
        .await
        .map_err(BrokerError::ask("connecting"))?;
    Ok(jetstream::new(client))
}
