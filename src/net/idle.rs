//! A TCP connection that nobody can hold without speaking, for the doors of a node.
//!
//! Knows nothing of what is said on it, and leaves to its owner how many there may be: what the owner
//! counts them by is dropped with the connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// A connection whose reads fail with `TimedOut` once nothing has come for a while.
pub struct IdleStream<Place> {
    stream: TcpStream,
    idle: Duration,
    /// Runs out when nothing was read for too long.
    silence: Pin<Box<Sleep>>,
    _place: Place,
}

impl<Place> IdleStream<Place> {
    /// Bounds the silence on `stream` to `idle`; `place` is dropped with the connection.
    pub fn new(stream: TcpStream, idle: Duration, place: Place) -> Self {
        let silence = Box::pin(tokio::time::sleep(idle));
        IdleStream { stream, idle, silence, _place: place }
    }

    /// The connection itself, for its addresses.
    pub fn tcp(&self) -> &TcpStream {
        &self.stream
    }
}

impl<Place: Unpin> AsyncRead for IdleStream<Place> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            let until = Instant::now() + self.idle;
            self.silence.as_mut().reset(until);
            return Poll::Ready(read);
        }
        match self.silence.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<Place: Unpin> AsyncWrite for IdleStream<Place> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn who_speaks_stays_and_who_is_silent_is_let_go() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut served = IdleStream::new(stream, Duration::from_millis(300), ());
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            caller.write_all(b"x").await.unwrap();
            assert_eq!(served.read_u8().await.unwrap(), b'x');
        }
        let silent = tokio::time::timeout(Duration::from_secs(10), served.read_u8()).await;
        assert_eq!(silent.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
