//! RabbitMQ, and the name service of its own that every Erlang node needs.

use std::{collections::BTreeMap, time::Duration};

use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{
        BasicGetOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::time::timeout;

use super::{Broker, BrokerError, readback, reserve, write};
use crate::{
    envelope::Delivery,
    leftovers::Scratch,
    ports::Port,
    process::{Process, ProcessSpec},
};

/// Not Debian's wrapper of the same name, which wants to be another user.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const EPMD: &str = "/usr/bin/epmd";
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running broker; dropping it kills it.
#[derive(Debug)]
pub struct RabbitMq {
    broker: Broker,
    // Left alone by the broker's end, unlike one that the broker starts by itself.
    _names: Process,
    _ports: [Port; 2],
}

impl RabbitMq {
    /// Starts a broker whose configuration has these lines too. Takes some seconds.
    pub async fn start(scratch: &Scratch, more: &str) -> Result<Self, BrokerError> {
        let [port, names_port, distribution] = [reserve()?, reserve()?, reserve()?];
        let directory = scratch
            .directory("rabbitmq")
            .map_err(BrokerError::Directory)?;
        let names = Process::spawn(ProcessSpec {
            args: vec![
                "-address".into(),
                "127.0.0.1".into(),
                "-port".into(),
                names_port.number().to_string().into(),
            ],
            log_path: directory.join("epmd.log"),
            ..ProcessSpec::new("epmd", EPMD, scratch)
        })
        .map_err(BrokerError::Process)?;
        let settings = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nloopback_users = none\nlog.console = true\n{more}\n",
            port.number()
        );
        let settings = write(directory.join("rabbitmq.conf"), &settings)?;
        let plugins = write(directory.join("enabled_plugins"), "[].\n")?;
        let at = |name: &str| directory.join(name).display().to_string();
        let env = [
            ("HOME", directory.display().to_string()),
            (
                "RABBITMQ_NODENAME",
                format!("tide-{}@localhost", port.number()),
            ),
            ("RABBITMQ_NODE_PORT", port.number().to_string()),
            ("RABBITMQ_DIST_PORT", distribution.number().to_string()),
            ("ERL_EPMD_PORT", names_port.number().to_string()),
            ("RABBITMQ_MNESIA_BASE", at("data")),
            ("RABBITMQ_LOG_BASE", at("logs")),
            ("RABBITMQ_LOGS", "-".to_owned()),
            (
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                plugins.display().to_string(),
            ),
            ("RABBITMQ_CONFIG_FILE", settings.display().to_string()),
            ("RABBITMQ_PID_FILE", at("pid")),
            // Two schedulers that do not spin, and nobody from outside.
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 2:2 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}".to_owned(),
            ),
            // The virtual machine instead of a shell around it, so that a signal reaches it.
            ("RUNNING_UNDER_SYSTEMD", "1".to_owned()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).into();
        let none: [&str; 0] = [];
        let broker = Broker::start(PROGRAM, "rabbitmq-server", scratch, port, none, env)?;
        let mut rabbitmq = Self {
            broker,
            _names: names,
            _ports: [names_port, distribution],
        };
        rabbitmq.answering().await?;
        Ok(rabbitmq)
    }

    /// For `url` of a pipeline.
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.broker.port())
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

    /// Declares a durable queue.
    pub async fn declare_queue(&self, name: &str) -> Result<(), BrokerError> {
        let (_connection, channel) = connect(&self.url()).await?;
        let declared = channel
            .queue_declare(
                name.into(),
                QueueDeclareOptions::durable(),
                FieldTable::default(),
            )
            .await;
        declared
            .map(drop)
            .map_err(BrokerError::ask("declaring a queue"))
    }

    /// Declares a durable exchange of kind direct.
    pub async fn declare_exchange(&self, name: &str) -> Result<(), BrokerError> {
        let (_connection, channel) = connect(&self.url()).await?;
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        channel
            .exchange_declare(
                name.into(),
                lapin::ExchangeKind::Direct,
                options,
                FieldTable::default(),
            )
            .await
            .map_err(BrokerError::ask("declaring an exchange"))
    }

    /// Binds a queue to an exchange.
    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), BrokerError> {
        let (_connection, channel) = connect(&self.url()).await?;
        channel
            .queue_bind(
                queue.into(),
                exchange.into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(BrokerError::ask("binding a queue"))
    }

    /// What a queue holds, as Tide's envelopes.
    pub async fn deliveries(&self, queue: &str) -> Result<Vec<Delivery>, BrokerError> {
        readback::deliveries(queue, self.held(queue).await?)
    }

    /// What a queue holds. Nothing is taken out of it.
    pub async fn held(&self, queue: &str) -> Result<Vec<readback::Held>, BrokerError> {
        let (connection, channel) = connect(&self.url()).await?;
        let mut held = Vec::new();
        while let Some(message) = channel
            .basic_get(queue.into(), BasicGetOptions::default())
            .await
            .map_err(BrokerError::ask("reading a queue"))?
        {
            let properties = &message.properties;
            let table = properties.headers().clone().unwrap_or_default();
            let mut headers: BTreeMap<String, String> = table
                .inner()
                .iter()
                .filter_map(|(name, value)| match value {
                    AMQPValue::LongString(text) => Some((name.to_string(), text.to_string())),
                    _ => None,
                })
                .collect();
            // A property, which other brokers have among the headers.
            headers.extend(
                properties
                    .content_type()
                    .iter()
                    .map(|kind| ("content-type".to_owned(), kind.to_string())),
            );
            held.push(readback::Held {
                event_id: properties
                    .message_id()
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                key: headers.remove("tide-key"),
                headers,
                body: message.data.clone(),
            });
        }
        // Nothing was acknowledged: all of it goes back to where it was.
        connection
            .close(200, "read".into())
            .await
            .map_err(BrokerError::ask("closing"))?;
        Ok(held)
    }

    async fn answering(&mut self) -> Result<(), BrokerError> {
        let url = self.url();
        self.broker
            .answering(async || {
                let (_connection, channel) = connect(&url).await?;
                let confirms = channel
                    .confirm_select(ConfirmSelectOptions::default())
                    .await;
                confirms.map_err(BrokerError::ask("asking for confirms"))
            })
            .await
    }
}

async fn connect(url: &str) -> Result<(Connection, Channel), BrokerError> {
    let connected = async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok::<_, lapin::Error>((connection, channel))
    };
    timeout(PATIENCE, connected)
        .await
        .map_err(BrokerError::ask("connecting"))?
        .map_err(BrokerError::ask("connecting"))
}
