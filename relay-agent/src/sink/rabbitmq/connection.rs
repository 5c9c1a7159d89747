//! A connection with one channel that confirms, and which is really gone when it is dropped.
//!
//! The client serves every connection in a thread of its own, which goes on without us: it writes
//! what was queued, and waits for a handshake for as long as the other side is silent. So we keep
//! a hold on the socket and shut it.

use std::{
    io,
    net::{Shutdown, TcpStream},
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Arc, Mutex, PoisonError},
};

use lapin::{
    AsyncTcpStream, Channel, Connection as Client, ConnectionProperties,
    options::ConfirmSelectOptions,
    runtime::default_runtime,
    tcp::{AMQPUriTcpExt as _, OwnedTLSConfig},
    uri::{AMQPUri, AMQPUserInfo},
};
use tide_model::sink_spec::RabbitmqSpec;
use tokio::time::timeout;

use super::{CLOSE, CONNECT, SinkError, judge, secret};

/// Seconds without a word from the other side after which it is taken for dead.
const HEARTBEAT: u16 = 10;

pub(super) struct Connection {
    client: Client,
    channel: Channel,
    _socket: Socket,
}

impl Connection {
    pub(super) async fn open(spec: &RabbitmqSpec) -> Result<Self, SinkError> {
        let opened = timeout(CONNECT, Self::open_without_end(spec));
        opened.await.unwrap_or_else(|_| {
            Err(SinkError::unreachable(format!(
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
        let socket = Socket::default();
        let hold = Arc::clone(&socket.0);
        let client = Client::connector(
            address(spec)?,
            default_runtime().map_err(unconnected)?,
            async move |uri: AMQPUri, runtime| {
                let tls = OwnedTLSConfig::default();
                let connected = uri.connect_with_config_async(tls.as_ref(), &runtime);
                let stream = timeout(CONNECT, connected)
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                let kept = match &stream {
                    AsyncTcpStream::Plain(stream) => keep(&hold, stream.get_ref().as_fd()),
                    AsyncTcpStream::Rustls(stream) => {
                        keep(&hold, stream.get_ref().0.get_ref().as_fd())
                    }
                    _ => Err(io::Error::other("neither plain nor rustls")),
                };
                kept.map(|()| stream).map_err(Into::into)
            },
            properties,
        )
        .await
        .map_err(unconnected)?;
        let channel = client.create_channel().await.map_err(unconnected)?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(unconnected)?;
        Ok(Self {
            client,
            channel,
            _socket: socket,
        })
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

    /// Takes leave of the broker, which would log a warning otherwise; not for long.
    pub(super) async fn close(self) {
        drop(timeout(CLOSE, self.client.close(200, "closed".into())).await);
    }
}

/// A hold on the client's socket: dropping it ends the connection at once.
#[derive(Default)]
struct Socket(Arc<Mutex<Hold>>);

/// What there is to shut.
#[derive(Default)]
enum Hold {
    /// Nothing yet.
    #[default]
    Connecting,
    Connected(TcpStream),
    /// Whoever wanted the connection is gone.
    Abandoned,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut hold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Hold::Connected(socket) = std::mem::replace(&mut *hold, Hold::Abandoned) {
            // An error means that it is down already.
            drop(socket.shutdown(Shutdown::Both));
        }
    }
}

fn keep(hold: &Mutex<Hold>, socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut hold = hold.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*hold, Hold::Abandoned) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    *hold = Hold::Connected(TcpStream::from(socket.try_clone_to_owned()?));
    Ok(())
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

    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_handshake_that_is_given_up_ends_on_the_wire_too() {
        // A broker that listens, and is frozen.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let spec = RabbitmqSpec {
            url: format!("amqp://{}", listener.local_addr().unwrap()),
            exchange: String::new(),
            routing_key: "q".to_owned(),
            login: None,
            timeout: Duration::from_secs(1),
        };
        let mut heading = [0; 8];
        let mut accepted = tokio::select! {
            biased;
            _ = Connection::open(&spec) => panic!("nobody has answered"),
            accepted = async {
                let (mut accepted, _) = listener.accept().await.unwrap();
                accepted.read_exact(&mut heading).await.unwrap();
                accepted
            } => accepted,
        };
        assert_eq!(heading, *b"AMQP\0\0\x09\x01");
        // The attempt is dropped now.
        let ended = timeout(Duration::from_secs(30), accepted.read(&mut heading)).await;
        assert_eq!(ended.expect("the connection is still there").unwrap(), 0);
    }

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
