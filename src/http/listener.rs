//! A listener that holds few connections, and none for long that is silent.
//!
//! A connection past the bound waits in the system's queue until one is closed; silence closes one,
//! so that idle or stuck callers cannot keep probes out for ever.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use slog::{Logger, warn};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use crate::limits;

/// After a failed accept (no file descriptors, say) the listener rests this long.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Silence after which a connection is closed.
const IDLE: Duration = Duration::from_millis(limits::HTTP_IDLE_MS_MAX);

/// The listener.
pub(super) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    logger: Logger,
}

impl Bounded {
    /// Bounds `listener`.
    pub(super) fn new(listener: TcpListener, logger: Logger) -> Self {
        let places = Arc::new(Semaphore::new(limits::HTTP_CONNECTIONS_MAX));
        Bounded { listener, places, logger }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place =
            Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    let silence = Box::pin(tokio::time::sleep(IDLE));
                    return (Connection { stream, silence, _place: place }, from);
                }
                Err(error) => {
                    warn!(self.logger, "HTTP cannot accept a connection";
                        "error" => error.to_string());
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that counts among those open.
pub(super) struct Connection {
    stream: TcpStream,
    /// Runs out when nothing was read for too long.
    silence: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            self.silence.as_mut().reset(Instant::now() + IDLE);
            return Poll::Ready(read);
        }
        match self.silence.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
