//! NATS with JetStream.

use std::{thread, time::Duration};

use async_nats::{
    ConnectOptions, HeaderMap,
    jetstream::{self, consumer::pull, stream},
};
use futures_util::StreamExt as _;
use tokio::{runtime, time::timeout};

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

/// Reads a stream, once for each question.
#[derive(Debug, Clone)]
pub struct StreamReader {
    url: String,
    login: Option<(String, String)>,
    stream: String,
}

impl StreamReader {
    /// What the stream holds, as Tide's envelopes.
    pub fn records(&self) -> Result<Vec<Delivery>, BrokerError> {
        // Readers of files and topics answer at once too; a runtime cannot wait inside another.
        let reading = thread::scope(|scope| scope.spawn(|| self.held()).join());
        let held = reading.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        readback::deliveries(&self.stream, held?)
    }

    fn held(&self) -> Result<Vec<readback::Held>, BrokerError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BrokerError::ask("preparing to read the stream"))?;
        runtime.block_on(async {
            held(
                &connect(&self.url, self.login.as_ref()).await?,
                &self.stream,
            )
            .await
        })
    }
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
        self.start_again().await
    }

    /// Starts it where it was, after it was killed.
    pub async fn start_again(&mut self) -> Result<(), BrokerError> {
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

    /// Reads a stream from wherever; it keeps the server's address, not the server.
    pub fn reader(&self, stream: &str) -> StreamReader {
        StreamReader {
            url: self.url(),
            login: self.login.clone(),
            stream: stream.to_owned(),
        }
    }

    /// What a stream holds.
    pub async fn held(&self, stream: &str) -> Result<Vec<readback::Held>, BrokerError> {
        held(&self.jetstream().await?, stream).await
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

async fn held(
    jetstream: &jetstream::Context,
    stream: &str,
) -> Result<Vec<readback::Held>, BrokerError> {
    let mut found = jetstream
        .get_stream(stream)
        .await
        .map_err(BrokerError::ask("finding the stream"))?;
    let count = found
        .info()
        .await
        .map_err(BrokerError::ask("describing the stream"))?
        .state
        .messages;
    let consumer = found
        .create_consumer(pull::OrderedConfig::default())
        .await
        .map_err(BrokerError::ask("reading the stream"))?;
    let mut messages = consumer
        .messages()
        .await
        .map_err(BrokerError::ask("reading the stream"))?;
    let mut held = Vec::new();
    while (held.len() as u64) < count {
        let message = timeout(PATIENCE, messages.next())
            .await
            .map_err(BrokerError::ask("waiting for the stream"))?;
        let Some(message) = message else {
            break;
        };
        let message = message.map_err(BrokerError::ask("reading the stream"))?;
        let text = |headers: &HeaderMap, name: &str| {
            headers.get(name).map(|value| value.as_str().to_owned())
        };
        let headers = message.headers.clone().unwrap_or_default();
        let headers = &headers;
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
