//! Connections: bounded in number, with TLS or without, and who is at the other end.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::access::{certificate, files::CredentialsReader, gate::Peer};

/// Open connections; the next one waits. An agent has one, an operator one for each command.
const MAX_CONNECTIONS: usize = 10_000;
/// Handshakes at once: they are what costs time.
const MAX_HANDSHAKES: usize = 256;
/// Whoever takes longer does not want to talk to us.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// After the system refused a connection, as it does when there are too many files.
const PAUSE: Duration = Duration::from_millis(100);

/// One connection. Its end makes room for another one.
pub(super) struct Connection {
    wire: Wire,
    peer: Peer,
    _room: OwnedSemaphorePermit,
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

struct Acceptor {
    listener: TcpListener,
    credentials: CredentialsReader,
    room: Arc<Semaphore>,
    handshakes: JoinSet<Option<Connection>>,
}

/// Every connection that is made, once it may speak. Never ends.
pub(super) fn connections(
    listener: TcpListener,
    credentials: CredentialsReader,
) -> impl Stream<Item = io::Result<Connection>> {
    let acceptor = Acceptor {
        listener,
        credentials,
        room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        handshakes: JoinSet::new(),
    };
    stream::unfold(acceptor, |mut acceptor| async {
        let connection = acceptor.next().await;
        Some((Ok(connection), acceptor))
    })
}

/// What happened first.
enum Turn {
    Shaken(Option<Connection>),
    Accepted(io::Result<(TcpStream, SocketAddr)>, OwnedSemaphorePermit),
}

impl Acceptor {
    async fn next(&mut self) -> Connection {
        loop {
            match self.turn().await {
                Turn::Shaken(Some(connection)) => return connection,
                Turn::Shaken(None) => {}
                Turn::Accepted(Ok((stream, address)), room) => {
                    if let Some(connection) = self.begin(stream, address, room) {
                        return connection;
                    }
                }
                Turn::Accepted(Err(error), _) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "a connection could not be accepted"
                    );
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn turn(&mut self) -> Turn {
        let accepted = async {
            let room = Arc::clone(&self.room).acquire_owned().await;
            let room = room.expect("nobody closes the semaphore");
            Turn::Accepted(self.listener.accept().await, room)
        };
        tokio::select! {
            Some(shaken) = self.handshakes.join_next() => Turn::Shaken(shaken.ok().flatten()),
            accepted = accepted, if self.handshakes.len() < MAX_HANDSHAKES => accepted,
        }
    }

    /// A connection without TLS is ready at once.
    fn begin(
        &mut self,
        stream: TcpStream,
        address: SocketAddr,
        room: OwnedSemaphorePermit,
    ) -> Option<Connection> {
        // Small messages must not wait for more of them; a peer that has gone needs no haste.
        drop(stream.set_nodelay(true));
        let tls = self.credentials.borrow().tls.clone();
        let Some(tls) = tls else {
            return Some(Connection {
                wire: Wire::Plain(stream),
                peer: Peer {
                    address: Some(address),
                    certificate: None,
                },
                _room: room,
            });
        };
        self.handshakes.spawn(async move {
            let shaken = timeout(HANDSHAKE_WITHIN, TlsAcceptor::from(tls).accept(stream)).await;
            let stream = match shaken {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    let error: &dyn std::error::Error = &error;
                    debug!(error, %address, "a TLS handshake failed");
                    return None;
                }
                Err(_) => {
                    debug!(%address, "a TLS handshake took too long");
                    return None;
                }
            };
            let shown = stream.get_ref().1.peer_certificates();
            let certificate = shown.and_then(<[CertificateDer<'_>]>::first);
            let peer = Peer {
                address: Some(address),
                certificate: certificate.map(|der| Arc::new(certificate::principal(der))),
            };
            Some(Connection {
                wire: Wire::Tls(Box::new(stream)),
                peer,
                _room: room,
            })
        });
        None
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Wire::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(context, buffer),
            Wire::Tls(stream) => Pin::new(stream).poll_write(context, buffer),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(context),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
