//! A connection with one channel that confirms.

use lapin::{
    Channel, Connection as Client, ConnectionProperties,
    options::ConfirmSelectOptions,
    uri::{AMQPUri, AMQPUserInfo},
};
use tide_model::sink_spec::RabbitmqSpec;
use tokio::time::timeout;

use super::{CONNECT, SinkError, judge, secret};

/// Seconds without a word from the other side after which it is taken for dead.
const HEARTBEAT: u16 = 10;

pub(super) struct Connection {
    client: Client,
    channel: Channel,
}

impl Connection {
    pub(super) async fn open(spec: &RabbitmqSpec) -> Result<Self, SinkError> {
        let opened = timeout(CONNECT, Self::open_without_end(spec));
        opened.await.unwrap_or_else(|_| {
            Err(SinkError::transient(format!(
                "{}: no connection within {CONNECT:?}",
                spec.url
            )))
        })
    }

    async fn open_without_end(spec: &RabbitmqSpec) -> Result<Self, SinkError> {
        let unconnected = |error: lapin::Error| judge::unconnected(&error, spec);
        // Does not connect again by itself: what was on the wire would have to be sent again, in
        // order, which is the worker's affair.
        let properties = ConnectionProperties::default().with_connection_name("tide-agent".into());
        let client = Client::connect_uri(address(spec)?, properties)
            .await
            .map_err(unconnected)?;
        let channel = client.create_channel().await.map_err(unconnected)?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(unconnected)?;
        Ok(Self { client, channel })
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn is_sound(&self) -> bool {
        self.client.status().connected() && self.channel.status().connected()
    }

    /// Whether the broker reads nothing from us, because it is short of something.
    pub(super) fn is_blocked(&self) -> bool {
        self.client.status().blocked()
    }
}

fn address(spec: &RabbitmqSpec) -> Result<AMQPUri, SinkError> {
    let mut address: AMQPUri = spec
        .url
        .parse()
        .map_err(|error| SinkError::misconfigured(format!("url: {}: {error}", spec.url)))?;
    // By the letter, a slash at the end names the virtual host "", which nobody has.
    if address.vhost.is_empty() {
        "/".clone_into(&mut address.vhost);
    }
    address.query.heartbeat.get_or_insert(HEARTBEAT);
    if let Some(login) = &spec.login {
        address.authority.userinfo = AMQPUserInfo {
            username: secret::resolve("username", login.username.as_deref().unwrap_or_default())?,
            password: secret::resolve("password", &login.password)?,
        };
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_url_names_the_virtual_host() {
        let vhost = |url: &str| {
            let spec = RabbitmqSpec {
                url: url.to_owned(),
                exchange: String::new(),
                routing_key: "q".to_owned(),
                login: None,
                timeout: Duration::from_secs(1),
            };
            address(&spec).map(|address| address.vhost)
        };
        assert_eq!(vhost("amqp://host").unwrap(), "/");
        assert_eq!(vhost("amqp://host:5672/").unwrap(), "/");
        assert_eq!(vhost("amqp://host:5672/%2f").unwrap(), "/");
        assert_eq!(vhost("amqps://host/shop").unwrap(), "shop");
        assert!(matches!(
            vhost("amqp://host:port"),
            Err(SinkError::Misconfigured { .. })
        ));
    }
}
