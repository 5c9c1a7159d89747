//! Connections that a handler can cut off: HTTP has no other way to give no answer.

use std::{
    future::Future as _,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener as Accept},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub(super) struct Listener(TcpListener);

/// A handler's hold on the connection that its request came by.
#[derive(Debug, Clone)]
pub(super) struct Hold(CancellationToken);

/// A connection that ends when its hold is severed.
pub(super) struct Severable {
    stream: TcpStream,
    hold: Hold,
    severed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Listener {
    pub(super) async fn bind() -> io::Result<Self> {
        TcpListener::bind("127.0.0.1:0").await.map(Self)
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Hold {
    /// Closes the connection without another byte.
    pub(super) fn sever(&self) {
        self.0.cancel();
    }
}

impl Accept for Listener {
    type Io = Severable;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Accept::accept(&mut self.0).await;
        let token = CancellationToken::new();
        let severed = Box::pin(token.clone().cancelled_owned());
        (
            Severable {
                stream,
                hold: Hold(token),
                severed,
            },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.address()
    }
}

impl Connected<IncomingStream<'_, Listener>> for Hold {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.io().hold.clone()
    }
}

impl AsyncRead for Severable {
    /// The server reads even while a handler is at work, to notice a client that goes away: this
    /// is where it learns that the connection is over.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.severed.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        pin!(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Severable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        pin!(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_shutdown(context)
    }
}
