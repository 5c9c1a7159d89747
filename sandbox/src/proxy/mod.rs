//! A TCP proxy that misbehaves on command: the network between an agent and PostgreSQL.
//!
//! [`cut`](Proxy::cut) is a silent partition: both sides keep their sockets and hear nothing, not
//! even that the other side closed. [`heal`](Proxy::heal) delivers what was under way, as TCP does.
//! One difference to a real partition remains: a new connection is accepted while cut (the kernel
//! does that for us), and only then hears nothing.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

/// The most that is read at once.
const CHUNK: usize = 64 * 1024;

/// The proxy could not be started.
#[derive(Debug, thiserror::Error)]
#[error("could not listen for the proxy")]
pub struct ProxyError(#[source] io::Error);

/// A running proxy; dropping it closes everything that goes through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    _tasks: JoinSet<()>,
}

/// What every connection has to live with.
#[derive(Debug, Clone, Copy)]
struct Weather {
    passing: bool,
    delay: Duration,
    /// Where new connections go.
    target: SocketAddr,
    /// Connections that began under an earlier number are reset.
    era: u64,
}

/// How a connection came to its end.
enum End {
    Closed,
    Reset,
}

impl Proxy {
    /// Listens on a port of its own on 127.0.0.1 and forwards to `target`, without delay.
    pub async fn start(target: SocketAddr) -> Result<Self, ProxyError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(ProxyError)?;
        let address = listener.local_addr().map_err(ProxyError)?;
        let calm = Weather {
            passing: true,
            delay: Duration::ZERO,
            target,
            era: 0,
        };
        let (weather, watched) = watch::channel(calm);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, watched));
        Ok(Self {
            address,
            weather,
            _tasks: tasks,
        })
    }

    /// Like [`start`](Self::start), to a port on 127.0.0.1.
    pub async fn to_port(port: u16) -> Result<Self, ProxyError> {
        Self::start(SocketAddr::from(([127, 0, 0, 1], port))).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port it listens on, for [`Postgres::url_via`](crate::postgres::Postgres::url_via).
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Stops forwarding in both directions; sockets stay open. Also holds new connections.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.passing = false);
    }

    /// Forwards again, first what was held back.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| weather.passing = true);
    }

    /// Resets every connection there is (RST to both sides); new ones are fine.
    pub fn close_all(&self) {
        self.weather.send_modify(|weather| weather.era += 1);
    }

    /// Leads new connections to another port on 127.0.0.1, as a virtual address does after a
    /// failover; those that stand stay where they are.
    pub fn lead_to(&self, port: u16) {
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        self.weather.send_modify(|weather| weather.target = target);
    }

    /// Holds everything back for this long, in each direction. Zero turns it off.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }
}

async fn accept(listener: TcpListener, weather: watch::Receiver<Weather>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => Some(accepted),
            Some(_) = connections.join_next() => None,
        };
        // A failed accept concerns one client, which notices by itself.
        if let Some(Ok((client, _))) = accepted {
            connections.spawn(forward(client, weather.clone()));
        }
    }
}

async fn forward(client: TcpStream, mut weather: watch::Receiver<Weather>) {
    let born = weather.borrow().era;
    let mut resets = weather.clone();
    let reset = resets.wait_for(|weather| weather.era != born);
    let ended = tokio::select! {
        biased;
        _ = reset => None,
        server = connect(&mut weather) => Some(server),
    };
    match ended {
        Some(Ok(server)) => relay(client, server, born, weather).await,
        // The client sees what it would have seen from the target: a refusal.
        Some(Err(_)) | None => {
            let _ = client.set_zero_linger();
        }
    }
}

/// Nothing gets through a partition, the opening of a connection included.
async fn connect(weather: &mut watch::Receiver<Weather>) -> io::Result<TcpStream> {
    passing(weather).await?;
    let target = weather.borrow().target;
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    born: u64,
    weather: watch::Receiver<Weather>,
) {
    let mut resets = weather.clone();
    let _ = client.set_nodelay(true);
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(from_client, to_server, weather.clone());
        let down = pump(from_server, to_client, weather);
        tokio::select! {
            biased;
            _ = resets.wait_for(|weather| weather.era != born) => End::Reset,
            both = async { tokio::try_join!(up, down) } => match both {
                Ok(_) => End::Closed,
                Err(_) => End::Reset,
            },
        }
    };
    match end {
        End::Closed => {}
        End::Reset => {
            for stream in [&client, &server] {
                let _ = stream.set_zero_linger();
            }
        }
    }
}

/// Copies one direction until its end; errors and ends travel no faster than data.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await;
        let delay = weather.borrow().delay;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        passing(&mut weather).await?;
        match read? {
            0 => return to.shutdown().await,
            length => to.write_all(&chunk[..length]).await?,
        }
    }
}

async fn passing(weather: &mut watch::Receiver<Weather>) -> io::Result<()> {
    weather
        .wait_for(|weather| weather.passing)
        .await
        .map(drop)
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
